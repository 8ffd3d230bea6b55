"""Students of few bits through the command line: what is saved, what goes on, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill_cli.data.dataset import open_dataset
from distill_cli.models.quantisers import levels_of
from distill_cli.pipeline.run.recalibrate import _batches
from distill_cli.training.loop import Trainer
from tests.conftest import Made, Outcome, on_host
from tests.ranks import by_ranks

Distill = Callable[..., Outcome]
MLP = ("--data", "digits", "--model", "mlp_16x3", "--epochs", 2, "-b", 64, "--lr", 0.1)
QUIET = ("--precision", "fp32", "--quiet")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


def layout(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "model/config.json").read_text())
    return content["distill"]["quantised"]  # type: ignore[no-any-return]


SLOW = pytest.mark.slow
KINDS = [
    ("--quantizer", "ternary", "--last-layer-bits", 8),
    ("--weight-bits", 1, "--ema", 0.9),
    pytest.param(("--weight-bits", 2), marks=SLOW),
    pytest.param(("--weight-bits", 4, "--quantizer", "wrpn"), marks=SLOW),
    ("--weight-bits", 8, "--quantize-all", "--accumulate", 2, "--precision", "bf16"),
]


@pytest.mark.parametrize("flags", KINDS, ids=str)
def test_no_weight_lies_between_its_levels(
    here: Path, distill: Distill, made: Made, flags: tuple[Any, ...]
) -> None:
    """To the bit, in what is saved; the file is a plain network's, which gates, figures and teachers read."""
    student = ("student", "--teachers", made.teacher, *MLP, *QUIET, *flags)
    outcome = distill(*student, "--out", "s")
    assert outcome.code == 0, outcome.err
    saved, said = weights(here / "s"), layout(here / "s")
    config = json.loads((here / "s/model/config.json").read_text())
    assert config["architecture"] == "distill_mlp"
    assert not [name for name in saved if "parametrization" in name]
    layers = said["layers"]
    linear = ["layers.0", "layers.1", "layers.2", "fc"]
    inner = linear if "--quantize-all" in flags else linear[1:-1]
    last = linear[-1:] if "--last-layer-bits" in flags else []
    assert list(layers) == [*inner, *last]
    for name, layer in layers.items():
        weight = saved[f"{name}.weight"]
        scale = layer["scale"]
        step = weight[:, :1].abs() if scale is None else torch.tensor(scale)
        codes = (weight / step).round()
        low, high = levels_of(layer["quantizer"], layer["bits"])
        assert torch.equal(codes * step, weight)
        assert low <= int(codes.min()) <= int(codes.max()) <= high
    outcome = distill("evaluate", "s", "--split", "val", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads((here / "s/result.json").read_text())
    assert json.loads(outcome.out)["top1"] == pytest.approx(result["val_top1"])


def test_it_teaches_and_is_gone_on_from(here: Path, distill: Distill) -> None:
    """Scheme C: from a run's own weights, at a low rate; and what it made is a teacher as any other."""
    assert distill("teacher", "train", *MLP, *QUIET, "--out", "full").code == 0
    few = ("teacher", "train", *MLP[:2], *MLP[4:], *QUIET, "--init", "full", "--weight-bits", 4)
    assert distill(*few, "--lr", 0.01, "--out", "c").code == 0
    assert json.loads((here / "c/result.json").read_text())["val_top1"] > 0.5
    outcome = distill("student", "--teachers", "c", *MLP, *QUIET, "--out", "s")
    assert outcome.code == 0, outcome.err


def test_activations_have_an_architecture_of_their_own(here: Path, distill: Distill) -> None:
    """timm alone refuses it, rather than run it without them."""
    net = ("--data", "digits", "--model", "cifar_resnet8", "--epochs", 1, "--limit", 64)
    few = ("teacher", "train", *net, *QUIET, "--weight-bits", 2, "--act-bits", 4, "--out", "r")
    outcome = distill(*few)
    assert outcome.code == 0, outcome.err
    config = json.loads((here / "r/model/config.json").read_text())
    assert config["architecture"] == "distill_quantised"
    assert config["model_args"]["base"] == "cifar_resnet8"
    outcome = distill("evaluate", "r", "--split", "val", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads((here / "r/result.json").read_text())
    assert json.loads(outcome.out)["top1"] == pytest.approx(result["val_top1"])
    # They stay in whatever starts from it, and are said of it, whether its weights have few bits or not.
    for out, flags, bits in (("w", ("--weight-bits", 2), 2), ("v", (), None)):
        on = ("teacher", "train", "--data", "digits", "--init", "r", *flags)
        outcome = distill(*on, "--epochs", 1, "--limit", 64, "--out", out)
        assert outcome.code == 0, outcome.err
        result = json.loads((here / out / "result.json").read_text())
        assert (result["weight_bits"], result["act_bits"]) == (bits, 4)
        config = json.loads((here / out / "model/config.json").read_text())
        said = config["distill"]["quantised"]
        assert (said["quantizer"], said["weight_bits"], said["act_bits"]) == ("lsq", bits, 4)
        assert distill("evaluate", out, "--split", "val").code == 0
    again = ("teacher", "train", "--data", "digits", "--init", "r", "--act-bits", 4, "--out", "x")
    outcome = distill(*again)
    assert outcome.code == 2
    assert "quantised activations already" in " ".join(outcome.err.split())


@pytest.mark.slow
def test_timm_refuses_quantised_activations(here: Path, distill: Distill) -> None:
    net = ("--data", "digits", "--model", "cifar_resnet8", "--epochs", 1, "--limit", 64)
    assert distill("teacher", "train", *net, *QUIET, "--act-bits", 4, "--out", "r").code == 0
    code = "import timm; timm.create_model('local-dir:r/model', pretrained=True)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode != 0
    assert "distill_quantised" in ended.stderr


@on_host
@pytest.mark.parametrize(
    "flags",
    [
        ("--weight-bits", 2, "--act-bits", 2, "--ema", 0.9),
        pytest.param(("--weight-bits", 2, "--accumulate", 2), marks=SLOW),
    ],
    ids=str,
)
def test_resumed_to_the_bit(
    here: Path,
    distill: Distill,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[Any, ...],
) -> None:
    net = ("--data", "digits", "--model", "cifar_resnet8", "--epochs", 1, "-b", 16, "--limit", 80)
    student = ("student", "--teachers", made.teacher, *net, *QUIET, *flags)
    assert distill(*student, "--out", "whole").code == 0
    plain, steps = Trainer.train_step, 0

    def stop(self: Trainer, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        distill(*student, "--checkpoint-every", 2, "--out", "r")
    assert not (here / "r/result.json").exists()
    assert distill(*student, "--out", "r", "--resume").code == 0
    one, other = weights(here / "whole"), weights(here / "r")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_layers_are_compared_and_kept_apart(here: Path, distill: Distill, made: Made) -> None:
    """Hints of a quantised student: taps have the names of the plain network."""
    student = ("student", "--teachers", made.teacher, *MLP, *QUIET, "--weight-bits", 2)
    hint = ("--objective", "kd,hint", "--out", "s")
    outcome = distill(*student, *hint)
    assert outcome.code == 0, outcome.err
    layers = yaml.safe_load((here / "s/recipe.yaml").read_text())["recorded"]["layers"]
    assert "parametrization" not in json.dumps(layers)


REFUSED: list[tuple[tuple[Any, ...], str]] = [
    (("--weight-bits", 1, "--quantizer", "lsq"), "of one bit weights are binary"),
    (("--weight-bits", 1, "--quantizer", "wrpn"), "of one bit weights are binary"),
    (("--weight-bits", 4, "--quantizer", "ternary"), "its weights have 2 bits"),
    (("--weight-bits", 2, "--quantizer", "binary"), "its weights have 1 bit."),
    (("--weight-bits", 5), "must be 1, 2, 3, 4 or 8"),
    (("--act-bits", 1), "must be 2, 3, 4 or 8"),
    (("--quantizer", "lsq"), "does not say how many bits"),
    (("--quantize-all",), "--quantize-all goes with --weight-bits"),
    (("--last-layer-bits", 8), "--last-layer-bits goes with --weight-bits"),
]


@pytest.mark.parametrize(("flags", "text"), REFUSED, ids=lambda value: str(value)[:40])
def test_bits_that_mean_nothing_are_refused(
    here: Path, distill: Distill, flags: tuple[Any, ...], text: str
) -> None:
    outcome = distill("teacher", "train", *MLP, *QUIET, *flags, "--out", "r")
    assert outcome.code == 2, outcome.err
    assert text in " ".join(outcome.err.split())
    assert not (here / "r").exists()


def test_a_network_of_ends_alone_is_refused(here: Path, distill: Distill) -> None:
    net = ("--data", "digits", "--model", "mlp_16x1", "--weight-bits", 2, "--out", "r")
    outcome = distill("teacher", "train", *net)
    assert outcome.code == 2, outcome.err
    assert "has no layer between its first and its last" in " ".join(outcome.err.split())
    assert distill("teacher", "train", *net, "--quantize-all", "--epochs", 1).code == 0


@pytest.mark.slow
def test_two_ranks_follow_one_process(here: Path, distill: Distill) -> None:
    sizes = ("--epochs", 1, "--limit", 256, "--sched", "constant", "--sync-bn", "--device", "cpu")
    net = ("--data", "digits", "--model", "cifar_resnet8", "-b", 64, "--augment", "none")
    args = ("teacher", "train", *net, *sizes, *QUIET, "--weight-bits", 4, "--quantizer", "wrpn")
    assert distill(*args, "--out", "one").code == 0
    for rank in by_ranks(2, *args, "--out", "two"):
        assert rank.code == 0, rank.err
    one, two = weights(here / "one"), weights(here / "two")
    # By rounding a weight may lie on the next level: of 7 on each side, one apart by a seventh.
    for key, value in one.items():
        off = (two[key].float() - value.float()).abs()
        assert float((off > 0.01).float().mean()) < 0.01, key


def test_steps_of_frozen_layers_stay(here: Path, distill: Distill) -> None:
    net = ("--data", "digits", "--model", "mlp_16x3", "--epochs", 2, "--limit", 100, *QUIET)
    assert distill("teacher", "train", *net, "--lr", 0.1, "--out", "full").code == 0
    flags = ("--init", "full", "--freeze", "layers.1", "--weight-bits", 4, "--lr", 0.1)
    outcome = distill("teacher", "train", *net[:2], *net[4:], *flags, "--out", "r")
    assert outcome.code == 0, outcome.err
    learnt = weights(here / "full")["layers.1.weight"]
    scale = layout(here / "r")["layers"]["layers.1"]["scale"]
    assert scale == pytest.approx(2 * float(learnt.abs().mean()) / 7**0.5, rel=1e-6)
    assert layout(here / "r")["layers"]["layers.2"]["scale"] != pytest.approx(
        2 * float(weights(here / "full")["layers.2.weight"].abs().mean()) / 7**0.5, rel=1e-6
    )


def test_statistics_are_of_all_classes_in_every_batch() -> None:
    """Rows of a folder stand class by class; and a batch of one image has no variance."""
    data = open_dataset("digits")
    by_class = data.train.label_N[data.fit_rows].argsort(stable=True)
    rows = data.fit_rows[by_class]
    batches = _batches(replace(data, fit_rows=rows))
    assert {len(batch) for batch in batches} == {len(batches[0])}
    if len(batches) > 1:
        means = torch.stack([batch.float().mean() for batch in batches])
        assert float(means.std() / means.mean()) < 0.05
    size = len(batches[0])
    assert len(_batches(replace(data, fit_rows=rows[: size + 1]))) == 1
    assert not _batches(replace(data, fit_rows=rows[:1]))


def test_what_is_said_of_labels_by_themselves_is_of_what_is_kept(
    here: Path, distill: Distill
) -> None:
    net = ("--data", "digits", "--model", "cifar_resnet8", "--epochs", 1, "--limit", 128)
    few = ("--targets", "sigmoid", "--weight-bits", 2, *QUIET, "--out", "r")
    outcome = distill("teacher", "train", *net, *few)
    assert outcome.code == 0, outcome.err
    outcome = distill("evaluate", "r", "--split", "val", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads((here / "r/result.json").read_text())
    assert json.loads(outcome.out)["map"] == pytest.approx(result["val_map"], rel=1e-4)


def test_dropmax_and_quantised_activations_are_refused(here: Path, distill: Distill) -> None:
    both = ("--act-bits", 4, "--objective", "dropmax", "--out", "r")
    outcome = distill("teacher", "train", *MLP, *QUIET, *both)
    assert outcome.code == 2, outcome.err
    assert "do not go together" in " ".join(outcome.err.split())
    assert not (here / "r").exists()


def test_levels_that_are_too_far_apart_are_told(here: Path, distill: Distill) -> None:
    net = ("--data", "digits", "--model", "cifar_resnet8", "--epochs", 1, "--limit", 64)
    few = ("--weight-bits", 2, "--quantizer", "wrpn", "--out", "r")
    outcome = distill("teacher", "train", *net, *few)
    assert outcome.code == 0, outcome.err
    assert "begin as zeros, and learn nothing" in " ".join(outcome.err.split())
