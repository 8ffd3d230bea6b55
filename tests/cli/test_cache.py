"""The soft-label cache through the command line: what it refuses, and what it is good for."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cli.test_faults import one_line
from tests.conftest import Made, Outcome
from tests.processes import start

Distill = Callable[..., Outcome]
STUDENT = ("--model", "mlp_8x1", "--epochs", 2, "--quiet")


def shapes(root: Path, per_class: int = 24, classes: tuple[str, ...] = ("bars", "rows")) -> Path:
    """Striped images that any network can tell apart, in train/ and test/."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(per_class):
                picture(root / split / name / f"{index:02d}.png", label, generator)
    return root


def picture(path: Path, label: int, generator: torch.Generator) -> None:
    pixels = torch.randint(0, 60, (12, 12, 3), generator=generator, dtype=torch.uint8)
    (pixels if label else pixels.transpose(0, 1))[::2] += 180
    Image.fromarray(pixels.numpy()).save(path)


@pytest.fixture
def dumped(here: Path, distill: Distill) -> Path:
    """data/, its teacher t and the cache c of two views, in the working folder."""
    shapes(here / "data")
    outcome = distill(
        *("teacher", "train", "--data", "data", "--model", "mlp_16x1", "--epochs", 8),
        *("--lr", 0.1, "-b", 8, "--augment", "crop:1,flip", "--out", "t", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    outcome = distill(
        *("cache-soft-labels", "--teachers", "t", "--views", 2, "--augment", "crop:1,flip"),
        *("--shard-length", 16, "--teacher-batch", 8, "--out", "c", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    return here


def student(distill: Distill, *args: object, teacher: str = "c") -> Outcome:
    return distill("student", "--teachers", teacher, "--out", "s", *STUDENT, *args)


def dump(distill: Distill, *args: object, out: str = "c") -> Outcome:
    # Lists add up where their flag is given again.
    augment = () if "--augment" in args else ("--augment", "crop:1,flip")
    return distill(
        *("cache-soft-labels", "--teachers", "t", "--views", 2, *augment),
        *("--shard-length", 16, "--teacher-batch", 8, "--out", out, "--quiet", *args),
    )


def added(data: Path) -> None:
    picture(data / "train/bars/99.png", 0, torch.Generator())


def removed(data: Path) -> None:
    (data / "train/bars/03.png").unlink()


def renamed(data: Path) -> None:
    (data / "train/bars/03.png").rename(data / "train/bars/03b.png")


def edited(data: Path) -> None:
    picture(data / "train/bars/03.png", 1, torch.Generator())


def class_renamed(data: Path) -> None:
    for split in ("train", "test"):
        (data / split / "bars").rename(data / split / "tubes")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (added, "1 sample added (49 here, 48 cached)"),
        (removed, "1 sample removed"),
        (renamed, "renamed"),
        (edited, "edited"),
        (class_renamed, "class 0 is 'bars' to teacher c and 'rows' in the data"),
    ],
)
def test_other_data_are_refused(
    dumped: Path, distill: Distill, change: Callable[[Path], None], said: str
) -> None:
    assert student(distill).code == 0
    change(dumped / "data")
    shutil.rmtree(dumped / "s")
    outcome = student(distill)
    assert outcome.code == 3
    assert said in one_line(outcome)
    assert not (dumped / "s").exists()
    again = dump(distill)
    assert again.code == 3, "a rerun would mix labels of two datasets"
    verified = distill("cache", "verify", "c", "--sample", 8, "--quiet")
    assert verified.code == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--augment", "crop:2,flip"), ("crop:2", "crop:1")),
        (("--augment", "none"), ("()", "crop:1")),
        (("--size", 10), ("height 10", "12")),
        (("--set", "view_seed=5"), ("seed 5", "0")),
        (("--split-seed", 3), ("split", "3")),
    ],
)
def test_another_view_spec_is_refused(
    dumped: Path, distill: Distill, flags: tuple[object, ...], said: tuple[str, ...]
) -> None:
    outcome = student(distill, *flags)
    assert outcome.code == 3
    line = one_line(outcome)
    for each in said:
        assert each in line
    if flags[0] != "--split-seed":
        assert dump(distill, *flags).code == 3


