"""`--freeze` on trainings: parts that stay to the bit, from a run with other classes too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill_cli.training.loop import Trainer
from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]


# The classifier of mlp_32x1, which `made.teacher` is.
HEAD = "fc."
TRAIN = ("teacher", "train", "--data", "digits", "--epochs", 2, "-b", 64, "--quiet")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


def test_a_backbone_stays_and_its_head_learns(here: Path, distill: Distill, made: Made) -> None:
    flags = ("--init", made.teacher, "--freeze", "backbone", "--ema", 0.9, "--precision", "fp32")
    talks = tuple(part for part in TRAIN if part != "--quiet")
    outcome = distill(*talks, *flags, "--out", "r")
    assert outcome.code == 0, outcome.err
    before, after = weights(made.teacher), weights(here / "r")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    head = sum(before[name].numel() for name in changed)
    whole = sum(tensor.numel() for tensor in before.values())
    assert len(changed) == 2, "weight and bias of the classifier"
    assert f"frozen: backbone, {whole - head:,} of {whole:,} parameters" in outcome.err
    assert yaml.safe_load((here / "r/recipe.yaml").read_text())["freeze"] == ["backbone"]


def test_a_frozen_run_goes_on_to_the_bit(
    here: Path, distill: Distill, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = (
        "student",
        "--teachers",
        made.teacher,
        "--data",
        "digits",
        "--model",
        "cifar_resnet8",
    )
    flags = (
        *student,
        "--freeze",
        "conv1,bn1,stages.0",
        "--epochs",
        1,
        "-b",
        32,
        "--limit",
        224,
        "--quiet",
    )
    assert distill(*flags, "--out", "whole").code == 0
    plain = Trainer.train_step
    steps = 0

    def stop(self: Trainer, batch: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return plain(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        distill(*flags, "--checkpoint-every", 2, "--out", "r")
    assert not (here / "r/result.json").exists()
    assert distill(*flags, "--out", "r", "--resume").code == 0
    one, other = weights(here / "whole"), weights(here / "r")
    assert all(torch.equal(one[name], other[name]) for name in one)
    outcome = distill(*flags[:-1], "--freeze", "conv1", "--out", "r", "--resume")
    assert outcome.code == 3, outcome.err
    assert "freeze" in outcome.err


def test_a_network_of_other_classes_gives_its_layers(
    here: Path, distill: Distill, made: Made
) -> None:
    """A head for other classes stays fresh, of a network that timm does not know too."""
    from tests.data.pictures import LEFT, TOP, picture

    for split, count in (("train", 24), ("test", 6)):
        for label, name in enumerate(("left", "top")):
            for number in range(count):
                seed = 1000 * label + number + (500 if split == "test" else 0)
                picture(
                    here / "two" / split / name / f"{number}.png", [(LEFT, TOP)[label]], seed=seed
                )
    train = ("teacher", "train", "--data", "two", "--epochs", 1, "--quiet", "--channels", 1)
    flags = ("--size", 8, "--init", made.teacher, "--freeze", "backbone", "--out", "r", "--json")
    outcome = distill(*train, *flags)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["test_samples"] == 12
    before, after = weights(made.teacher), weights(here / "r")
    kept = [name for name in before if after[name].shape == before[name].shape]
    assert len(kept) == len(before) - 2
    assert all(torch.equal(before[name], after[name]) for name in kept)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--freeze", "layer1"), "the network has no part 'layer1'"),
        (("--freeze", "backbone,fc"), "nothing would be left to learn"),
        (("--set", "freeze=[]"), "freeze: must not be empty"),
    ],
)
def test_refusals(
    here: Path, distill: Distill, made: Made, flags: tuple[str, ...], text: str
) -> None:
    outcome = distill(*TRAIN, "--init", made.teacher, *flags, "--out", "r")
    assert outcome.code == 2, outcome.err
    assert text in " ".join(outcome.err.split())
    assert not (here / "r").exists()


def test_random_layers_that_do_not_learn_are_said(here: Path, distill: Distill) -> None:
    train = ("teacher", "train", "--data", "digits", "--epochs", 1, "--limit", 100)
    outcome = distill(*train, "--model", "mlp_8x1", "--freeze", "backbone", "--out", "r")
    assert outcome.code == 0, outcome.err
    assert "which are random: give --pretrained or --init" in " ".join(outcome.err.split())
