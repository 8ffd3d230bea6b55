"""Names that options take, known before torch, timm and torchvision are imported: for completion.

Sources are searched as text: of what this package and the installed libraries register, in a tenth of
a second, where an import takes ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from distill_cli.recipe.catalog import PACKAGE

# Our own networks and data that need no download; both are registered where torch is.
OUR_MODELS = (
    *("distill_mlp", "mlp_800x2", "fitnet_1", "fitnet_2", "fitnet_3", "fitnet_4"),
    *(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *("cifar_resnet8x4", "cifar_resnet32x4"),
    *(f"cifar_wrn_{depth}_{wide}" for depth in (16, 28, 40) for wide in (1, 2)),
)
DATA = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")
OBJECTIVE = re.compile(r'ObjectiveInfo\(\s*name="([^"]+)"')
# As timm and torchvision both mark the functions that make a network.
MODEL = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)
MLP = re.compile(r"mlp_[0-9]+x[0-9]+")
TORCHVISION = "torchvision/"


def objectives() -> list[str]:
    """Every objective there is, sorted."""
    return _named(OBJECTIVE, PACKAGE / "objectives")


def models() -> list[str]:
    """Every network there is: ours, timm's, and torchvision's as torchvision/NAME."""
    others = (TORCHVISION + name for name in _named(MODEL, _library("torchvision")))
    return [*OUR_MODELS, *_named(MODEL, _library("timm")), *others]


def is_model(name: str) -> bool:
    """Whether there may be such a network: False only where no source knows its name.

    Names that timm has given up stand in its sources as texts.
    """
    plain = name.removeprefix("timm/").removeprefix(TORCHVISION).split(".")[0]
    if plain in OUR_MODELS or MLP.fullmatch(plain):
        return True
    if re.fullmatch(r"\w+", plain) is None:
        return False
    word = re.compile(rf"\b{plain}\b")
    folders = (PACKAGE / "models", _library("timm"), _library("torchvision"))
    return any(word.search(text) for folder in folders for text in _texts(folder))


def _library(name: str) -> Path | None:
    """The folder of a library's networks, found without importing it."""
    spec = find_spec(name)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(places[0]) / "models" if places else None


def _named(pattern: re.Pattern[str], folder: Path | None) -> list[str]:
    return sorted({name for text in _texts(folder) for name in pattern.findall(text)})


def _texts(folder: Path | None) -> Iterator[str]:
    files = folder.glob("*.py") if folder is not None else ()
    return (path.read_text(encoding="utf-8") for path in files)
