"""DropMax through the command line, on the digits: its network, from the first step to a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from timm.models import _registry

from distill_cli.models import load_model
from distill_cli.models.heads import OPEN_GATE_BIAS
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.train import train
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.schema import TeacherRecipe
from distill_cli.runtime import Precision
from distill_cli.training.events import Silent
from distill_cli.training.loop import Trainer
from tests.conftest import Made, Outcome, on_host
from tests.saved import weights

Distill = Callable[..., Outcome]
DATA = ("--data", "digits", "-b", 64, "--lr", 0.1, "--augment", "none", "--quiet")
MODEL = ("--model", "mlp_16x1", "--epochs", 3)
DROPMAX = ("--objective", "dropmax")


def recipe(run: Path) -> dict[str, object]:
    return yaml.safe_load((run / "recipe.yaml").read_text())


@pytest.fixture
def gated(here: Path, distill: Distill) -> Path:
    """A small run with gates."""
    outcome = distill("teacher", "train", *DATA, *MODEL, *DROPMAX, "--out", "gated", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["test_top1"] > 0.7
    return here / "gated"


def test_a_run_is_a_model_like_any_other(gated: Path, distill: Distill) -> None:
    assert recipe(gated)["model"] == "mlp_16x1", "as it was said"
    config = json.loads((gated / "model" / "config.json").read_text())
    assert config["architecture"] == "distill_dropmax"
    assert config["model_args"]["base"] == "distill_mlp"
    row = json.loads((gated / "metrics.jsonl").read_text().splitlines()[-1])
    parts = [row[f"train_{name}"] for name in ("ce", "kl", "auxiliary", "entropy")]
    assert row["train_loss"] == pytest.approx(sum(parts), rel=1e-5)
    found = json.loads((gated / "result.json").read_text())
    said = json.loads(distill("evaluate", gated, "--json").out)
    assert said["top1"] == found["test_top1"]
    assert said["nll"] == pytest.approx(found["test_nll"], rel=1e-6)


@pytest.mark.slow
def test_it_teaches_and_its_labels_are_cached(gated: Path, here: Path, distill: Distill) -> None:
    outcome = distill("cache-soft-labels", "--teachers", gated, "--out", "labels", "--quiet")
    assert outcome.code == 0, outcome.err
    outcome = distill("cache", "verify", "labels", "--sample", 20)
    assert outcome.code == 0, outcome.err
    for teacher in (gated, "labels"):
        outcome = distill(
            *("student", "--teachers", teacher, "--objective", "kd,dropmax", "-T", 3),
            *(*MODEL, "-b", 64, "--lr", 0.1, "--quiet", "--out", f"of-{Path(teacher).name}"),
        )
        assert outcome.code == 0, outcome.err
    student = here / "of-labels"
    row = json.loads((student / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"train_kd", "train_ce", "train_kl"} <= row.keys()
    assert json.loads((student / "result.json").read_text())["test_top1"] > 0.7


def test_a_temperature_of_the_teacher_leaves_the_masks_alone(made: Made, here: Path) -> None:
    from distill_cli.pipeline.objective.build import composition
    from distill_cli.recipe.schema import StudentRecipe

    asked = StudentRecipe(teachers=[str(made.teacher)], objective="kd,dropmax", temperature=3)
    kd, gates = (part.objective for part in composition(asked).parts)
    assert kd.temperature == 3
    assert gates.mask_temperature == 0.1


def tear(distill: Distill, given: tuple[object, ...], steps: int) -> None:
    """Runs a training that a signal stops in the middle of an epoch, and goes on with it."""
    taken = []
    original = Trainer.train_step

    def stopping(self: Trainer, batch: object) -> None:
        original(self, batch)
        taken.append(1)
        if len(taken) == steps:
            self.pauses.signal = lambda: 15

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        assert distill(*given, "--out", "torn").code == 143
    outcome = distill("teacher", "train", "--resume", "--out", "torn", "--quiet")
    assert outcome.code == 0, outcome.err


def same(one: Path, two: Path) -> None:
    assert weights(one).keys() == weights(two).keys()
    for key, value in weights(one).items():
        assert torch.equal(value, weights(two)[key]), key


@on_host
def test_it_resumes_to_the_bit(here: Path, distill: Distill) -> None:
    given = ("teacher", "train", *DATA, *MODEL, *DROPMAX, "--accumulate", 2)
    assert distill(*given, "--out", "whole").code == 0
    tear(distill, given, 27)
    same(here / "whole", here / "torn")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_what_is_saved_says_what_was_trained_to_the_bit(here: Path, precision: Precision) -> None:
    asked = TeacherRecipe(
        data="digits",
        device="cpu",
        model="cifar_resnet8",
        epochs=1,
        objective="dropmax",
        out="r",
        augment=["none"],
        precision=precision,
    )
    plan = prepare(asked, sink=Silent())
    plan.run.mkdir()
    trainer_of(plan, Silent()).fit(resume=False)
    images_BCHW = torch.rand(16, 1, 8, 8)
    saved, trained = load_model(here / "r"), plan.network.eval()
    for name, value in trained.net.state_dict().items():
        assert torch.equal(saved.net.state_dict()[name], value), name
    # In bf16 the trained network lies channels last, for which the CPU has kernels of its own:
    # equal weights in one layout answer alike to the bit.
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            answers = [
                network.to(memory_format=layout)(images_BCHW) for network in (saved, trained)
            ]
        assert torch.equal(*answers), layout


@pytest.mark.parametrize("model", ["mlp_16x1", None])
def test_a_plain_run_gets_fresh_gates(model: str | None, made: Made, here: Path) -> None:
    start = made.teacher if model is None else here / "plain"
    common = {"data": "digits", "epochs": 1, "augment": ["none"]}
    if model is not None:
        train(TeacherRecipe(out="plain", model=model, **common), sink=Silent())
    asked = TeacherRecipe(out="r", init=str(start), model=model, objective="dropmax", **common)
    found = prepare(asked, sink=Silent()).network.cpu().net.state_dict()
    given = weights(start)
    for key, value in given.items():
        assert torch.equal(found[key.replace("fc.", "fc.logits.")], value), key
    assert found["fc.prior.bias"].eq(OPEN_GATE_BIAS).all()
    assert not found["fc.prior.weight"].any()
    assert len(found) == len(given) + 4


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ("mlp_16x1", "dropmax"),
        (None, "dropmax"),
        pytest.param(None, "ce", marks=pytest.mark.slow),
    ],
)
def test_a_gated_run_goes_on_with_its_gates(model: str | None, objective: str, gated: Path) -> None:
    asked = TeacherRecipe(
        data="digits",
        device="cpu",
        out="r",
        init=str(gated),
        model=model,
        objective=objective,
        augment=["none"],
    )
    found = prepare(asked, sink=Silent()).network
    assert found.architecture == "distill_dropmax"
    for key, value in weights(gated).items():
        assert torch.equal(found.net.state_dict()[key], value), key


def test_gates_do_not_fit_a_plain_network(gated: Path, distill: Distill) -> None:
    outcome = distill("teacher", "train", *DATA, *MODEL, "--init", gated, "--out", "r")
    assert outcome.code == 3
    assert "does not fit distill_mlp" in outcome.err


@on_host
@pytest.mark.parametrize(
    ("objective", "start"),
    [
        ("ce", "gated"),
        ("dropmax", "plain"),
        *(
            pytest.param(objective, start, marks=pytest.mark.slow)
            for objective, start in (
                *(("ce", "nothing"), ("ce", "plain")),
                *(("dropmax", "nothing"), ("dropmax", "gated")),
            )
        ),
    ],
)
def test_a_network_that_nobody_names_is_found_again(
    start: str, objective: str, gated: Path, made: Made, here: Path, distill: Distill
) -> None:
    init = {"nothing": (), "plain": ("--init", made.teacher), "gated": ("--init", gated)}[start]
    given = ("teacher", "train", *DATA, "--objective", objective, *init, "--epochs", 2)
    assert distill(*given, "--out", "whole").code == 0
    tear(distill, given, 25)
    same(here / "whole", here / "torn")


def test_other_classes_get_a_fresh_head(gated: Path, here: Path) -> None:
    from PIL import Image

    for name, level in (("dark", 0), ("light", 200)):
        for index in range(8):
            path = here / "data" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), level + index).save(path)
    asked = TeacherRecipe(
        data=str(here / "data"), device="cpu", out="r", init=str(gated), objective="dropmax"
    )
    found = prepare(asked, sink=Silent()).network.cpu().net.state_dict()
    assert found["fc.logits.weight"].shape[0] == 2
    assert found["fc.prior.bias"].tolist() == [OPEN_GATE_BIAS, OPEN_GATE_BIAS]
    assert torch.equal(found["layers.0.weight"], weights(gated)["layers.0.weight"])


def test_published_weights_get_gates(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    published = timm.create_model("test_resnet").state_dict()
    save_file(published, here / "weights.safetensors")
    for name in ("test_resnet", "test_resnet.r160_in1k"):
        cfg = replace(
            _registry._model_pretrained_cfgs[name],
            **{"file": str(here / "weights.safetensors"), "hf_hub_id": None, "url": ""},
        )
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, cfg)
    asked = TeacherRecipe(
        data="digits", model="test_resnet", pretrained=True, objective="dropmax", out="r"
    )
    network = prepare(asked, sink=Silent()).network.cpu()
    assert network.model_args == {"base": "test_resnet"}
    state = network.net.state_dict()
    assert torch.equal(state["conv1.0.weight"], published["conv1.0.weight"])
    assert state["fc.logits.weight"].shape[0] == 10
    assert state["fc.prior.bias"].eq(OPEN_GATE_BIAS).all()


def test_a_transformer_with_gates_has_a_transformers_optimiser(here: Path) -> None:
    plans = [
        prepare(
            TeacherRecipe(data="digits", model="test_vit", objective=name, out=name), sink=Silent()
        )
        for name in ("ce", "dropmax")
    ]
    assert [plan.recipe.opt for plan in plans] == ["adamw", "adamw"]


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--objective", "dropmax,ce"), 2, "the hard label"),
        (("--objective", "dropmax", "--label-smoothing", 0.1), 2, "cannot be combined"),
        (("--objective", "dropmax", "--targets", "sigmoid"), 2, "softmax targets"),
        (("--objective", "dropmax", "--model", "squeezenet1_1"), 2, "not one linear layer"),
        (("--objective", "ce", "--model", "distill_dropmax"), 2, "objective 'dropmax'"),
    ],
)
def test_refusals(
    given: tuple[object, ...], code: int, said: str, here: Path, distill: Distill
) -> None:
    outcome = distill("teacher", "train", *DATA, *given, "--out", "r")
    assert outcome.code == code, outcome.err
    assert said in outcome.err
    assert not (here / "r" / "recipe.yaml").exists()
