"""README.md of a model folder: a head, the steps from a file to logits, and code that fits the model."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from distill_cli.models import InputSpec, config_of, create_network
from distill_cli.report.model_readme import model_readme
from distill_cli.types import Framing, PlainView, RunResult
from tests.report.made import FIGURES, RECIPE

TODAY = Framing(resize="floor", orientation="exif", background="white")


def config(name: str, framing: Framing | None, side: int = 32, **more: Any) -> dict[str, Any]:
    view = InputSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.2,) * 3)
    network = create_network(name, class_names=("a", "b"), view=view)
    if framing is not None:
        network.view = PlainView(channels=3, height=side, width=side, framing=framing)
    for key, value in more.items():
        setattr(network, key, value)
    return config_of(network)


def readme(**given: Any) -> str:
    recipe = {**RECIPE, "data": "/home/someone/photos", "model": "resnet10t"}
    return model_readme(recipe, RunResult(**FIGURES), config(**given))


def test_of_a_network_of_todays_run() -> None:
    text = readme(name="test_resnet", framing=TODAY, temperature=1.4321)
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "timm"
    assert {"image-classification", "timm"} <= set(head["tags"])
    for said in (
        *("# resnet10t on photos", "2 classes", "90.00 %", "1. turned", "2. RGB, white behind"),
        *("rounded down", "T = 1.432", "the same pixels", "(logits / temperature).softmax(-1)"),
        *('convert("RGB")', "exif_transpose"),
    ):
        assert said in text, said
    assert "import distill_cli.models" not in text
    assert "someone" not in text


def test_of_an_earlier_runs_network() -> None:
    text = readme(name="mlp_2x1", framing=Framing())
    for said in (
        *("1. RGB, alpha dropped", "to the nearest pixel", "import distill_cli.models"),
        *("no temperature was fitted", "comes close", "= logits.softmax(-1)"),
    ):
        assert said in text, said
    assert "exif" not in text.lower()
    assert "import json" not in text


def test_of_a_view_of_another_size() -> None:
    text = readme(name="test_resnet", framing=TODAY, side=20)
    assert "covers 20 × 20" in text
    assert "converted to 3 × 32 × 32" in text
    assert "comes close" in text
    assert "converted" not in readme(name="test_resnet", framing=TODAY)


@pytest.mark.parametrize("name", ["test_resnet", "torchvision/squeezenet1_1"])
def test_of_labels_by_themselves(name: str) -> None:
    text = readme(name=name, framing=TODAY, targets="sigmoid")
    assert "σ(z)" in text
    assert ("logits.sigmoid()" in text) == (name == "test_resnet")
    assert ("library_name" in text) == (name == "test_resnet")
    assert ("timm cannot load it" in text) == (name != "test_resnet")
