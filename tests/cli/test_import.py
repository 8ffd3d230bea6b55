"""Labels that other people or tools made, through the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.cache.reader import CacheReader
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.evaluate import logits_of
from distill_cli.files import one_writer
from distill_cli.models import load_model
from distill_cli.pipeline.labels.label_rows import LEAST, as_logits
from tests.cli.test_cache import picture, shapes
from tests.cli.test_faults import one_line
from tests.conftest import Outcome

Distill = Callable[..., Outcome]
Rows = list[list[object]]

DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


def voted(data: Dataset, annotators: int = 5) -> torch.Tensor:
    """Votes of people who are mostly right, (N, K)."""
    generator = torch.Generator().manual_seed(0)
    right_NA = data.train.label_N[:, None].expand(-1, annotators)
    other_NA = torch.randint(0, 10, right_NA.shape, generator=generator)
    wrong_NA = torch.rand(right_NA.shape, generator=generator) < 0.3
    return torch.nn.functional.one_hot(other_NA.where(wrong_NA, right_NA), 10).sum(dim=1)


def table(data: Dataset, votes_NK: torch.Tensor, classes: Sequence[str] = DIGITS) -> Rows:
    """Header and rows of a CSV, the classes in this order."""
    order = [DIGITS.index(name) for name in classes]
    pairs = zip(data.train.sample_ids, votes_NK[:, order].tolist(), strict=True)
    return [["sample", *classes], *([name, *row] for name, row in pairs)]


def write(path: Path, rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def brought_in(distill: Distill, file: object, *args: object, out: str = "c") -> Outcome:
    return distill("cache", "import", file, "--data", "digits", "--out", out, *args)


def stored(folder: Path, view: int = 0) -> torch.Tensor:
    """All of a cache's logits, (N, K)."""
    reader = CacheReader(folder)
    index_N = torch.arange(reader.plan.dataset.samples)
    logits_NK = reader.codec.logits(reader.gather(index_N, torch.full_like(index_N, view)))
    assert logits_NK is not None
    return logits_NK


def files_of(folder: Path) -> dict[str, bytes]:
    names = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


@pytest.fixture
def votes(here: Path, digits: Dataset) -> Path:
    return write(here / "votes.csv", table(digits, voted(digits)))