def test_other_teacher_weights_are_refused(dumped: Path, distill: Distill) -> None:
    assert distill("cache", "verify", "c", "--sample", 20, "--quiet").code == 0
    weights = dumped / "t/model/model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name][0, 0] += 1e-3
    save_file(tensors, weights)
    again = dump(distill)
    assert again.code == 3
    assert "teacher.fingerprint" in one_line(again)
    verified = distill("cache", "verify", "c", "--sample", 20, "--quiet")
    assert verified.code == 3
    assert "other weights" in one_line(verified)
    assert student(distill).code == 0, "the labels are what they were"


def test_other_pixels_are_refused(
    dumped: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library upgrade that changes an augmentation, as far as one can be had here."""
    from distill_cli import runtime
    from distill_cli.data.geometry import Flip

    plain, versions = Flip.__call__, runtime.versions()

    def by_another_draw(
        self: Flip, images_BCHW: torch.Tensor, uniform_BD: torch.Tensor
    ) -> torch.Tensor:
        return plain(self, images_BCHW, 1 - uniform_BD)

    monkeypatch.setattr(Flip, "__call__", by_another_draw)
    monkeypatch.setattr(runtime, "versions", lambda: {**versions, "torchvision": "9.9"})
    for outcome in (
        student(distill),
        distill("cache", "verify", "c", "--sample", 8, "--quiet"),
    ):
        assert outcome.code == 3
        line = one_line(outcome)
        assert "grey levels" in line
        assert f"torchvision {versions['torchvision']} → 9.9" in line
    assert not (dumped / "s").exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_is_found_and_healed(dumped: Path, distill: Distill, damage: str) -> None:
    shard = dumped / "c/view-0001/shard-00002.safetensors"
    whole = shard.read_bytes()
    manifest = (dumped / "c/manifest.json").read_bytes()
    if damage == "truncate":
        shard.write_bytes(whole[:-9])
    elif damage == "flip":
        shard.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    else:
        shard.unlink()
    for outcome in (student(distill), distill("cache", "verify", "c", "--quiet")):
        assert outcome.code == 3
        assert "view-0001/shard-00002" in one_line(outcome)
    assert "Rerun cache-soft-labels" in outcome.err
    assert dump(distill).code == 0
    assert shard.read_bytes() == whole
    assert (dumped / "c/manifest.json").read_bytes() == manifest
    assert distill("cache", "verify", "c", "--quiet").code == 0


@pytest.mark.parametrize("way", ["path", "link"])
def test_a_path_out_of_the_folder_is_refused(dumped: Path, distill: Distill, way: str) -> None:
    if way == "path":
        file = dumped / "c/manifest.json"
        file.write_text(file.read_text().replace("view-0000/shard-00000", "../t/shard-00000"))
    else:
        (dumped / "c/view-0000").rename(dumped / "elsewhere")
        (dumped / "c/view-0000").symlink_to(dumped / "elsewhere")
    for outcome in (student(distill), distill("cache", "verify", "c", "--quiet")):
        assert outcome.code == 3
        assert re.search("inside the cache folder|leads out", one_line(outcome))


def test_two_writers_of_a_cache(dumped: Path, distill: Distill) -> None:
    from distill_cli.files import one_writer

    with one_writer(dumped / "c"):
        outcome = dump(distill)
    assert outcome.code == 2
    assert "another process" in one_line(outcome)


def test_disk_full_while_dumping(dumped: Path, distill: Distill) -> None:
    args = ("cache-soft-labels", "--teachers", "t", "--views", 40, "--shard-length", 48)
    ended = start(*args, "--out", "full", "--quiet", limit=4_000).end()
    assert ended.code == 1, ended.err
    assert b"disk full" in ended.err
    assert b"same command again" in ended.err
    assert distill(*args, "--out", "full", "--quiet").code == 0
    assert distill(*args, "--out", "unbroken", "--quiet").code == 0
    for path in (dumped / "unbroken").rglob("*.*"):
        if path.is_file():
            other = dumped / "full" / path.relative_to(dumped / "unbroken")
            assert path.read_bytes() == other.read_bytes()


def test_parts_merge_to_the_whole(dumped: Path, distill: Distill) -> None:
    for number in (3, 1, 2):
        outcome = dump(distill, "--part", f"{number}/3", "--json", out=f"part-{number}")
        assert outcome.code == 0, outcome.err
        [said] = json.loads(outcome.out)["caches"]
        assert (said["finished"], said["shards"]) == (False, 2)
    described = json.loads(distill("cache", "info", "part-2", "--json").out)["caches"][0]
    assert (described["finished"], described["shards"], described["shards_planned"]) == (
        False,
        2,
        6,
    )
    refused = student(distill, teacher="part-1")
    assert refused.code == 3
    assert "not finished" in one_line(refused)
    lacking = distill("cache", "merge", "part-1", "part-3", "--out", "m", "--quiet")
    assert lacking.code == 3
    assert "2 of 6 shards" in one_line(lacking)
    parts = ("part-1", "part-2", "part-3")
    assert distill("cache", "merge", *parts, "--out", "m", "--quiet").code == 0
    for path in sorted((dumped / "c").rglob("*.*")):
        if path.is_file() and path.name != ".lock":
            assert (dumped / "m" / path.relative_to(dumped / "c")).read_bytes() == path.read_bytes()
    assert student(distill, teacher="m").code == 0
    wrong = dump(distill, "--part", "4/3", out="x")
    assert wrong.code == 2
    assert "3/8" in one_line(wrong)


def test_parts_in_one_folder_finish_with_the_last(dumped: Path, distill: Distill) -> None:
    for number in (2, 1):
        assert dump(distill, "--part", f"{number}/2", out="p").code == 0
    assert distill("cache", "verify", "p", "--quiet").code == 0
    assert (dumped / "p/manifest.json").read_bytes() == (dumped / "c/manifest.json").read_bytes()


def test_several_teachers_share_one_pass_and_merge_by_name(
    made: Made, here: Path, distill: Distill
) -> None:
    """Of other normalisation and size; each says what it would have said alone."""
    common = ("--augment", "shift:1", "--quiet", "--shard-length", 600, "--views", 2)
    both = ("cache-soft-labels", "--teachers", f"{made.teacher},{made.other}")
    for number in (1, 2):
        outcome = distill(*both, *common, "--part", f"{number}/2", "--out", f"p{number}")
        assert outcome.code == 0, outcome.err
    outcome = distill("cache", "merge", "p1", "p2", "--out", "m", "--json", "--quiet")
    assert len(json.loads(outcome.out)["caches"]) == 2
    for path in made.labels.rglob("*.safetensors"):
        assert (here / "m" / path.relative_to(made.labels)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_teachers_of_other_size_and_normalisation_in_one_pass(
    dumped: Path, distill: Distill
) -> None:
    outcome = distill(
        *("teacher", "train", "--data", "data", "--size", 32, "--model", "cifar_resnet8"),
        *("--epochs", 4, "--lr", 0.05, "-b", 8, "--out", "u", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    common = ("--views", 2, "--augment", "crop:1,flip", "--size", 12, "--quiet")
    both = ("cache-soft-labels", "--teachers", "t,u", *common)
    assert distill(*both, "--out", "both").code == 0
    for name in ("t", "u"):
        alone = ("cache-soft-labels", "--teachers", name, *common, "--out", f"only-{name}")
        assert distill(*alone).code == 0
        for path in (dumped / f"only-{name}").rglob("*.safetensors"):
            other = dumped / "both" / name / path.relative_to(dumped / f"only-{name}")
            assert other.read_bytes() == path.read_bytes()
        assert distill("cache", "verify", f"only-{name}", "--sample", 9, "--quiet").code == 0


@pytest.mark.parametrize("codec", ["fp16", "topk:2"])
def test_a_student_of_a_lossy_cache_is_told_what_it_loses(
    made: Made, here: Path, distill: Distill, codec: str
) -> None:
    outcome = distill(
        *("cache-soft-labels", "--teachers", made.teacher, "--codec", codec, "--out", "c"),
    )
    assert outcome.code == 0, outcome.err
    for temperature in (3, 7):
        outcome = distill(
            *("student", "--teachers", "c", "-T", temperature, "--out", f"s{temperature}"),
            *("--model", "mlp_8x1", "--epochs", 2),
        )
        assert outcome.code == 0, outcome.err
        assert f"cache c ({codec}): at T = {temperature} its labels are" in outcome.err
    shown = distill("cache", "info", "c", "-T", 3, "--json")
    asked = json.loads(shown.out)["caches"][0]["error_at"]
    assert asked["temperature"] == 3
    assert 0 < asked["mean_kl"] <= asked["worst_kl"]
    assert "at T = 3" in distill("cache", "info", "c", "-T", 3).out


def test_topk_of_all_classes_says_that_it_is_dense(
    made: Made, here: Path, distill: Distill
) -> None:
    outcome = distill(
        *("cache-soft-labels", "--teachers", made.teacher, "--codec", "topk:10", "--out", "c"),
    )
    assert outcome.code == 0
    assert "stored as fp16" in outcome.err
    assert json.loads((here / "c/plan.json").read_text())["codec"] == "fp16"
    wrong = distill("cache-soft-labels", "--teachers", made.teacher, "--codec", "topk:0")
    assert wrong.code == 2
    assert "topk:10" in one_line(wrong)


def test_a_dry_run_measures_and_writes_nothing(made: Made, here: Path, distill: Distill) -> None:
    args = ("cache-soft-labels", "--teachers", made.teacher, "--views", 3, "--codec", "fp16")
    outcome = distill(*args, "--out", "c", "--dry-run", "--json", "--quiet")
    assert outcome.code == 0, outcome.err
    assert not list(here.iterdir())
    said = json.loads(outcome.out)
    assert said["codec"] == "fp16"
    found = said["estimate"]
    assert found["views"] == 3 * 1438
    assert found["seconds"] == pytest.approx(found["views"] / found["views_per_second"])
    assert found["break_even_epochs"] >= 3 * 1438 / 1295
    text = distill(*args, "--out", "c", "--dry-run").out
    assert "bytes a view" in text
    assert yaml.safe_load(text)["codec"] == "fp16", "what is printed is a recipe"
    assert distill(*args, "--out", "c", "--quiet").code == 0
    real = json.loads(distill("cache", "info", "c", "--json").out)["caches"][0]
    assert found["bytes_per_view"] == pytest.approx(real["bytes_per_view"], rel=0.03)
    whole = real["bytes"] + real["eval_bytes"]
    assert found["bytes"] == pytest.approx(whole, rel=0.05)


def test_the_gate(made: Made, here: Path, distill: Distill) -> None:
    """A teacher whose head is noise, before a dump and before a student (fault 30)."""
    shutil.copytree(made.teacher, here / "t")
    weights = here / "t/model/model.safetensors"
    tensors = load_file(weights)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        tensors[name] = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    save_file(tensors, weights)
    dump = ("cache-soft-labels", "--teachers", "t", "--augment", "shift:1", "--quiet")
    student = ("student", "--teachers", "t", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    for command in (dump, student):
        outcome = distill(*command, "--out", "x")
        assert outcome.code == 3
        line = one_line(outcome)
        assert "no better than chance" in line
        assert "--force" in line
        assert not (here / "x").exists()
    assert distill(*dump, "--out", "c", "--force").code == 0
    refused = distill(*student[:2], "c", *student[3:], "--out", "s")
    assert refused.code == 3, "a cache is measured too"
    assert distill(*student[:2], "c", *student[3:], "--out", "s", "--force").code == 0


def test_the_gate_finds_classes_in_another_order(made: Made, here: Path, distill: Distill) -> None:
    """The names are right, the outputs are not: only looking tells."""
    shutil.copytree(made.teacher, here / "t")
    weights = here / "t/model/model.safetensors"
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if tensor.shape[0] == 10:
            tensors[name] = tensor.roll(1, 0).contiguous()
    save_file(tensors, weights)
    outcome = distill("student", "--teachers", "t", "--out", "s", *STUDENT)
    assert outcome.code == 3
    assert "in another order" in one_line(outcome)


def test_a_card_to_publish(dumped: Path, distill: Distill) -> None:
    assert dump(distill, "--publish", "--set", "licence=cc-by-4.0").code == 0
    card = (dumped / "c/README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    for said in ("48 samples", "`crop:1, flip`", "bars, rows", "What the codec lost"):
        assert said in card
    assert str(dumped) not in card
    assert str(dumped) not in (dumped / "c/recipe.yaml").read_text()
    # What is shared is still a cache: with the images at hand it teaches.
    (dumped / "c").rename(dumped / "shared")
    outcome = student(distill, "--data", "data", teacher="shared")
    assert outcome.code == 0, outcome.err


def test_unlabelled_images_are_cached_and_learnt_from(dumped: Path, distill: Distill) -> None:
    generator = torch.Generator().manual_seed(9)
    for number in range(40):
        picture(dumped / f"data/train/more-{number:02d}.png", number % 2, generator)
    (dumped / "data/train/README.txt").write_text("not an image")
    with tarfile.open("data.tar", "w") as tar:
        tar.add("data", "data")
    outcome = distill(
        *("cache-soft-labels", "--teachers", "t", "--data", "data.tar", "--views", 2),
        *("--out", "u", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    manifest = json.loads((dumped / "u/manifest.json").read_text())
    assert manifest["dataset"]["samples"] == 88
    assert manifest["labelled"] == 2 * 48
    assert sum(manifest["calibration"]["views"]) == 2 * 88
    outcome = distill(
        *("student", "--teachers", "u", "--model", "mlp_16x1", "--epochs", 20, "--lr", 0.02),
        *("-b", 8, "--out", "s", "--json", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["test_top1"] > 0.9
    # Without any label in train/, but with some to choose the epoch by and to test on.
    for name in ("bars", "rows"):
        (dumped / "data/val").mkdir(exist_ok=True)
        (dumped / f"data/train/{name}").rename(dumped / f"data/val/{name}")
    outcome = distill(
        *("cache-soft-labels", "--teachers", "t", "--data", "data", "--out", "v", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    manifest = json.loads((dumped / "v/manifest.json").read_text())
    assert (manifest["dataset"]["samples"], manifest["labelled"]) == (40, 0)
    assert manifest["teacher_accuracy"] is None
    assert "right on" not in distill("cache", "info", "v").out
    outcome = distill("student", "--teachers", "v", "--out", "w", *STUDENT, "--alpha", 1)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    "augment", [pytest.param("v2/RandAugment,crop:1", marks=pytest.mark.slow), "crop:1,mixup"]
)
def test_workers_change_no_bit_of_a_student(dumped: Path, distill: Distill, augment: str) -> None:
    common = ("--augment", augment, "--quiet")
    dump = ("cache-soft-labels", "--teachers", "t", "--views", 2, *common)
    assert distill(*dump, "-j", 2, "--out", "x").code == 0
    weights = []
    for workers in (0, 1, 3):
        out = f"s{workers}"
        outcome = distill(
            *("student", "--teachers", "x", "-j", workers, "--epochs", 3, "--out", out),
            *("--model", "mlp_8x1", "--quiet"),
        )
        assert outcome.code == 0, outcome.err
        weights.append((dumped / out / "model/model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]


def test_overwrite_waits_for_every_lock_and_spares_what_is_not_its_own(
    made: Made, here: Path, distill: Distill
) -> None:
    from distill_cli.files import one_writer

    both = ("cache-soft-labels", "--teachers", f"{made.teacher},{made.other}", "--quiet")
    assert distill(*both, "--out", "c").code == 0
    (here / "c/a/view-notes.txt").write_text("mine")
    (here / "c/a/README.md").write_text("mine too")
    with one_writer(here / "c/b"):
        assert distill(*both, "--out", "c", "--overwrite").code == 2
    assert distill("cache", "verify", "c", "--quiet").code == 0
    assert distill(*both, "--out", "c", "--overwrite", "--publish", "--codec", "fp16").code == 0
    assert (here / "c/a/view-notes.txt").read_text() == "mine"
    assert "soft-label cache of distill" in (here / "c/a/README.md").read_text()
    assert distill(*both, "--out", "c", "--overwrite").code == 0
    assert not (here / "c/b/README.md").exists(), "it spoke of other labels"
    refused = distill(*both, "--out", "c", "--overwrite", "--part", "1/2")
    assert refused.code == 2
    assert "other parts" in one_line(refused)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--part", "1/7"), "6 shards only"),
        (("--part", "1/2", "--publish"), "Merge the parts"),
        (("--part", "half"), "3/8"),
        (("--dry-run", "--part", "1/7"), "6 shards only"),
    ],
)
def test_what_does_not_go_together(
    dumped: Path, distill: Distill, flags: tuple[str, ...], said: str
) -> None:
    outcome = dump(distill, *flags, out="x")
    assert outcome.code == 2
    assert said in one_line(outcome)
    assert not (dumped / "x").exists()


def test_a_dry_run_knows_what_is_there(dumped: Path, distill: Distill) -> None:
    done = json.loads(dump(distill, "--dry-run", "--json").out)["estimate"]
    assert done["seconds"] == 0
    assert done["break_even_epochs"] > 2
    assert dump(distill, "--dry-run", "--codec", "fp16").code == 3
    part = json.loads(dump(distill, "--dry-run", "--json", "--part", "2/3", out="x").out)
    assert part["estimate"]["views"] == 32
    assert part["estimate"]["bytes"] < done["bytes"]


def test_a_folder_of_parts_is_merged(dumped: Path, distill: Distill) -> None:
    for number in (1, 2):
        assert dump(distill, "--part", f"{number}/2", out=f"parts/p{number}").code == 0
    for _ in range(2):
        outcome = distill("cache", "merge", "parts", "--out", "parts/all", "--quiet")
        assert outcome.code == 0, outcome.err
    assert distill("cache", "verify", "parts/all", "--quiet").code == 0


def test_teachers_called_model(dumped: Path, distill: Distill) -> None:
    shutil.copytree(dumped / "t", dumped / "u")
    both = ("cache-soft-labels", "--teachers", "t/model,u", "--augment", "none", "--quiet")
    for _ in range(2):
        outcome = distill(*both, "--out", "c2")
        assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (dumped / "c2").iterdir()) == ["t", "u"]
    shutil.copytree(dumped / "t", dumped / "x/t")
    outcome = distill(*both[:2], "t,x/t", *both[3:], "--out", "c3")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (dumped / "c3").iterdir()) == ["t", "t-2"]


def test_verify_from_anywhere_and_without_a_recipe(
    dumped: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dumped / "elsewhere").mkdir()
    monkeypatch.chdir(dumped / "elsewhere")
    assert distill("cache", "verify", "../c", "--sample", 9, "--quiet").code == 0
    (dumped / "c/recipe.yaml").unlink()
    lost = distill("cache", "verify", "../c", "--sample", 9, "--quiet")
    assert lost.code == 2
    assert "does not say who" in one_line(lost)
    outcome = distill(
        *("cache", "verify", "../c", "--sample", 9, "--teacher", "../t", "--data", "../data"),
        "--quiet",
    )
    assert outcome.code == 0, outcome.err
    (dumped / "c/recipe.yaml").write_text("data: [1]\nteachers: 5\n")
    for outcome in (
        distill("cache", "verify", "../c", "--sample", 9, "--quiet"),
        distill("student", "--teachers", "../c", "--out", "s", *STUDENT),
    ):
        assert outcome.code == 3
        assert "recipe.yaml" in one_line(outcome)


def test_one_unsound_cache_does_not_hide_the_others(dumped: Path, distill: Distill) -> None:
    shutil.copytree(dumped / "c", dumped / "all/a")
    shutil.copytree(dumped / "c", dumped / "all/b")
    (dumped / "all/a/manifest.json").unlink()
    (dumped / "all/b/plan.json").unlink()
    outcome = distill("cache", "verify", "all", "--quiet", "--json")
    assert outcome.code == 3
    first, second = json.loads(outcome.out)["caches"]
    assert "not finished" in first["wrong"][0]
    assert second["damaged"] == [
        {"file": "plan.json", "said": "is not the plan that the manifest has"}
    ]


def test_markup_in_a_forged_manifest_is_only_text(dumped: Path, distill: Distill) -> None:
    path = dumped / "c/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["teacher"] = {"fingerprint": "[/x][bold]", "architecture": "[/y]"}
    path.write_text(json.dumps(manifest))
    outcome = distill("cache", "info", "c")
    assert outcome.code == 3
    assert "they are of other rows, or of another plan" in one_line(outcome)
    path.unlink()
    plan = json.loads((dumped / "c/plan.json").read_text())
    plan["teacher"] = manifest["teacher"]
    (dumped / "c/plan.json").write_text(json.dumps(plan))
    outcome = distill("cache", "info", "c")
    assert outcome.code == 0, outcome.err
    assert "[/x][bold]" in outcome.out
    shards = len(manifest["shards"])
    assert f"not finished: {shards} of {shards} shards" in outcome.out
    plan["view_spec"]["views"] = 10**11
    (dumped / "c/plan.json").write_text(json.dumps(plan))
    outcome = distill("cache", "info", "c")
    assert outcome.code == 3
    assert "more than 1,000,000 shards" in one_line(outcome)
