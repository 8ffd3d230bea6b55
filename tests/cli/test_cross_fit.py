"""`cache-soft-labels --cross-fit`: every image is labelled by networks that have not seen it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from distill_cli.cache.reader import CacheReader
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_rules import LabelRules
from distill_cli.data.labels import relabelled
from distill_cli.data.views import Views
from distill_cli.models import load_model
from distill_cli.training.loop import Trainer
from distill_cli.types import Batch
from tests.conftest import Made, Outcome, invoke, on_host, tree
from tests.data.pictures import LEFT, TOP, picture
from tests.kills import kept, kill, writes_of
from tests.ranks import by_ranks
from tests.reliability import Reliability
from tests.saved import same

Distill = Callable[..., Outcome]
EXACT = ("--precision", "fp32", "--quiet")
TEACHER = (
    *("teacher", "train", "--data", "digits", "--limit", 120, "--model", "mlp_24x1"),
    *("--augment", "shift:1", "--epochs", 8, "-b", 8, "--lr", 0.1, *EXACT),
)
K = 3


@dataclass(frozen=True)
class Fitted:
    """A teacher of 120 digits, its cross-fitted cache, and the rows that each network was shown.

    Attributes:
        teacher: The run.
        cache: The cache.
        shown: By the folder of a run, the rows of its batches.
    """

    teacher: Path
    cache: Path
    shown: dict[str, set[int]]

    def run(self, number: int) -> Path:
        return self.cache / "stages" / f"fold-{number}"


def dump_of(teacher: Path, *args: object, out: object) -> tuple[object, ...]:
    views = ("--augment", "shift:1", "--views", 2, "--shard-length", 600)
    return (
        *("cache-soft-labels", "--teachers", teacher, "--cross-fit", K, *views, "--quiet"),
        *("--out", out, *args),
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    root = tmp_path_factory.mktemp("fitted")
    assert invoke(*TEACHER, "--out", root / "t").code == 0
    shown: dict[str, set[int]] = {}
    plain = Trainer.train_step

    def step(self: Trainer, batch: Batch) -> object:
        shown.setdefault(self.run.name, set()).update(batch.index_B.tolist())
        return plain(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        outcome = invoke(*dump_of(root / "t", out=root / "c"))
    assert outcome.code == 0, outcome.err
    return Fitted(root / "t", root / "c", shown)


def files(folder: Path) -> dict[str, bytes]:
    """What was trained and what was labelled."""
    paths = (path for path in folder.rglob("*.safetensors") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


@on_host
def test_an_audit_takes_it_as_out_of_fold(fitted: Fitted, here: Path, distill: Distill) -> None:
    outcome = distill(
        "audit", fitted.teacher, "--out-of-fold", fitted.cache, "--out", "a", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["in_sample"] is False
    assert "may have learnt" not in outcome.err
    assert "had not seen the labels" in (here / "a/index.html").read_text()


def test_no_image_is_labelled_by_a_network_that_saw_it(fitted: Fitted, digits: Dataset) -> None:
    """By the batches that each was shown, and by what each says of the views."""
    limited = relabelled(digits, LabelRules(limit=120)).fit_rows.tolist()
    seen = [fitted.shown[f"fold-{number}"] for number in range(1, K + 1)]
    assert set.union(*seen) == set(limited)
    assert all(sum(row in rows for rows in seen) == K - 1 for row in limited)
    reader = CacheReader(fitted.cache)
    networks = [load_model(fitted.run(number)) for number in range(1, K + 1)]
    views = Views(digits.train, reader.plan.view_spec, torch.device("cpu"), workers=0)
    for view in range(2):
        index_B = torch.arange(len(digits.train.sample_ids))
        view_B = torch.full_like(index_B, view)
        images_BCHW = views.batch(index_B, view_B).images_BCHW
        with torch.no_grad():
            said = torch.stack([net(images_BCHW) for net in networks]).softmax(dim=-1)
        stored = reader.codec.log_probs(reader.gather(index_B, view_B), 1.0, torch.float32).exp()
        for row in index_B.tolist():
            strangers = [number for number, rows in enumerate(seen) if row not in rows]
            assert len(strangers) == (1 if row in limited else K)
            assert torch.allclose(stored[row], said[strangers, row].mean(dim=0), atol=1e-5)
    # Who saw a row says something else of it: the labels above could not be theirs.
    row = limited[0]
    assert not torch.allclose(said[0, row], said[1, row], atol=1e-3)


def test_held_out_and_test_images_get_the_mean(fitted: Fitted, digits: Dataset) -> None:
    reader = CacheReader(fitted.cache)
    networks = [load_model(fitted.run(number)) for number in range(1, K + 1)]
    for name, images in (("val", digits.val), ("test", digits.test)):
        rows = reader.eval_rows(name)
        assert rows is not None
        assert torch.equal(rows[1], images.label_N)
        plain_NCHW = torch.cat(list(images.iter_plain())) / 255
        with torch.no_grad():
            said = torch.stack([net(plain_NCHW) for net in networks]).softmax(dim=-1)
        assert torch.allclose(rows[0].softmax(dim=-1), said.mean(dim=0), atol=1e-5)


def test_what_is_recorded(fitted: Fitted, distill: Distill) -> None:
    plan = json.loads((fitted.cache / "plan.json").read_text())
    recipe = yaml.safe_load((fitted.cache / "recipe.yaml").read_text())
    assert len(set(plan["teacher"]["cross_fit"])) == K
    assert plan["teacher"]["fingerprint"] not in plan["teacher"]["cross_fit"]
    assert (recipe["cross_fit"], recipe["teachers"]) == (K, [str(fitted.teacher.resolve())])
    for number in range(1, K + 1):
        run = yaml.safe_load((fitted.run(number) / "recipe.yaml").read_text())
        assert (run["fold"], run["limit"], run["epochs"]) == (f"{number}/{K}", 120, 8)
        assert run["recorded"]["trained_on"] == 80
    outcome = distill("cache", "info", fitted.cache, "--json")
    assert json.loads(outcome.out)["caches"][0]["cross_fit"] == plan["teacher"]["cross_fit"]
    assert "3 of it, each trained without a fold" in distill("cache", "info", fitted.cache).out


def test_an_ordinary_run_without_a_fold_has_the_same_bits(
    fitted: Fitted, here: Path, distill: Distill
) -> None:
    outcome = distill(*TEACHER, "--set", f"fold=2/{K}", "--out", "r")
    assert outcome.code == 0, outcome.err
    assert same(here / "r", fitted.run(2))
    assert not same(fitted.run(1), fitted.run(2))
    outcome = distill("teacher", "train", "--resume", "--out", "r", "--fold", f"3/{K}")
    assert (outcome.code, "fold 2/3 → 3/3" in outcome.err) == (3, True), outcome.err


def test_a_student_learns_from_it_as_from_any_cache(
    fitted: Fitted, here: Path, distill: Distill
) -> None:
    student = ("student", "--model", "mlp_8x1", "--epochs", 1, "--limit", 120, *EXACT)
    outcome = distill(*student, "--teachers", fitted.cache, "--out", "s", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["teacher_agreement"] is not None
    outcome = distill(*student, "--teachers", fitted.cache, "--split-seed", 1, "--out", "x")
    assert (outcome.code, "made of other data" in outcome.err) == (3, True)


def test_verify_asks_the_network_that_labelled_each_row(
    fitted: Fitted, here: Path, distill: Distill
) -> None:
    outcome = distill("cache", "verify", fitted.cache, "--sample", 5000, "--json")
    assert outcome.code == 0, outcome.err
    replay = json.loads(outcome.out)["caches"][0]["replay"]
    assert (replay["views"], replay["differing"]) == (2876, 0)
    shutil.copytree(fitted.cache, here / "c")
    shutil.move(here / "c/stages", here / "moved/stages")
    outcome = distill("cache", "verify", "c", "--sample", 8)
    assert (outcome.code, "is not at c/stages/fold-1" in outcome.err) == (2, True)
    outcome = distill("cache", "verify", "c", "--sample", 8, "--teacher", "moved")
    assert outcome.code == 0, outcome.err
    # Networks that change places: each would be asked of rows that it has seen.
    stages = here / "moved/stages"
    for old, new in (("fold-1", "one"), ("fold-2", "fold-1"), ("one", "fold-2")):
        (stages / old).rename(stages / new)
    outcome = distill("cache", "verify", "c", "--sample", 8, "--teacher", "moved")
    assert (outcome.code, "has other weights" in outcome.err) == (3, True)


def test_folds_of_other_rows_are_found_out(fitted: Fitted, here: Path, distill: Distill) -> None:
    """The same networks under recipes that would have trained on other rows."""
    shutil.copytree(fitted.cache, here / "c")
    path = here / "c/stages/fold-1/recipe.yaml"
    path.write_text(path.read_text().replace("fold: 1/3", "fold: 1/3\nlabel_seed: 7"))
    outcome = distill("cache", "verify", "c", "--sample", 8)
    assert (outcome.code, "seen by every network" in outcome.err) == (3, True)


@on_host
def test_it_goes_on_after_a_kill(here: Path, reliability: Reliability) -> None:
    """While a network is trained, and among the labels; everywhere else in `test_kills.py`."""
    short = ("teacher", "train", "--data", "digits", "--limit", 40, "--model", "mlp_8x1")
    rest = ("--augment", "shift:1", "--epochs", 1, "-b", 20, "--lr", 0.1, *EXACT)
    assert invoke(*short, *rest, "--out", here / "t").code == 0

    def command(out: Path) -> tuple[object, ...]:
        return dump_of(here / "t", "--force", "--cross-fit", 2, out=out)

    writes = writes_of(command(here / "whole"), here / "whole")
    whole = kept(here / "whole")
    moments = [("os.rename", ".tmp-checkpoint.pt", 2), ("open", ".tmp-shard-00001.safetensors", 1)]
    for event, name, nth in moments:
        numbers = [at for at, write in enumerate(writes, start=1) if write == (event, name)]
        shutil.rmtree(here / "run", ignore_errors=True)
        kill(command(here / "run"), here / "run", numbers[nth - 1])
        outcome = invoke(*command(here / "run"))
        assert outcome.code == 0, outcome.err
        assert kept(here / "run") == whole, (event, name)
    reliability(
        *("Kills, disks and streams", "killed between any two writes of a cross-fitted dump"),
        *("distill cache-soft-labels … --cross-fit 5 --out c", Outcome(0, "", "")),
        message="the bytes of an unbroken dump; what was trained is not trained again",
    )


@pytest.mark.slow
def test_it_goes_on_with_what_it_was_begun_with_alone(
    fitted: Fitted, here: Path, distill: Distill
) -> None:
    shutil.copytree(fitted.cache, here / "c")
    before = tree(here / "c")
    outcome = distill(*dump_of(fitted.teacher, out="c"))
    assert outcome.code == 0, outcome.err
    assert files(here / "c") == files(fitted.cache)
    for args, words in (
        (("--cross-fit", 4), "holds a cache of another plan"),
        (("--codec", "fp16"), "holds a cache of another plan"),
    ):
        outcome = distill(*dump_of(fitted.teacher, *args, out="c"))
        assert (outcome.code, words in outcome.err) == (3, True), outcome.err
    plain = ("cache-soft-labels", "--teachers", fitted.teacher, "--augment", "shift:1", "--quiet")
    assert distill(*plain, "--out", "c").code == 3
    assert {path: rest for path, (_, *rest) in tree(here / "c").items()}.keys() == before.keys()
    # What is trained in its folder before there are labels is no cache yet, and nobody else's place.
    shutil.rmtree(here / "c")
    shutil.copytree(fitted.cache / "stages", here / "c/stages")
    outcome = distill(*plain, "--out", "c")
    assert (outcome.code, "c holds a run or a model" in outcome.err) == (2, True)
    outcome = distill(*dump_of(fitted.teacher, out="c"))
    assert outcome.code == 0, outcome.err
    assert distill(*plain, "--out", "c", "--overwrite").code == 0
    assert not (here / "c/stages").exists()


def test_gates_of_the_recipe_hold_for_every_network(
    fitted: Fitted, here: Path, distill: Distill
) -> None:
    shutil.copytree(fitted.teacher, here / "t")
    shutil.copytree(fitted.cache, here / "b")
    recipe = (here / "t/recipe.yaml").read_text()
    assert "require: []" in recipe
    gates = "require: [test_errors<=0, test_top1>=0.02]"
    (here / "t/recipe.yaml").write_text(recipe.replace("require: []", gates))
    outcome = distill(*dump_of(here / "t", "--json", out="b"))
    assert (outcome.code, json.loads(outcome.out)["caches"][0]["finished"]) == (5, True)
    for number in range(1, K + 1):
        assert f"fold {number} is " in outcome.err
    assert "test_top1" not in outcome.err


def test_dry_run_prices_the_trainings(fitted: Fitted, here: Path, distill: Distill) -> None:
    dry = [*dump_of(fitted.teacher, "--dry-run", "--json", out="c")]
    outcome = distill(*dry)
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["cross_fit"] == K
    assert document["estimate"]["views"] == 2876
    assert document["trainings"]["runs"] == K
    assert document["trainings"]["seconds"] > 0
    assert not (here / "c").exists()
    shutil.copytree(fitted.cache, here / "c")
    before = tree(here / "c")
    outcome = distill(*dry)
    assert json.loads(outcome.out)["trainings"] == {"runs": 0, "seconds": 0.0}
    assert "all networks are trained" in distill(*[one for one in dry if one != "--json"]).out
    assert tree(here / "c") == before


REFUSED: dict[str, tuple[tuple[object, ...], int, str]] = {
    "one fold": (("{t}", "--cross-fit", 1), 2, "cross_fit: must be greater than or equal to 2"),
    "several": (("{t},{other}",), 2, "these are 2 teachers"),
    "cache": (("{cache}",), 2, "is a cache"),
    "timm": (("timm/resnet18",), 2, "is a network without one. Fine-tune it first"),
    "no recipe": (("{bare}",), 2, "has no recipe of a training"),
    "a fold": (("{fold}",), 2, "is itself a run without a fold (1/3)"),
    "taught": (("{student}",), 2, "which has seen all of its training images"),
    "a part": (("{t}", "--part", "1/2"), 2, "each part would train all of the networks"),
    "an engine": (("{t}", "--on", "ray"), 2, "--cross-fit trains networks here"),
    "mixed views": (("{t}", "--set", "augment=mixup"), 2, "a mixed image is of two rows"),
    "few of a class": (("{t}", "--cross-fit", 13), 3, "has 12 images to train on, fewer than"),
    "data that are gone": (("{gone}",), 2, "Say where they are with --data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(
    case: str,
    fitted: Fitted,
    made: Made,
    here: Path,
    distill: Distill,
    reliability: Reliability,
) -> None:
    args, code, words = REFUSED[case]
    shutil.copytree(fitted.teacher / "model", here / "bare")
    if case.startswith("data"):
        shutil.copytree(fitted.teacher, here / "gone")
        recipe = yaml.safe_load((here / "gone/recipe.yaml").read_text())
        (here / "gone/recipe.yaml").write_text(yaml.safe_dump({**recipe, "data": "/nowhere"}))
    names: dict[str, Any] = {"t": fitted.teacher, "other": made.other, "student": made.student}
    names |= {"cache": made.labels / "a", "fold": fitted.run(1), "bare": "bare", "gone": "gone"}
    typed = [str(arg).format(**names) for arg in args]
    before = tree(here)
    counted = () if "--cross-fit" in typed else ("--cross-fit", 3)
    outcome = distill("cache-soft-labels", "--teachers", *typed, *counted, "--out", "c", "--quiet")
    assert (outcome.code, words in outcome.err) == (code, True), outcome.err
    assert tree(here) == before
    if case == "no recipe":
        command = "distill cache-soft-labels --teachers MODEL --cross-fit 5"
        reliability("Caches", "a network without a recipe is cross-fitted", command, outcome)
    if case == "few of a class":
        fault = "a class of fewer images than folds"
        command = "distill cache-soft-labels --teachers RUN --cross-fit 13"
        reliability("Data", fault, command, outcome)


@pytest.mark.slow
def test_unlabelled_images_get_the_mean_where_nobody_was_shown_them(
    here: Path, digits: Dataset, distill: Distill
) -> None:
    """Labels that are hidden: a teacher of hard labels is shown those images never."""
    few = ("teacher", "train", "--data", "digits", "--labels-per-class", 6, "--model", "mlp_24x1")
    rest = ("--augment", "shift:1", "--epochs", 2, "-b", 16, "--lr", 0.1, *EXACT, "--out", "t")
    assert distill(*few, *rest).code == 0
    outcome = distill(*dump_of(here / "t", "--force", out="c"))
    assert outcome.code == 0, outcome.err
    reader = CacheReader(here / "c")
    networks = [load_model(here / f"c/stages/fold-{number}") for number in range(1, K + 1)]
    known = relabelled(digits, LabelRules(per_class=6))
    hidden = known.fit_rows[known.train.label_N[known.fit_rows] < 0][:64]
    assert len(hidden) == 64
    views = Views(digits.train, reader.plan.view_spec, torch.device("cpu"), workers=0)
    images_BCHW = views.batch(hidden, torch.zeros_like(hidden)).images_BCHW
    with torch.no_grad():
        said = torch.stack([net(images_BCHW) for net in networks]).softmax(dim=-1)
    rows = reader.gather(hidden, torch.zeros_like(hidden))
    stored: Tensor = reader.codec.log_probs(rows, 1.0, torch.float32).exp()
    assert torch.allclose(stored, said.mean(dim=0), atol=1e-5)


@pytest.mark.slow
@on_host
def test_ranks_share_trainings_and_labels(fitted: Fitted, here: Path, distill: Distill) -> None:
    command = dump_of(fitted.teacher, "--threads", 1, out=here / "two")
    for ended in by_ranks(2, *command):
        assert ended.code == 0, ended.err
    assert {path.name for path in (here / "two/stages").glob("fold-*")} == {
        f"fold-{number}" for number in range(1, K + 1)
    }
    outcome = distill("cache", "verify", here / "two", "--sample", 64)
    assert outcome.code == 0, outcome.err


SHORT = ("--limit", 40, "--model", "mlp_8x1", "--augment", "shift:1", "--epochs", 1, "-b", 20)


def test_what_learnt_labels_of_a_round_is_not_cross_fitted(
    fitted: Fitted, here: Path, distill: Distill, reliability: Reliability
) -> None:
    """A network that has seen every fold made these labels; the first round has labels alone."""
    rounds = ("self-train", "--data", "digits", "--labels-per-class", 2, "--rounds", 3)
    outcome = distill(*rounds, "--threshold", 0, *SHORT, *EXACT, "--out", "s")
    assert outcome.code == 0, outcome.err
    shutil.copytree(fitted.teacher, here / "by-hand")
    path = here / "by-hand/recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["relabel"] = str(here / "s/stages/round-2-chosen.csv")
    path.write_text(yaml.safe_dump(recipe))
    before = tree(here)
    for name in ("s", "s/model", "s/stages/round-2", "by-hand"):
        outcome = distill(*dump_of(Path(name), out="c"))
        assert (outcome.code, "which has seen all of its training images" in outcome.err) == (
            2,
            True,
        )
        assert outcome.err.startswith(f"error: {name} learnt labels that a network made")
        assert tree(here) == before
    reliability(
        *("Caches", "a run that learnt labels of an earlier round is cross-fitted"),
        *("distill cache-soft-labels --teachers by-hand --cross-fit 3", outcome),
    )
    outcome = distill(*dump_of(here / "s/stages/round-1", "--dry-run", "--cross-fit", 2, out="c"))
    assert outcome.code == 0, outcome.err


def beside(root: Path, count: int) -> Path:
    """Images beside the digits."""
    for number in range(count):
        picture(root / f"more/{number}.png", [LEFT, TOP], seed=number)
    return root / "more"


def labelled_beside(root: Path, distill: Distill) -> Path:
    """Six such images, of which the run `t` learnt labels by a list."""
    more = beside(root, 6)
    listed = "".join(f"unlabelled/{number}.png,{number}\n" for number in range(6))
    (root / "l.csv").write_text(f"sample_id,label\n{listed}")
    train = ("teacher", "train", "--data", "digits", *SHORT, *EXACT, "--unlabelled", more)
    assert distill(*train, "--relabel", "l.csv", "--out", "t").code == 0
    return more


def stored(reader: CacheReader, rows: Tensor) -> Tensor:
    """The probabilities (B, K) of view 0."""
    return reader.codec.log_probs(
        reader.gather(rows, torch.zeros_like(rows)), 1.0, torch.float32
    ).exp()


def answers(reader: CacheReader, data: Dataset, rows: Tensor, count: int) -> Tensor:
    """The probabilities (count, B, K) that each network gives to view 0."""
    views = Views(data.train, reader.plan.view_spec, torch.device("cpu"), workers=0)
    images_BCHW = views.batch(rows, torch.zeros_like(rows)).images_BCHW
    folders = [reader.folder / f"stages/fold-{number}" for number in range(1, count + 1)]
    with torch.no_grad():
        return torch.stack([load_model(one)(images_BCHW) for one in folders]).softmax(dim=-1)


def test_images_beside_the_data_of_a_run_of_hard_labels(here: Path, distill: Distill) -> None:
    """Its networks are trained without them, as it was; the mean of these labels them."""
    more = beside(here, 6)
    train = ("teacher", "train", "--data", "digits", *SHORT, *EXACT, "--out", "t")
    assert distill(*train).code == 0
    dump = dump_of(Path("t"), "--force", "--cross-fit", 2, "--unlabelled", more, out="c")
    outcome = distill(*dump)
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load((here / "c/stages/fold-1/recipe.yaml").read_text())
    assert (recipe["unlabelled"], recipe["fold"]) == (None, "1/2")
    reader, data = CacheReader(here / "c"), open_dataset("digits", unlabelled=str(more))
    rows = torch.arange(data.identity.samples, len(data.train.sample_ids))
    assert len(rows) == 6
    means = answers(reader, data, rows, 2).mean(dim=0)
    assert torch.allclose(stored(reader, rows), means, atol=1e-5)
    outcome = distill("cache", "verify", "c", "--sample", 50)
    assert outcome.code == 0, outcome.err


def test_labels_of_images_beside_the_data_are_of_those_images(here: Path, distill: Distill) -> None:
    """Others of the same names get none: neither where the run's own are in their place, nor where they are not."""
    more = labelled_beside(here, distill)
    other = here / "other"
    shutil.copytree(more, other)
    shutil.copy(other / "0.png", other / "1.png")
    flags = ("--force", "--cross-fit", 2, "--unlabelled", other)
    outcome = distill(*dump_of(Path("t"), *flags, out="c"))
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load((here / "c/stages/fold-1/recipe.yaml").read_text())
    assert (recipe["unlabelled"], recipe["recorded"]["trained_on"]) == (str(more), 23)
    reader, data = CacheReader(here / "c"), open_dataset("digits", unlabelled=str(other))
    rows = torch.arange(data.identity.samples, len(data.train.sample_ids))
    means = answers(reader, data, rows, 2).mean(dim=0)
    assert torch.allclose(stored(reader, rows), means, atol=1e-5)
    more.rename(here / "elsewhere")
    outcome = distill(*dump_of(Path("t"), *flags, out="d"))
    assert outcome.code == 3
    assert "was trained beside other images than" in " ".join(outcome.err.split())


def test_a_run_that_learnt_labels_beside_its_data(here: Path, distill: Distill) -> None:
    """Its networks learn them too, also where the dump does not label these images."""
    more = labelled_beside(here, distill)
    outcome = distill(*dump_of(Path("t"), "--force", "--cross-fit", 2, out="c"))
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load((here / "c/stages/fold-1/recipe.yaml").read_text())
    assert (recipe["unlabelled"], recipe["recorded"]["trained_on"]) == (str(more), 23)
    reader, data = CacheReader(here / "c"), open_dataset("digits")
    known = [relabelled(data, LabelRules(limit=40, fold=(number, 2))) for number in (1, 2)]
    first, second = (set(one.fit_rows.tolist()) for one in known)
    for unseen, network in ((second - first, 0), (first - second, 1)):
        rows = torch.tensor(sorted(unseen))
        asked = answers(reader, data, rows, 2)[network]
        assert torch.allclose(stored(reader, rows), asked, atol=1e-5)
    outcome = distill("cache", "verify", "c", "--sample", 50)
    assert outcome.code == 0, outcome.err