def test_people_teach_a_student(votes: Path, here: Path, digits: Dataset, distill: Distill) -> None:
    outcome = brought_in(
        distill, votes, "--views", 2, "--augment", "shift:1", "--val-fraction", 0.2
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "c"
    assert "held-out images" in outcome.err
    votes_NK = voted(digits).double()
    for view in (0, 1):
        shares_NK = stored(here / "c", view).double().softmax(dim=-1)
        torch.testing.assert_close(
            shares_NK, votes_NK / votes_NK.sum(dim=1, keepdim=True), atol=2e-7, rtol=0
        )
    outcome = distill(
        *("student", "--teachers", "c", "--model", "mlp_16x1", "--epochs", 4, "-b", 32),
        *("--lr", 0.2, "-T", 1, "--out", "s"),
    )
    assert outcome.code == 0, outcome.err
    assert "teacher c: right on" in outcome.err
    found = json.loads((here / "s/result.json").read_text())
    assert found["test_top1"] > 0.6
    assert found["teacher_agreement"] is None
    assert found["teacher_kl"] is None
    recipe = (here / "s/recipe.yaml").read_text()
    assert "val_fraction: 0.2" in recipe
    assert "shift:1" in recipe


def test_info_and_verify(votes: Path, here: Path, distill: Distill) -> None:
    said = json.loads(brought_in(distill, votes, "--json", "--quiet").out)["caches"][0]
    assert said["finished"]
    assert said["samples"] == 1438
    described = json.loads(distill("cache", "info", "c", "--json").out)["caches"][0]
    assert described["teacher"] == "imported-votes"
    assert described["teacher_accuracy"] == pytest.approx(0.97, abs=0.03)
    assert distill("cache", "info", "c", "-T", 3).code == 0
    assert distill("cache", "verify", "c", "--quiet").code == 0
    replayed = distill("cache", "verify", "c", "--sample", 4, "--quiet")
    assert replayed.code == 2
    assert "no teacher to ask again" in one_line(replayed)
    shard = here / "c/view-0000/shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    damaged = distill("cache", "verify", "c", "--quiet")
    assert damaged.code == 3
    assert "Rerun cache import" in one_line(damaged)
    student = distill("student", "--teachers", "c", "--model", "mlp_8x1", "--quiet", "--out", "s")
    assert student.code == 3
    assert "Rerun cache import" in one_line(student)


def test_rerun_overwrite_and_another_file(
    votes: Path, here: Path, digits: Dataset, distill: Distill
) -> None:
    assert brought_in(distill, votes, "--shard-length", 500, "--views", 2).code == 0
    first = files_of(here / "c")
    again = brought_in(distill, votes, "--shard-length", 500, "--views", 2)
    assert again.code == 0
    assert "nothing was left to do" in again.err
    assert files_of(here / "c") == first
    (here / "c/manifest.json").unlink()
    (here / "c/view-0001/shard-00001.safetensors").unlink()
    unfinished = distill("student", "--teachers", "c", "--quiet")
    assert unfinished.code == 3
    assert "rerun cache import" in one_line(unfinished)
    assert brought_in(distill, votes, "--shard-length", 500, "--views", 2, "--quiet").code == 0
    assert files_of(here / "c") == first
    changed = voted(digits)
    changed[7] += 1
    other = write(here / "other.csv", table(digits, changed))
    refused = brought_in(distill, other, "--shard-length", 500, "--views", 2, "--quiet")
    assert refused.code == 3
    assert "teacher.fingerprint" in one_line(refused)
    assert files_of(here / "c") == first
    with one_writer(here / "c"):
        assert brought_in(distill, other, "--overwrite", "--quiet").code == 2
    assert brought_in(distill, other, "--overwrite", "--codec", "topk:3", "--quiet").code == 0
    assert CacheReader(here / "c").views == 1


def test_a_stopped_import_goes_on(
    votes: Path, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from distill_cli.cache.writer import CacheWriter

    args = (votes, "--shard-length", 500, "--quiet")
    assert brought_in(distill, *args, out="whole").code == 0
    commit = CacheWriter.commit

    def stopped(self: CacheWriter, *rest: object) -> None:
        commit(self, *rest)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "commit", stopped)
        outcome = brought_in(distill, *args)
    assert outcome.code == 143
    assert outcome.err.startswith("stopped after 500 of 1,438 views. "), "and no error"
    assert not (here / "c/manifest.json").exists()
    assert brought_in(distill, *args).code == 0
    assert files_of(here / "c") == files_of(here / "whole")


def test_columns_go_by_name_and_rows_by_sample(
    votes: Path, here: Path, digits: Dataset, distill: Distill
) -> None:
    classes = ["3", "1", "9", "0", "2", "8", "4", "6", "5", "7"]
    header, *rows = table(digits, voted(digits), classes)
    rows += [[name, *[""] * 10] for name in digits.test.sample_ids]
    shuffled = write(here / "shuffled.csv", [header, *reversed(rows), []])
    outcome = brought_in(distill, shuffled)
    assert outcome.code == 0, outcome.err
    assert "left out 359 rows" in outcome.err
    assert brought_in(distill, votes, "--quiet", out="d").code == 0
    found, plain = files_of(here / "c"), files_of(here / "d")
    assert found.pop("recipe.yaml") != plain.pop("recipe.yaml")
    assert found == plain


def test_a_files_logits_are_a_dumps_to_the_bit(
    here: Path, digits: Dataset, distill: Distill
) -> None:
    outcome = distill(
        *("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--epochs", 3),
        *("--augment", "none", "-b", 32, "--lr", 0.2, "--out", "t", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    network = load_model(here / "t/model").eval()
    index_N = torch.arange(len(digits.train.label_N))
    # As a dump has it: in batches of 256, the last one padded.
    images = [
        torch.cat([part, part[-1:].expand(256 - len(part), -1, -1, -1)])
        for part in digits.train.images_NCHW.split(256)
    ]
    logits_NK = logits_of(network, images, torch.device("cpu"))[: len(index_N)]
    arrays = {"logits": logits_NK.numpy(), "classes": np.array(DIGITS)}
    np.savez(here / "plain.npz", logits=arrays["logits"])
    mixed_N = torch.randperm(len(index_N), generator=torch.Generator().manual_seed(0)).numpy()
    names = np.array(digits.train.sample_ids)[mixed_N]
    np.savez_compressed(
        here / "named.npz",
        logits=arrays["logits"][mixed_N][:, ::-1].astype(np.float64),
        samples=np.char.encode(names, "utf-8"),
        classes=arrays["classes"][::-1],
    )
    outcome = brought_in(distill, "plain.npz", out="plain")
    assert outcome.code == 0, outcome.err
    assert "names no samples: taken in sorted order, index:0 first" in outcome.err
    assert "names no classes: taken in the data's order, 0 first" in outcome.err
    assert brought_in(distill, "named.npz", "--kind", "logits", out="named").code == 0
    outcome = distill(
        *("cache-soft-labels", "--teachers", "t", "--augment", "none", "--views", 1),
        *("--out", "dump", "--quiet", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    for name in ("plain", "named"):
        assert torch.equal(stored(here / name), stored(here / "dump"))
        imported, dumped = CacheReader(here / name), CacheReader(here / "dump")
        theirs, ours = dumped.eval_rows("val"), imported.eval_rows("val")
        assert theirs is not None
        assert ours is not None
        assert torch.equal(ours[1], theirs[1])
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)
        assert imported.eval_rows("test") is None
        assert imported.probe is not None
        assert dumped.probe is not None
        assert torch.equal(imported.probe.images_PCHW, dumped.probe.images_PCHW)
    # A cache of either sort is one of an ensemble.
    outcome = distill(
        *("student", "--teachers", "plain,dump", "--model", "mlp_8x1", "--epochs", 1, "--quiet"),
        *("--out", "s"),
    )
    assert outcome.code == 0, outcome.err


def test_probabilities_and_smoothing(
    votes: Path, here: Path, digits: Dataset, distill: Distill
) -> None:
    smoothed_NK = (voted(digits) + 0.5).double()
    shares_NK = smoothed_NK / smoothed_NK.sum(dim=1, keepdim=True)
    np.savez(here / "p.npz", probabilities=shares_NK.numpy())
    assert brought_in(distill, "p.npz", "--quiet", out="p").code == 0
    assert brought_in(distill, votes, "--smoothing", 0.5, "--quiet", out="v").code == 0
    assert torch.equal(stored(here / "p"), stored(here / "v"))
    refused = brought_in(distill, "p.npz", "--smoothing", 0.5, "--quiet", out="x")
    assert refused.code == 2
    assert "p.npz holds probabilities" in one_line(refused)


def cell(row: int, column: int, value: object) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[row][column] = value

    return change


def votes_of(row: int, *values: object) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[row][1:] = values

    return change


@pytest.mark.parametrize(
    ("change", "flags", "code", "said"),
    [
        (cell(0, 0, "id"), (), 3, "the first column should be 'sample', is 'id'"),
        (cell(0, 4, "three"), (), 3, "the data have no class 'three'"),
        (cell(0, 4, "4"), (), 3, "no column for 1 class: 3"),
        (lambda rows: [row.append("3") for row in rows], (), 3, "several columns for class '3'"),
        (lambda rows: [row.pop() for row in rows], (), 3, "no column for 1 class: 9"),
        (lambda rows: rows[3].pop(), (), 3, "line 4: sample 'index:100' has 9 numbers"),
        (lambda rows: rows.__delitem__(slice(1, 6)), (), 3, "no label for 5 samples: index:0, "),
        (lambda rows: rows.__delitem__(slice(1, None)), (), 3, "no label for 1,438 samples"),
        (lambda rows: rows.append(rows[1]), (), 3, "several labels for 1 sample: index:0."),
        (lambda rows: rows.append(["cat/1.png"] * 11), (), 3, "do not have 1 sample: cat/1.png."),
        (
            cell(2, 3, -1),
            (),
            3,
            "'index:10' has votes below 0: -1. If these are logits, say --kind logits",
        ),
        (cell(2, 3, "nan"), (), 3, "'index:10' has a cell that is no number"),
        (cell(2, 3, ""), (), 3, "'index:10' has a cell that is no number"),
        (cell(2, 3, "1_0"), (), 3, "'index:10' has a cell that is no number"),
        (cell(2, 3, "inf"), (), 3, "'index:10' has votes that are too large"),
        (cell(2, 3, "1e308"), (), 0, ""),
        (votes_of(2, *["1e308"] * 10), (), 3, "'index:10' has votes that are too large"),
        (votes_of(2, *[0] * 10), (), 3, "'index:10' has no votes"),
        (votes_of(2, *[0] * 10), ("--smoothing", 1), 3, "'index:10' has no votes"),
        (cell(2, 3, -1e39), ("--kind", "logits"), 3, "'index:10' has logits that are too large"),
        (cell(2, 3, 1), ("--kind", "probabilities"), 3, "'index:0' has probabilities that sum"),
        (cell(1, 1, 1), ("--kind", "guesses"), 2, "kind"),
        (cell(1, 1, 1), ("--kind", "logits", "--smoothing", 1), 2, "adds votes"),
        (cell(1, 1, 1), ("--smoothing", -1), 2, "smoothing"),
        (cell(1, 1, 1), ("--augment", "shift,mixup"), 2, "mixes two images"),
        (cell(1, 1, 1), ("--augment", "sihft"), 2, "shift"),
        (cell(1, 1, 1), ("--views", 0), 2, "views"),
    ],
)
def test_what_is_refused(
    here: Path,
    digits: Dataset,
    distill: Distill,
    change: Callable[[Rows], None],
    flags: tuple[object, ...],
    code: int,
    said: str,
) -> None:
    rows = table(digits, voted(digits))
    change(rows)
    outcome = brought_in(distill, write(here / "votes.csv", rows), "--quiet", *flags)
    assert outcome.code == code, outcome.err
    if code:
        assert said in one_line(outcome)
        assert not (here / "c").exists()


def test_no_file_of_labels(votes: Path, here: Path, distill: Distill) -> None:
    (here / "folder").mkdir()
    (here / "latin.csv").write_bytes(b"sample,\xe9\n")
    (here / "nul.csv").write_bytes(b"sample,0\na\0,1\n")
    (here / "empty.csv").write_bytes(b"")
    (here / "text.npz").write_text("sample,0,1\n")
    (here / "torn.npz").write_bytes(b"PK\x03\x04 and no more")
    np.save(here / "one.npy", np.zeros((3, 2)))
    (here / "one.npy").rename(here / "one.npz")
    for file, code, said in (
        ("nowhere.csv", 2, "'nowhere.csv' do not exist"),
        ("folder", 2, "are no file"),
        ("latin.csv", 3, "no UTF-8 text"),
        ("nul.csv", 3, "nul.csv"),
        ("empty.csv", 3, "first column should be 'sample'"),
        ("text.npz", 3, "text.npz cannot be read"),
        ("torn.npz", 3, "torn.npz cannot be read"),
        ("one.npz", 3, "is one array"),
    ):
        outcome = brought_in(distill, file, "--quiet")
        assert outcome.code == code, (file, outcome.err)
        assert said in one_line(outcome)
    assert distill("cache", "import", "--data", "digits", "--quiet").code == 2
    no_data = distill("cache", "import", "votes.csv", "--quiet")
    assert no_data.code == 2
    assert "--data" in one_line(no_data)
    assert not (here / "c").exists()


N, K = 1438, 10


@pytest.mark.parametrize(
    ("arrays", "flags", "code", "said"),
    [
        ({"labels": np.ones((N, K))}, (), 3, "no array 'votes or probabilities or logits'"),
        ({"votes": np.ones((N, K))}, ("--kind", "logits"), 3, "no array 'logits', it has: votes"),
        ({"votes": np.ones((N, K)), "logits": np.ones((N, K))}, (), 2, "Say which with --kind"),
        ({"votes": np.ones(N)}, (), 3, "of shape (1438,)"),
        ({"votes": np.ones((N, K), dtype=complex)}, (), 3, "'votes' is complex128"),
        ({"votes": np.full((N, K), "1")}, (), 3, "should be numbers"),
        ({"votes": np.full((N, K), 1, dtype=object)}, (), 3, "cannot be read: Object arrays"),
        ({"votes": np.ones((N - 1, K))}, (), 3, "1,437 rows, the train split has 1,438"),
        ({"votes": np.ones((N, K + 1))}, (), 3, "has 11 classes, the data have 10"),
        ({"votes": np.ones((N, K)), "samples": np.array(["a"])}, (), 3, "there are 1 samples"),
        ({"votes": np.ones((N, K)), "classes": np.arange(K)}, (), 3, "'classes' is int64"),
        ({"votes": np.ones((N, K)), "classes": np.array([b"\xff"] * K)}, (), 3, "no UTF-8"),
        (
            {"votes": np.ones((N, K)), "classes": np.array(["0"] * K)},
            (),
            3,
            "no column for 9 classes: 1, 2, 3, …",
        ),
        ({"votes": np.ones((N, K), dtype=np.float16)}, (), 3, "no better than chance"),
    ],
)
def test_what_is_refused_of_an_npz(
    here: Path,
    distill: Distill,
    arrays: dict[str, np.ndarray],
    flags: tuple[object, ...],
    code: int,
    said: str,
) -> None:
    np.savez(here / "labels.npz", **arrays)
    outcome = brought_in(distill, "labels.npz", "--quiet", *flags)
    assert outcome.code == code, outcome.err
    assert said in one_line(outcome)
    assert not (here / "c").exists()


def test_another_order_is_no_better_than_chance(
    here: Path, digits: Dataset, distill: Distill
) -> None:
    votes_NK = voted(digits).numpy()
    mixed_N = np.random.default_rng(0).permutation(len(votes_NK))
    for name, wrong in (("classes", np.roll(votes_NK, 1, axis=1)), ("rows", votes_NK[mixed_N])):
        np.savez(here / f"{name}.npz", votes=wrong)
        outcome = brought_in(distill, f"{name}.npz", "--quiet", out=name)
        assert outcome.code == 3
        assert "no better than chance" in one_line(outcome)
        assert "another order" in one_line(outcome)
        assert not (here / name).exists()
    assert brought_in(distill, "rows.npz", "--force", "--quiet").code == 0


def folders(here: Path) -> None:
    """data/ of two classes with a val/, an image without a label, and one name in both classes."""
    root = shapes(here / "data", per_class=20)
    shutil.copytree(root / "test", root / "val")
    for path in (root / "val").rglob("*.png"):
        path.rename(path.with_name(f"v{path.name}"))
    for path in [p for p in (root / "train/rows").iterdir() if p.name != "00.png"]:
        path.rename(path.with_name(f"r{path.name}"))
    picture(root / "train/loose.png", 1, torch.Generator().manual_seed(3))


def test_file_names_a_val_folder_and_images_without_labels(here: Path, distill: Distill) -> None:
    folders(here)
    rows = [[f"{n:02d}.png", 3, 1] for n in range(1, 20)]
    rows += [[f"r{n:02d}.png", 1, 4] for n in range(1, 20)]
    rows += [["loose.png", 0, 2], ["v07.png", "", ""], ["bars/v03.png", "", ""]]
    header = ["sample", "bars", "rows"]
    both = [["bars/00.png", 3, 1], ["rows/00.png", 1, 3]]
    args = ("cache", "import", "votes.csv", "--data", "data", "--out", "c")
    write(here / "votes.csv", [header, *rows, ["00.png", 1, 1]])
    unclear = distill(*args, "--quiet")
    assert unclear.code == 3
    assert "several images may be meant by 1 sample: 00.png" in one_line(unclear)
    write(here / "votes.csv", [header, *rows, *both])
    outcome = distill(*args)
    assert outcome.code == 0, outcome.err
    assert "right on 100.0 % of 40 training images" in outcome.err
    assert "left out 2 rows of images outside train" in outcome.err
    assert CacheReader(here / "c").eval_rows("val") is None
    assert CacheReader(here / "c").manifest.labelled == 40
    student = ("student", "--teachers", "c", "--model", "mlp_8x1", "--epochs", 1, "--out", "s")
    outcome = distill(*student)
    assert outcome.code == 0, outcome.err
    write(here / "votes.csv", [["sample", "rows", "bars"], *rows, *both])
    refused = distill(*args, "--overwrite", "--quiet")
    assert refused.code == 3
    assert "of 40 training images" in one_line(refused)


def test_images_that_are_skipped(here: Path, distill: Distill) -> None:
    root = shapes(here / "data")
    (root / "train/bars/05.png").write_bytes(b"no image")
    (root / "test/bars/05.png").unlink()
    rows = [[f"bars/{n:02d}.png", 3, 1] for n in range(24)]
    rows += [[f"rows/{n:02d}.png", 1, 3] for n in range(24)]
    args = ("cache", "import", "votes.csv", "--data", "data", "--skip-bad", "--out", "c")
    write(here / "votes.csv", [["sample", "bars", "rows"], *rows])
    outcome = distill(*args)
    assert outcome.code == 0, outcome.err
    assert "left out 1 row of images that were skipped" in outcome.err
    student = ("student", "--teachers", "c", "--model", "mlp_8x1", "--epochs", 1, "--out", "s")
    assert distill(*student, "--quiet").code == 0
    write(here / "votes.csv", [["sample", "bars", "rows"], *rows, ["bars/99.png", 1, 1]])
    assert distill(*args, "--quiet").code == 3


def test_dry_run_and_recipe(votes: Path, here: Path, distill: Distill) -> None:
    dry = brought_in(distill, votes.name, "--dry-run", "--quiet")
    assert dry.code == 0, dry.err
    assert not (here / "c").exists()
    (here / "mine.yaml").write_text(dry.out)
    assert distill("recipes", "validate", "mine.yaml").code == 0
    outcome = distill("recipes", "run", "mine.yaml", "--quiet")
    assert outcome.code == 0, outcome.err
    assert distill("cache", "verify", "c", "--quiet").code == 0
    assert "import" in distill("cache", "--help").out


@given(
    st.lists(st.floats(0, 1e6) | st.integers(0, 20), min_size=2, max_size=12),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_votes_come_back_as_shares(votes: list[float], smoothing: float) -> None:
    given_1K = np.array([votes], dtype=np.float64)
    if not given_1K.sum() > 1e-3:
        given_1K[0, 0] = 1
    logits_1K = torch.from_numpy(as_logits(given_1K, "votes", smoothing).astype(np.float32))
    counted_K = given_1K[0] + smoothing
    exact_K = torch.from_numpy(counted_K / counted_K.sum())
    found_K = logits_1K[0].double().softmax(dim=-1)
    # What a class without votes is lifted to, and fp32's rounding of a logarithm.
    torch.testing.assert_close(found_K, exact_K, atol=len(votes) * LEAST + 2e-6, rtol=0)
    order = np.argsort(counted_K, kind="stable")
    assert (np.diff(logits_1K[0].numpy()[order]) >= 0).all()
    scaled_1K = as_logits(4 * given_1K, "votes", 4 * smoothing)
    np.testing.assert_array_equal(scaled_1K, as_logits(given_1K, "votes", smoothing))
