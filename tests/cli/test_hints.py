"""FitNets through the command line: stage 1, both stages, and many pairs of architectures."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

import distill_cli.models  # noqa: F401  registers our networks in timm
from distill_cli import stopping
from distill_cli.models import InputSpec, create_network, load_model, save_model
from distill_cli.pipeline.objective.build import composition
from distill_cli.recipe.load import load
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.recipe.stages import stages_of
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch, HintResult, Progress, StudentSignals
from tests.conftest import Made, Outcome
from tests.saved import weights

Distill = Callable[..., Outcome]


def equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("model", "guided", "before"),
    [
        ("mlp_8x2", "activations.0", ("layers.0",)),
        ("cifar_resnet8", "stages.1", ("conv1", "bn1", "stages.0", "stages.1")),
    ],
)
def test_the_student_changes_up_to_its_guided_layer(
    made: Made, here: Path, distill: Distill, model: str, guided: str, before: tuple[str, ...]
) -> None:
    outcome = distill(
        *("hint-init", "--teachers", made.teacher, "--model", model, "--guided-layer", guided),
        *("--seed", 2, "--epochs", 1, "--out", "h"),
    )
    assert outcome.code == 0, outcome.err
    assert "distill student --init h" in " ".join(outcome.err.split())
    saved = load_model(here / "h")
    torch.manual_seed(2)
    fresh = create_network(model, class_names=saved.class_names, view=saved.input_spec)
    assert fresh.net.state_dict().keys() == weights(here / "h").keys(), "no trace of the regressor"
    for key, value in fresh.net.state_dict().items():
        changed = not torch.equal(value, weights(here / "h")[key])
        assert changed == key.startswith(before), key
    loaded = timm.create_model(f"local-dir:{here / 'h/model'}", pretrained=True)
    assert equal(loaded.state_dict(), saved.net.state_dict())
    result = json.loads((here / "h/result.json").read_text())
    assert set(result) == set(HintResult.__dataclass_fields__)
    assert result["params"] == saved.num_params
    (entry,) = yaml.safe_load((here / "h/recipe.yaml").read_text())["recorded"]["layers"]
    assert result["regressor_params"] == entry["regressor_params"] > 0
    assert entry["student"] == guided


def test_the_held_out_loss_falls_and_nobody_compares_it(
    made: Made, here: Path, distill: Distill
) -> None:
    outcome = distill(
        *("hint-init", "--teachers", made.teacher, "--model", "mlp_16x2", "--epochs", 4),
        *("-b", 32, "--lr", 0.05, "--json", "--quiet", "--out", "h"),
    )
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader((here / "h/summary.csv").open()))
    losses = [float(row["val_hint"]) for row in rows]
    assert losses[-1] < 0.9 * losses[0]
    said = json.loads(outcome.out)
    assert said["val_hint"] == min(losses)
    assert said["best_epoch"] == losses.index(min(losses)) + 1
    assert "train_hint" in rows[0]
    assert "val_top1" not in rows[0]
    outcome = distill("compare", "h", made.student)
    assert outcome.code == 0
    assert "h is a hint-init" in outcome.err
    assert distill("compare", "h").code == 3


@pytest.mark.slow
def test_both_stages_are_the_runs_that_one_would_make(
    made: Made, here: Path, distill: Distill
) -> None:
    common = ("--teachers", made.teacher, "--model", "mlp_8x2", "--seed", 1, "--quiet")
    outcome = distill("student", *common, "--hints", "--epochs", 3, "--out", "s")
    assert outcome.code == 0, outcome.err
    assert distill("hint-init", *common, "--epochs", 1, "--out", "h").code == 0
    assert equal(weights(here / "h"), weights(here / "s/stages/hints"))
    (here / "r.yaml").write_text(
        "objective:\n  - {name: ce}\n"
        f"  - {{name: kd, temperature: 3, weight: {4 / 9!r}, weight_end: {1 / 9!r},\n"
        "     schedule: linear}\n"
    )
    outcome = distill(
        *("student", "-r", "r.yaml", *common, "--init", "h", "--epochs", 3, "--out", "t")
    )
    assert outcome.code == 0, outcome.err
    assert equal(weights(here / "s"), weights(here / "t"))
    assert set(json.loads((here / "s/result.json").read_text())) == set(
        json.loads((made.student / "result.json").read_text())
    )


def test_stage_2_is_the_papers_loss() -> None:
    """CE(y, p) + λ·CE(q_τ, p_τ), τ = 3, λ from 4 to 1: in gradients, and as what it is made of."""
    recipe = load(StudentRecipe, flags={"teachers": "t", "hints": True}, environment={})
    second = stages_of(recipe, Path("out"))[1].recipe
    composed = composition(second)
    hard, soft = composed.parts
    assert (hard.objective.info.name, hard.weight.at(0), hard.weight.at(1)) == ("ce", 1, 1)
    assert soft.objective.info.name == "kd"
    assert soft.objective.temperature == 3
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator)
    target = torch.arange(6) % 5
    batch = Batch(
        images_BCHW=torch.zeros(6, 1, 2, 2), target_B=target, index_B=target, view_B=target, step=0
    )
    for step, weight in ((0, 4.0), (5, 2.5), (10, 1.0)):
        own = student.clone().requires_grad_()
        progress = Progress(epoch=0, step=step, total_steps=11)
        signals = StudentSignals(logits=own)
        composed(signals, DenseSignals(teacher), batch, progress).total.backward()
        other = student.clone().requires_grad_()
        cross = F.cross_entropy(other / 3, (teacher / 3).softmax(dim=-1))
        (F.cross_entropy(other, target) + weight * cross).backward()
        assert torch.allclose(own.grad, other.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "args",
    [
        ("hint-init", "--model", "mlp_8x2"),
        ("student", "--objective", "kd,hint", "--model", "mlp_8x2"),
        pytest.param(
            ("hint-init", "--model", "cifar_resnet8", "--ema", 0.9, "--opt", "adamw"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["hint-init", "joint", "averaged"],
)
def test_stopped_in_mid_epoch_and_resumed_to_the_same_bits(
    made: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[object, ...],
) -> None:
    common = ("--teachers", made.teacher, "--augment", "shift:1,mixup", "--epochs", 2, "--quiet")
    common = (*common, "-b", 128)
    assert distill(*args, *common, "--dropout", 0.2, "--out", "whole").code == 0
    plain = stopping.StopRequest

    class AfterSteps(plain):
        """Asks to stop when it has been looked at often enough: in the second epoch."""

        looks = 0

        @property
        def signal_number(self) -> int | None:
            self.looks += 1
            return signal.SIGTERM if self.looks > 14 else None

        @signal_number.setter
        def signal_number(self, value: int | None) -> None:
            pass

    monkeypatch.setattr(stopping, "StopRequest", AfterSteps)
    assert distill(*args, *common, "--dropout", 0.2, "--out", "run").code == 143
    monkeypatch.setattr(stopping, "StopRequest", plain)
    halfway = torch.load(here / "run/last/checkpoint.pt", weights_only=True, map_location="cpu")
    assert halfway["state"]["epoch"] == 1
    assert halfway["state"]["step"] > 0
    assert halfway["parts"]["adapters"]
    joint = args[0] == "student"
    assert any("norm.running" in key for key in halfway["parts"]["adapters"]) == joint
    assert distill(args[0], "--resume", "--out", "run", "--quiet").code == 0
    assert equal(weights(here / "whole"), weights(here / "run"))
    one, two = (
        torch.load(here / run / "last/checkpoint.pt", weights_only=True, map_location="cpu")[
            "parts"
        ]
        for run in ("whole", "run")
    )
    for part in ("network", "adapters"):
        assert equal(one[part], two[part]), part
    before = halfway["parts"]["adapters"]
    assert not equal(before, two["adapters"]), "the regressor learns"
    refused = distill(args[0], "--resume", "--out", "run", "--quiet", "--seed", 7)
    assert refused.code == 3


def taught_jointly(
    distill: Distill, data: object, teacher: str, epochs: int
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """`--objective kd,hint` at its defaults: its figures, and its rows of summary.csv."""
    more = ("--data", data, "--epochs", epochs, "--quiet")
    assert distill("teacher", "train", "--model", teacher, *more, "--out", "t").code == 0
    outcome = distill(
        *("student", "--teachers", "t", "--model", "mlp_32x2", "--objective", "kd,hint"),
        *("--epochs", epochs, "--quiet", "--json", "--out", "s"),
    )
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out), list(csv.DictReader(Path("s/summary.csv").open()))


@pytest.mark.slow
def test_joint_hints_teach_a_network_without_batch_norm(here: Path, distill: Distill) -> None:
    """It ended at chance at these defaults: a regressor without batch norm, and all its pull."""
    result, rows = taught_jointly(distill, "digits", "mlp_128x2", 30)
    assert result["val_top1"] > 0.9
    assert result["test_top1"] > 0.86
    hints = [float(row["train_hint"]) for row in rows]
    assert hints[-1] < 0.5 * hints[0]


@pytest.mark.slow
def test_joint_hints_teach_mnist(here: Path, distill: Distill) -> None:
    """The loss reached 1e20 at these defaults."""
    root = Path(os.environ.get("DISTILL_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (root / "mnist.tar.gz").exists():
        pytest.skip("mnist.tar.gz is not under DISTILL_DATA")
    result, rows = taught_jointly(distill, root / "mnist.tar.gz", "mlp_96x2", 3)
    assert min(result["val_top1"], result["test_top1"]) > 0.9
    assert max(float(row["train_loss"]) for row in rows) < 1000


def test_refusals(made: Made, here: Path, distill: Distill) -> None:
    tiny = ("--model", "mlp_8x1", "--epochs", 1, "--quiet", "--out", "h")
    for teachers, more, code, said in (
        (f"{made.teacher},{made.other}", (), 2, "one teacher"),
        (made.labels / "a", (), 3, "run folder"),
        (made.teacher, ("--hint-layer", "layer.0"), 2, "layers.0"),
        (made.teacher, ("--guided-layer", "activations"), 2, "no features"),
        (made.teacher, ("--compile",), 2, "--compile"),
        (made.teacher, ("--init", "nowhere"), 2, "nowhere"),
    ):
        outcome = distill("hint-init", "--teachers", teachers, *tiny, *more)
        assert outcome.code == code, outcome.err
        assert said in outcome.err
        assert not list(here.iterdir())
    assert distill("hint-init", *tiny).code == 2


# Pairs of architectures.

SWIN = {
    **{"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
    **{"patch_size": 2, "window_size": 4},
}
SMALL: dict[str, dict[str, Any]] = {"swin_tiny_patch4_window7_224": SWIN}
SWIN_TINY = "swin_tiny_patch4_window7_224"
FAST_PAIRS = [
    ("test_vit", "test_resnet", 32),
]
SLOW_PAIRS = [
    ("test_resnet", "test_vit2", 30),
    ("test_convnext", "test_vit", 32),
    ("mobilenetv4_conv_small", "test_efficientnet", 32),
    ("test_efficientnet", "test_convnext2", 32),
    ("mixer_s32_224", "test_byobnet", 32),
    ("test_mambaout", SWIN_TINY, 32),
    (SWIN_TINY, "test_resnet", 32),
    ("test_vit3", "test_convnext3", 32),
    ("test_convnext3", "test_vit4", 30),
    ("test_vit_relpos", "test_maxvit", 32),
    ("test_maxvit", "test_coatnet", 32),
    ("test_coatnet", "test_nfnet", 32),
    ("test_nfnet", "test_vit_relpos", 32),
    ("test_efficientnet_ln", "mixer_s32_224", 30),
    ("test_byobnet", "mobilenetv4_conv_small", 32),
]


def pictures(root: Path, side: int) -> Path:
    """32 images of noise in two classes."""
    generator = torch.Generator().manual_seed(0)
    for split, rows in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(rows):
                pixels = torch.randint(0, 256, (side, side, 3), generator=generator)
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(
                    root / split / name / f"{index}.png"
                )
    return root


@pytest.mark.parametrize(
    ("teacher", "student", "side"),
    [
        *(pytest.param(*pair, id=f"{pair[0]}-{pair[1]}") for pair in FAST_PAIRS),
        *(
            pytest.param(*pair, id=f"{pair[0]}-{pair[1]}", marks=pytest.mark.slow)
            for pair in SLOW_PAIRS
        ),
    ],
)
def test_any_architecture_learns_from_any_other(
    here: Path, distill: Distill, teacher: str, student: str, side: int
) -> None:
    pictures(here / "data", side)
    view = InputSpec(channels=3, height=side, width=side, mean=(0.4,) * 3, std=(0.3,) * 3)
    torch.manual_seed(0)
    network = create_network(
        teacher, class_names=("cat", "dog"), view=view, args=SMALL.get(teacher)
    )
    save_model(network, here / "t")
    (here / "r.yaml").write_text(yaml.safe_dump({"model_args": SMALL.get(student, {})}))
    outcome = distill(
        *("student", "--hints", "-r", "r.yaml", "--teachers", "t", "--data", "data", "--force"),
        *("--model", student, "--epochs", 1, "-b", 8, "--augment", "none", "--quiet"),
        *("--out", "s"),
    )
    assert outcome.code == 0, outcome.err
    (entry,) = yaml.safe_load((here / "s/stages/hints/recipe.yaml").read_text())["recorded"][
        "layers"
    ]
    assert entry["regressor_params"] > 0
    hints = json.loads((here / "s/stages/hints/result.json").read_text())
    assert hints["val_hint"] > 0
    loaded = load_model(here / "s")
    assert loaded.net.state_dict().keys() == weights(here / "s").keys()
    assert all(value.isfinite().all() for value in weights(here / "s").values())
