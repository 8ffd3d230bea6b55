"""Models that other programs saved: timm's folders teach, and of other files it is said what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from distill_cli.models import load_model, network_fingerprint
from distill_cli.types import Framing
from tests.cli.test_cache import shapes
from tests.cli.test_faults import one_line
from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]
STUDENT = ("student", "--model", "mlp_8x1", "--epochs", 1, "-b", 8, "--quiet")


def timms(folder: Path, **config: object) -> torch.nn.Module:
    """A network of timm's with the names of no classes, saved as timm saves one."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=2, in_chans=1)
    save_for_hf(net, folder, safe_serialization=True, model_config=config)
    return net.eval()


def test_it_is_the_network_with_its_own_normalisation(here: Path) -> None:
    net = timms(here / "t")
    network = load_model(here / "t", class_names=("bars", "rows"))
    images_BCHW = torch.rand(3, 1, 40, 40)
    config = json.loads((here / "t/config.json").read_text())["pretrained_cfg"]
    spec = network.input_spec
    assert [spec.channels, spec.height, spec.width] == config["input_size"]
    assert (list(spec.mean), list(spec.std)) == (config["mean"], config["std"])
    normalised_BCHW = (images_BCHW - spec.mean[0]) / spec.std[0]
    with torch.no_grad():
        assert torch.allclose(network.net(normalised_BCHW), net(normalised_BCHW))
    view = network.view
    assert view is not None
    assert [view.channels, view.height, view.width] == config["input_size"]
    assert view.framing == Framing(resize="floor", orientation="exif", background="white")
    assert network.class_names == ("bars", "rows")
    assert load_model(here / "t").class_names == ("output 0", "output 1")
    assert load_model(here / "t", class_names=("a", "b", "c")).class_names[0] == "output 0"
    timms(here / "named", label_names=["rows", "bars"])
    assert load_model(here / "named", class_names=("bars", "rows")).class_names == ("rows", "bars")


@pytest.mark.slow
def test_a_folder_that_timm_saved_teaches(here: Path, distill: Distill) -> None:
    shapes(here / "data", 8)
    timms(here / "t")
    common = ("--data", "data", "--teachers", "t", "--force")
    outcome = distill(*STUDENT, *common, "--out", "s")
    assert outcome.code == 0, outcome.err
    assert distill(*STUDENT, *common, "--out", "dry", "--dry-run").code == 0
    dump = ("cache-soft-labels", *common, "--augment", "none", "--out", "c", "--quiet")
    assert distill(*dump).code == 0
    assert distill("cache", "verify", "c", "--sample", 4, "--quiet").code == 0
    plan = json.loads((here / "c/plan.json").read_text())
    teacher = load_model(here / "t", class_names=("bars", "rows"))
    assert plan["teacher"]["fingerprint"] == network_fingerprint(teacher)
    assert distill("evaluate", "t", "--data", "data").code == 0
    timms(here / "named", label_names=["rows", "bars"])
    outcome = distill(*STUDENT, "--data", "data", "--teachers", "named", "--out", "x")
    assert outcome.code == 3
    assert "class 0 is 'rows' to teacher named" in one_line(outcome)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "resnet_of_nobody"}, "unknown architecture 'resnet_of_nobody'"),
        ({"num_classes": 3}, "does not fit test_resnet"),
        ({"model_args": {"checkpoint_path": "x"}}, "'checkpoint_path' may not be set"),
        ({"pretrained_cfg": {}}, "does not describe a network"),
        ({"pretrained_cfg": None}, "does not describe a network"),
        ({"model_type": "vit"}, "of Hugging Face transformers (vit)"),
    ],
)
def test_a_config_that_cannot_be_read(
    here: Path, distill: Distill, change: dict, said: str
) -> None:
    timms(here / "t")
    file = here / "t/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    outcome = distill(*STUDENT, "--data", "digits", "--teachers", "t", "--out", "s")
    assert outcome.code == 3
    line = one_line(outcome)
    assert said in line
    assert "KeyError" not in line


def test_weights_that_are_pickled_are_not_read(here: Path, distill: Distill) -> None:
    save_for_hf(timm.create_model("test_resnet", num_classes=10), here / "t")
    outcome = distill(*STUDENT, "--data", "digits", "--teachers", "t", "--out", "s")
    assert outcome.code == 3
    assert "safe_serialization=True" in one_line(outcome)


@pytest.mark.parametrize("verb", ["student", "evaluate", "predict", "init"])
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("net.pth", 3, "a pickle of weights without their network"),
        ("folder", 3, "folder/net.pth' is a pickle of weights without their network"),
        ("net.safetensors", 3, "weights without their network. Build the network with timm"),
        ("net.onnx", 3, "a network in ONNX"),
        ("notes.txt", 3, "is a file, and no run"),
        ("weights", 2, "is a file of a run or model. Give the folder: "),
        ("checkpoint", 2, "is a file of a run or model. Give the folder: "),
    ],
)
def test_of_a_file_it_is_said_what_it_is(
    made: Made, here: Path, distill: Distill, verb: str, name: str, code: int, said: str
) -> None:
    (here / "folder").mkdir()
    for path in ("net.pth", "folder/net.pth"):
        torch.save({"weight": torch.zeros(1)}, path)
    save_file({"weight": torch.zeros(1)}, "net.safetensors")
    for path in ("net.onnx", "notes.txt"):
        Path(path).write_bytes(b"x")
    run = made.teacher
    given = {
        "weights": run / "model/model.safetensors",
        "checkpoint": run / "last/checkpoint.pt",
    }.get(name, Path(name))
    args = {
        "student": (*STUDENT, "--teachers", given, "--out", "s"),
        "evaluate": ("evaluate", given),
        "predict": ("predict", given, "notes.txt"),
        "init": ("teacher", "train", "--data", "digits", "--init", given, "--out", "s", "--quiet"),
    }[verb]
    outcome = distill(*args)
    assert outcome.code == code, outcome.err
    assert said in one_line(outcome)
    if name in ("weights", "checkpoint"):
        assert one_line(outcome).rstrip().endswith(str(run)) or name == "weights"
    assert not (here / "s").exists()
    assert load_file("net.safetensors").keys() == {"weight"}
