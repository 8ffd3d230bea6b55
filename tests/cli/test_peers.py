"""Networks that are trained along, through the command line: saved, evaluated, resumed, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill_cli.errors import UsageError
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.recipe.stages import check_generations, stages_of
from distill_cli.training.loop import Trainer
from tests.conftest import Made, Outcome
from tests.ranks import by_ranks
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
STUDENT = ("student", "--data", "digits", "--model", "mlp_16x1", "-b", 64, "--lr", 0.1)
QUIET = ("--precision", "fp32", "--quiet")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model/model.safetensors")


def test_every_network_is_saved_evaluated_and_in_one_table(here: Path, distill: Distill) -> None:
    two = ("--teachers", "peer:a=mlp_32x1,peer:b=cifar_resnet8", "--mutual", "--epochs", 2)
    outcome = distill(*STUDENT, *two, "--limit", 300, "--out", "s")
    assert outcome.code == 0, outcome.err
    told = outcome.err
    assert "all learn from each other" in " ".join(told.split())
    result = json.loads((here / "s/result.json").read_text())
    assert [peer["name"] for peer in result["peers"]] == ["a", "b"]
    for peer in result["peers"]:
        folder = here / "s/peers" / peer["name"]
        outcome = distill("evaluate", folder / "model", "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["errors"] == peer["test_errors"]
        along = f"{peer['name']}, trained along: {peer['test_errors']} errors"
        assert along in " ".join(told.split())
    row = json.loads((here / "s/metrics.jsonl").read_text().splitlines()[-1])
    assert {"val_top1_a", "val_nll_b"} <= row.keys()
    assert distill("report", "s", "--out", "page.html").code == 0
    page = (here / "page.html").read_text()
    assert "trained along: b" in page
    # It is a teacher as any other, once it is trained.
    again = ("student", "--teachers", "s/peers/b", "--model", "mlp_16x1", "--epochs", 1, *QUIET)
    outcome = distill(*again, "--out", "t")
    assert outcome.code == 0, outcome.err
    # It has seen the split of the run, and another one's held-out images.
    outcome = distill(*again, "--split-seed", 1, "--out", "u")
    assert outcome.code == 3
    assert "s/peers/b was trained" in " ".join(outcome.err.split())
    # The recipe beside it is the student's, and nobody's to train it anew by.
    outcome = distill(
        "cache-soft-labels", "--teachers", "s/peers/b", "--cross-fit", 2, "--out", "c"
    )
    assert outcome.code == 2
    assert "has no recipe of a training" in outcome.err
    table = yaml.safe_load((here / "t/recipe.yaml").read_text())["recorded"]["teacher_networks"]
    assert "cifar_resnet8" in str(table)


@pytest.mark.parametrize(
    "flags",
    [
        ("--teachers", "peer:a=mlp_32x1,peer:b=mlp_32x1", "--mutual", "--ema", 0.9),
        pytest.param(("--teachers", "peer:mlp_32x1", "--accumulate", 2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_resumed_to_the_bit(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, flags: tuple[Any, ...]
) -> None:
    """Every network, stopped amid the second epoch."""
    student = (*STUDENT, *flags, "--epochs", 3, "--dropout", 0.2, *QUIET)
    assert distill(*student, "--out", "whole").code == 0
    plain, steps = Trainer.train_step, 0

    def stop(self: Trainer, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 27:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        distill(*student, "--checkpoint-every", "0s", "--out", "r")
    assert not (here / "r/result.json").exists()
    outcome = distill(*student, "--out", "r", "--resume")
    assert outcome.code == 0, outcome.err
    names = [path.name for path in sorted((here / "whole/peers").iterdir())]
    assert names
    for folder in ("", *(f"peers/{name}" for name in names)):
        one, other = weights(here / "whole" / folder), weights(here / "r" / folder)
        assert all(torch.equal(one[key], other[key]) for key in one), folder
    results = [json.loads((here / run / "result.json").read_text()) for run in ("whole", "r")]
    assert results[0]["peers"] == results[1]["peers"]


def test_beside_a_live_teacher_and_a_cache(here: Path, distill: Distill, made: Made) -> None:
    cache = sorted(path for path in made.labels.iterdir() if path.is_dir())[0]
    mixture = ("--teachers", f"{made.teacher},{cache},peer:mlp_32x1", "--teacher-weights", "1,1,2")
    few = (*STUDENT[:1], *STUDENT[3:], *QUIET, "--epochs", 1)
    outcome = distill(*few, *mixture, "--out", "s")
    assert outcome.code == 0, outcome.err
    random = ("--teachers", f"{made.teacher},peer:mlp_32x1", "--mode", "random", "--epochs", 1)
    outcome = distill(*STUDENT, *random, *QUIET, "--out", "r")
    assert outcome.code == 0, outcome.err


REFUSED: list[tuple[tuple[Any, ...], str]] = [
    (("--teachers", "peer:"), "names no network that is trained along"),
    (("--teachers", "peer:nonesuch"), "teacher peer:nonesuch: there is no network 'nonesuch'"),
    (("--teachers", "peer:resnet18.x"), "teacher peer:resnet18.x: timm has no weights tagged"),
    (("--teachers", "peer:a=mlp_8x1", "--set", "peer.a.opt=sdg"), "peer.a.opt: unknown optimiser"),
    (("--teachers", "peer:a=mlp_8x1", "--set", "peer.a.opt=adahessian"), "peer.a.opt: 'adahess"),
    (("--teachers", "peer:mlp_8x1", "--mode", "relabel"), "--mode relabel and a network"),
    (
        ("--teachers", "peer:mlp_8x1", "--mutual", "--objective", "kd,label-mix"),
        "is of one alone",
    ),
    (("--teachers", "peer:mlp_8x1", "--generations", 2), "--generations: each learns from the one"),
    (("--teachers", "peer:mlp_8x1,peer:mlp_8x1"), "are one and the same"),
    (("--teachers", "peer:a=mlp_8x1,peer:a=mlp_8x2"), "are called a"),
    (("--teachers", "peer:mlp_8x1", "--set", "peer.other.lr=0.1"), "peer.other is of no network"),
    (("--teachers", "peer:mlp_8x1", "--set", "peer.mlp_8x1.rate=0.1"), "peer.mlp_8x1.rate"),
    (("--teachers", "self", "--mutual", "--objective", "pseudo-label"), "--mutual is of networks"),
    (("--teachers", "peer:mlp_8x1", "--teacher-augment", "none"), "--teacher-augment"),
    (("--teachers", "peer:mlp_8x1", "--objective", "kd,hint"), "looks at the layers"),
    (("--teachers", "peer:mlp_8x1", "--hints"), "layers of a network that is trained"),
]


@pytest.mark.parametrize(("flags", "text"), REFUSED, ids=lambda value: str(value)[:60])
def test_refusals(here: Path, distill: Distill, flags: tuple[Any, ...], text: str) -> None:
    outcome = distill(*STUDENT, *flags, "--out", "r")
    assert outcome.code == 2, outcome.err
    assert text in " ".join(outcome.err.split())
    assert "images used" not in outcome.err, "the data were read before"
    assert not (here / "r").exists()


def test_a_network_that_cannot_be_built_is_called_as_it_was_typed(
    here: Path, distill: Distill
) -> None:
    for key, text in (
        ("model_args.odd=1", "teacher peer:a=mlp_8x1: distill_mlp cannot be built"),
        ("opt=bnbadam", "peer.a.opt: 'bnbadam' cannot be used here"),
    ):
        outcome = distill(*STUDENT, "--teachers", "peer:a=mlp_8x1", "--set", f"peer.a.{key}")
        assert outcome.code == 2, outcome.err
        assert f"error: {text}" in " ".join(outcome.err.split())


def test_generations_of_earlier_versions_go_on() -> None:
    """They had the networks beside the first generation, and the others learn from the one before."""
    values = {"teachers": ["peer:a=mlp_8x1"], "mutual": True, "generations": 2}
    recipe = validate(StudentRecipe, values)
    check_generations(recipe, "0.8.0")
    first, second = stages_of(recipe, Path("s"))
    assert isinstance(second.recipe, StudentRecipe)
    assert second.recipe.teachers == [str(first.out)]
    assert not second.recipe.mutual
    with pytest.raises(UsageError, match="peer:a=mlp_8x1"):
        check_generations(recipe, "0.9.0")


def test_reliability_of_a_dump_of_what_still_learns(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    reliability(
        "Usage and recipes",
        "a dump of a network that is trained along with a student",
        "distill cache-soft-labels --teachers peer:mlp_64x1",
        distill("cache-soft-labels", "--teachers", "peer:mlp_64x1", "--out", "c"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", [(), ("--mutual", "--sync-bn")], ids=str)
def test_two_ranks_follow_one_process(here: Path, distill: Distill, way: tuple[str, ...]) -> None:
    """Every network, to rounding: each of their gradients is summed over the ranks, as the student's."""
    teachers = ("--teachers", "peer:a=mlp_32x2,peer:b=cifar_resnet8", *way)
    sizes = ("--epochs", 1, "--limit", 256, "--sched", "constant", "--precision", "fp32")
    args = (*STUDENT, *teachers, *sizes, "--augment", "none", "--quiet", "--device", "cpu")
    if "--sync-bn" not in way:
        # Without batch norm over all ranks each has the statistics of its own share.
        args = tuple("peer:a=mlp_32x2" if str(arg).startswith("peer:a") else arg for arg in args)
    assert distill(*args, "--out", "one").code == 0
    for rank in by_ranks(2, *args, "--out", "two"):
        assert rank.code == 0, rank.err
    names = [path.name for path in sorted((here / "one/peers").iterdir())]
    for folder in ("", *(f"peers/{name}" for name in names)):
        one, two = weights(here / "one" / folder), weights(here / "two" / folder)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)


