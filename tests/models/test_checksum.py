"""Damage to a saved model is seen; other readers and models of other tools are none the worse."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from distill_cli.errors import ArtifactError
from distill_cli.models import InputSpec, create_network, load_model, network_fingerprint
from distill_cli.models.artifact import input_spec, save_model, save_temperature
from distill_cli.models.finite import first_not_finite

KEPT = Path(__file__).parents[1] / "fixtures" / "kept-0.3.0"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model."""
    torch.manual_seed(0)
    view = InputSpec(channels=1, height=4, width=4, mean=(0.3,), std=(0.2,))
    save_model(create_network("mlp_4x1", class_names=("cat", "dog"), view=view), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_no_flipped_bit_is_loaded(folder: Path, name: str) -> None:
    """One of each third byte."""
    path, draw = folder / name, random.Random(0)
    whole = path.read_bytes()
    for at in range(draw.randrange(3), len(whole), 3):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError) as caught:
            load_model(folder)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    load_model(folder)


def test_the_normalisation_that_a_run_goes_on_with_is_as_it_was_saved(folder: Path) -> None:
    config = folder / CONFIG
    config.write_text(config.read_text().replace("0.3", "0.2", 1))
    with pytest.raises(ArtifactError, match=r"config\.json is damaged"):
        input_spec(folder)


def test_a_fitted_temperature_has_a_checksum_too(folder: Path) -> None:
    save_temperature(load_model(folder), folder, 1.75)
    assert load_model(folder).temperature == 1.75
    config = folder / CONFIG
    config.write_text(config.read_text().replace("1.75", "1.76"))
    with pytest.raises(ArtifactError, match="checksum"):
        load_model(folder)


def test_other_readers_see_nothing_of_it(folder: Path) -> None:
    network = load_model(folder)
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 2
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(network.net.state_dict())


def test_whoever_changes_a_model_on_purpose_leaves_it_out(folder: Path) -> None:
    """A line says so, unless nobody asks."""
    lines: list[str] = []
    load_model(folder, tell=lines.append)
    assert lines == []
    tensors = load_file(folder / WEIGHTS)
    save_file({key: value + 1 for key, value in tensors.items()}, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    config["distill"]["class_names"] = ["dog", "cat"]
    del config["distill"]["checksum"]
    (folder / CONFIG).write_text(json.dumps(config))
    changed = load_model(folder, tell=lines.append)
    assert torch.equal(changed.net.state_dict()["fc.bias"], tensors["fc.bias"] + 1)
    assert changed.class_names == ("dog", "cat")
    [line] = lines
    assert f"{folder / WEIGHTS} has no checksum" in line
    assert network_fingerprint(load_model(folder)) == network_fingerprint(changed)


def test_models_of_before_have_none(tmp_path: Path) -> None:
    lines: list[str] = []
    for name in ("teacher", "cached"):
        shutil.copytree(KEPT / name / "model", tmp_path / name)
        before = (tmp_path / name / WEIGHTS).read_bytes()
        save_model(load_model(tmp_path / name, tell=lines.append), tmp_path / name)
        load_model(tmp_path / name, tell=lines.append)
        assert (tmp_path / name / WEIGHTS).read_bytes() != before
    assert len(lines) == 2


def test_weights_that_are_not_read_are_not_hashed(folder: Path) -> None:
    path = folder / WEIGHTS
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    load_model(folder, weights=False)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["fc.weight", "layers.0.bias"])
def test_weights_that_are_no_numbers(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / WEIGHTS)
    said = "NaN" if value != value else "infinity"
    with pytest.raises(ArtifactError, match=f"{WEIGHTS}: tensor {name} holds {said}"):
        load_model(folder)


def test_an_infinity_that_a_new_network_has_is_meant() -> None:
    """timm's gemma4_vit has bounds of ±∞ in buffers; batch norm's variances are buffers as well."""
    infinite = torch.tensor([1.0, float("inf"), -float("inf")])
    fresh = {"low": infinite.clone(), "count": torch.tensor(3), "none": torch.empty(0)}
    assert first_not_finite(fresh, fresh) is None
    assert first_not_finite(fresh, {}) == "tensor low holds infinity"
    assert first_not_finite({**fresh, "low": -infinite}, fresh) == "tensor low holds infinity"
    moved = {**fresh, "low": infinite[[1, 0, 2]]}
    assert first_not_finite(moved, fresh) == "tensor low holds infinity"
    spoilt = {"low": torch.tensor([float("nan"), float("inf"), -float("inf")])}
    assert first_not_finite(spoilt, spoilt) == "tensor low holds NaN"
    half = {"one": torch.tensor([1, float("inf")], dtype=torch.bfloat16)}
    assert first_not_finite(half, {}) == "tensor one holds infinity"
