"""Packed weights: streams of bits against whole numbers of Python, folders against what they were made of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.models import (
    InputSpec,
    Network,
    create_network,
    load_model,
    network_fingerprint,
    save_model,
    save_packed,
)
from distill_cli.models import packed as packing
from distill_cli.models.checksum import sealed_config, sealed_weights
from distill_cli.models.packed import pack_bits, unpack_bits
from distill_cli.models.quantised import quantised
from distill_cli.models.quantisers import Bits

PAGE = Path(__file__).parents[2] / "docs" / "packed-weights.md"
CONFIG, FILE = "config.json", "packed.safetensors"
LSQ = Bits(quantizer="lsq", weights=3, last=8)


def network(name: str, bits: Bits | None, classes: int = 3) -> Network:
    """A network with fresh weights, some of which quantise to zero."""
    torch.manual_seed(0)
    spec = InputSpec(channels=3, height=8, width=8, mean=(0.3,) * 3, std=(0.2,) * 3)
    net = create_network(name, class_names=tuple(map(str, range(classes))), view=spec)
    return net if bits is None else quantised(net, bits, torch.rand(4, 3, 8, 8))


def saved(folder: Path, name: str, bits: Bits | None, classes: int = 3) -> tuple[Path, Path]:
    """A model folder and the folder of its packed weights."""
    save_model(network(name, bits, classes), folder / "m")
    save_packed(folder / "m", folder / "p")
    return folder / "m", folder / "p"


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Names, types, shapes and every bit, the sign of a zero among them."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype
        and one[key].shape == other[key].shape
        and torch.equal(*(t[key].flatten().view(torch.uint8) for t in (one, other)))
        for key in one
    )


@pytest.mark.parametrize("bits", range(1, 9))
@settings(max_examples=15)
@given(count=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_stream_of_bits(bits: int, count: int, seed: int) -> None:
    """The number whose digits, of base 2^bits, are the codes: its bytes, the lowest first."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (count,), generator=generator, dtype=torch.uint8)
    whole = sum(code << (bits * place) for place, code in enumerate(codes.tolist()))
    stream = pack_bits(codes, bits)
    assert bytes(stream.tolist()) == whole.to_bytes(-(-count * bits // 8), "little")
    assert torch.equal(unpack_bits(stream, bits, count), codes)


@pytest.mark.parametrize("bits", [3, 8])
def test_a_stream_in_several_parts(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = (torch.arange(100) % 2**bits).to(torch.uint8)
    once = pack_bits(codes, bits)
    monkeypatch.setattr(packing, "CHUNK", 16)
    assert torch.equal(pack_bits(codes, bits), once)
    assert torch.equal(unpack_bits(once, bits, 100), codes)


KINDS = [
    *(Bits(quantizer="lsq", weights=bits) for bits in (2, 3, 4, 8)),
    *(Bits(quantizer="wrpn", weights=bits) for bits in (2, 3, 4, 8)),
    Bits(quantizer="ternary", weights=2, last=8),
    Bits(quantizer="binary", weights=1, everything=True),
    Bits(quantizer="wrpn", weights=4, activations=4),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda bits: f"{bits.quantizer}-{bits.weights}")
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Plain and packed, of odd widths: a layer of 7 × 7 weights fills no whole byte."""
    return saved(tmp_path_factory.mktemp("both"), "mlp_7x3", request.param)


def test_what_is_read_back_is_the_network(both: tuple[Path, Path], tmp_path: Path) -> None:
    plain, folder = both
    one, other = load_model(plain), load_model(folder)
    assert same_bits(one.net.state_dict(), other.net.state_dict())
    assert network_fingerprint(one) == network_fingerprint(other)
    images = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(one(images), other(images))
    save_packed(folder, tmp_path / "again")
    for name in (CONFIG, FILE):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    for name, layer in json.loads((folder / CONFIG).read_text())["distill"]["packed"][
        "layers"
    ].items():
        width = one.net.get_submodule(name).weight.numel()
        assert len(load_file(folder / FILE)[f"{name}.weight.codes"]) == -(
            -width * layer["bits"] // 8
        )


def the_pages_lines() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 25
    return str(code)


def test_the_pages_reader(both: tuple[Path, Path]) -> None:
    plain, folder = both
    names: dict[str, Any] = {}
    exec(the_pages_lines(), names)
    assert same_bits(names["read_packed"](folder), load_file(plain / "model.safetensors"))


def read_in_a_fresh_process(folder: Path, out: Path) -> dict[str, Tensor]:
    """The state dict that the page's lines alone give, where nothing of distill is known."""
    rest = (
        "import sys\nfrom safetensors.torch import save_file\n"
        "save_file(read_packed(sys.argv[1]), sys.argv[2])\n"
        "assert not [name for name in sys.modules if name.startswith(('distill', 'timm'))]\n"
    )
    command = [sys.executable, "-c", the_pages_lines() + rest, str(folder), str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert ended.returncode == 0, ended.stderr
    return load_file(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "last", "most"), [(1000, None, 0.11), (1000, 8, 0.08), (10, None, 0.07)]
)
def test_resnet18_of_two_bits(tmp_path: Path, classes: int, last: int | None, most: float) -> None:
    bits = Bits(quantizer="lsq", weights=2, last=last)
    plain, folder = saved(tmp_path, "timm/resnet18", bits, classes)
    sizes = [(plain / "model.safetensors").stat().st_size, (folder / FILE).stat().st_size]
    print(
        f"{classes} classes, last {last}: {sizes[1]:,} of {sizes[0]:,}, {sizes[1] / sizes[0]:.4f}"
    )
    assert sizes[1] / sizes[0] <= most
    read = read_in_a_fresh_process(folder, tmp_path / "read.safetensors")
    assert same_bits(read, load_file(plain / "model.safetensors"))
    one, other = load_model(plain), load_model(folder)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(one(images), other(images))


def test_what_has_no_levels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to pack"):
        saved(tmp_path, "mlp_7x3", None)
    assert not (tmp_path / "p").exists()


def test_a_weight_between_its_levels_is_refused(tmp_path: Path) -> None:
    net = network("mlp_7x3", LSQ)
    save_model(net, tmp_path / "m")
    moved = load_model(tmp_path / "m")
    with torch.no_grad():
        next(layer for name, layer in moved.net.named_parameters() if name == "layers.1.weight")[
            3, 3
        ] += 1e-4
    save_model(moved, tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"layers\.1 lie between the levels"):
        save_packed(tmp_path / "m", tmp_path / "p")


def damaged(folder: Path, **changes: Any) -> None:
    """Changes the packed layer layers.1, and seals the config anew: a lie, and no accident."""
    config = json.loads((folder / CONFIG).read_text())
    config["distill"].pop("checksum")
    entry = config["distill"]["packed"]["layers"]["layers.1"]
    for key, value in changes.items():
        (config["distill"]["packed"] if key == "format_version" else entry)[key] = value
    (folder / CONFIG).write_text(json.dumps(sealed_config(config)))


def recoded(folder: Path, name: str, value: Tensor) -> None:
    """Another tensor in the file, sealed anew."""
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / FILE).items()}
    (folder / FILE).write_bytes(sealed_weights({**tensors, name: value}))


CODES, SCALE = "layers.1.weight.codes", "layers.1.weight.scale"
BYTES = -(-49 * 2 // 8)
LIES: dict[str, tuple[Any, str]] = {
    "bits": (lambda f: damaged(f, bits=3), "does not agree"),
    "first": (lambda f: damaged(f, first=-2), "does not agree"),
    "version": (lambda f: damaged(f, format_version=2), "packed weights of format 2"),
    "true": (lambda f: damaged(f, format_version=True), "packed weights of format True"),
    "real": (lambda f: damaged(f, format_version=1.0), "packed weights of format 1.0"),
    "step": (lambda f: damaged(f, step=True), "does not agree"),
    "shape": (lambda f: damaged(f, shape=[7, 6]), "are not 11 bytes"),
    "turned": (lambda f: damaged(f, shape=[49]), r"layers\.1\.weight is float32 \[49\]"),
    "huge": (lambda f: damaged(f, shape=[1 << 20, 1 << 20]), "need 274,877,9"),
    "endless": (lambda f: damaged(f, shape=[1 << 62] * 8), "bytes, more than"),
    "none": (lambda f: damaged(f, shape=[0, 7]), "has no shape"),
    "text": (lambda f: damaged(f, shape="77"), "has no shape"),
    "level": (
        lambda f: recoded(f, CODES, torch.full((BYTES,), 255, dtype=torch.uint8)),
        "bits behind its last code are set",
    ),
    "code": (
        lambda f: recoded(f, CODES, torch.tensor([255] * (BYTES - 1) + [0], dtype=torch.uint8)),
        "is 3, of 3 levels",
    ),
    "length": (
        lambda f: recoded(f, CODES, torch.zeros(BYTES - 1, dtype=torch.uint8)),
        "are not 13 bytes",
    ),
    "type": (lambda f: recoded(f, CODES, torch.zeros(BYTES)), "are not 13 bytes"),
    "scale": (lambda f: recoded(f, SCALE, torch.ones(7, 1)), "the scale of layer"),
    "NaN": (lambda f: recoded(f, SCALE, torch.tensor(float("nan"))), "holds NaN"),
    "twice": (lambda f: recoded(f, "layers.1.weight", torch.ones(7, 7)), "codes and a scale alone"),
    "cut": (
        lambda f: (f / FILE).write_bytes((f / FILE).read_bytes()[:-5]),
        "no intact safetensors",
    ),
    "missing": (lambda f: (f / FILE).unlink(), "is missing"),
    "plain": (lambda f: (f / FILE).rename(f / "model.safetensors"), "its weights are packed"),
}


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder."""
    root = tmp_path_factory.mktemp("ternary")
    _, folder = saved(root, "mlp_7x3", Bits(quantizer="ternary", weights=2))
    load_model(folder)
    return folder


@pytest.mark.parametrize("name", LIES)
def test_a_damaged_folder_is_refused(ternary: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(ternary, tmp_path / "p"))
    change, text = LIES[name]
    change(folder)
    with pytest.raises(ArtifactError, match=text) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [CONFIG, FILE])
def test_no_flipped_bit_is_loaded(tmp_path: Path, name: str) -> None:
    _, folder = saved(tmp_path, "mlp_3x2", LSQ)
    whole = (folder / name).read_bytes()
    for at in range(0, len(whole), 301):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        (folder / name).write_bytes(flipped)
        with pytest.raises(ArtifactError):
            load_model(folder)


def test_levels_of_other_widths() -> None:
    """The layout takes every width from 1 to 8, whatever the command line offers."""
    for bits in range(1, 9):
        for quantizer in ("lsq", "wrpn") if bits > 1 else ("binary",):
            layer = packing.PackedLayer(quantizer=quantizer, bits=bits, shape=(5, 3))
            numbers = torch.arange(15) % layer.levels
            codes = (layer.first + layer.step * numbers).float().view(5, 3)
            entry = {"quantizer": quantizer, "bits": bits, "scale": 0.3}
            weight = codes * (torch.tensor(0.3))
            tensors, layers = packing.packed({"a.weight": weight}, {"layers": {"a": entry}})
            assert layers == {"a": replace(layer, shape=(5, 3))}
            assert same_bits(packing.unpacked(tensors, layers), {"a.weight": weight + 0.0})