def test_a_dry_run_writes_nothing(here: Path, distill: Distill) -> None:
    args = (*STUDENT, "--teachers", "peer:mlp_32x1", "--epochs", 1, "--limit", 100, *QUIET)
    assert distill(*args, "--out", "s").code == 0
    file = here / "s/peers/mlp_32x1/model/model.safetensors"
    before = file.read_bytes()
    assert distill(*args, "--lr", 0.5, "--dry-run", "--overwrite", "--out", "s").code == 0
    assert file.read_bytes() == before
    assert distill(*args, "--dry-run", "--out", "new").code == 0
    assert not (here / "new").exists()


@pytest.mark.slow
def test_several_seeds(here: Path, distill: Distill) -> None:
    args = (*STUDENT, "--teachers", "peer:mlp_32x1", "--epochs", 1, "--limit", 100, *QUIET)
    outcome = distill(*args, "--seeds", 2, "--out", "s", "--json")
    assert outcome.code == 0, outcome.err
    assert "peers" not in json.loads(outcome.out)["figures"]
    assert len(json.loads((here / "s/seed-1/result.json").read_text())["peers"]) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_mutual_learning_of_labels_by_themselves(here: Path, distill: Distill, count: int) -> None:
    """Sigmoid targets learn from logits: of several networks from their mean."""
    names = ",".join(f"peer:n{n}=mlp_32x1" for n in range(count))
    args = (*STUDENT, "--teachers", names, "--mutual", "--targets", "sigmoid", "--epochs", 1)
    outcome = distill(*args, "--objective", "sigmoid-kd", "--limit", 100, *QUIET, "--out", "s")
    assert outcome.code == 0, outcome.err
