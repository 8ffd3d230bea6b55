"""Augmentations by name: parsing of `crop:4,flip`, presets, and the table of names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from distill_cli.data import library_transforms as library
from distill_cli.data.colour import Grey, Jitter
from distill_cli.data.geometry import Affine, Cutout, Downscale, Flip, ResizedCrop, Shift
from distill_cli.data.library_transforms import LibraryTransform
from distill_cli.data.mixing import Cutmix, Mixup
from distill_cli.errors import UsageError, nearest

T = TypeVar("T")


class Augmentation(Protocol):
    """One change of an image.

    Attributes:
        draws: Number of uniform numbers that a sample needs; 0 where nothing is random.
    """

    draws: ClassVar[int]

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Changed uint8 images of the same shape."""


Step = Augmentation | LibraryTransform | Mixup | Cutmix


@dataclass(frozen=True)
class _Kind:
    """The augmentation behind a name.

    Attributes:
        build: Class of the augmentation.
        preset: Parameters that the name implies.
        pixels: Name of the parameter that is counted in pixels, which must be less than the side,
            and its default as a share of the side.
    """

    build: Callable[..., Any]
    preset: dict[str, float] = field(default_factory=dict)
    pixels: tuple[str, float] | None = None


KINDS = {
    "crop": _Kind(Shift, pixels=("pixels", 1 / 8)),
    "shift": _Kind(Shift, pixels=("pixels", 1 / 14)),
    "flip": _Kind(Flip),
    "cutout": _Kind(Cutout, pixels=("pixels", 1 / 4)),
    "rotate": _Kind(Affine, preset={"degrees": 15.0, "translate": 0.0, "scale": 0.0}),
    "affine": _Kind(Affine),
    "rrc": _Kind(ResizedCrop),
    "jitter": _Kind(Jitter),
    "downscale": _Kind(Downscale, pixels=("pixels", 1 / 4)),
    "grey": _Kind(Grey),
    "mixup": _Kind(Mixup),
    "cutmix": _Kind(Cutmix),
}
PRESETS = ("none", "light", "strong")
# Stands for a size that is not known yet.
ANY_SIDE = 2**31


def light(channels: int, side: int, *, files: bool, mirrored: bool = True) -> tuple[str, ...]:
    """The default, for nearly all images: colour is cropped and flipped, grey (writing) shifted."""
    if channels == 1:
        return ("shift",)
    return ("rrc" if files else "crop", *(("flip",) if mirrored else ()))


def strong(channels: int, side: int, *, files: bool, mirrored: bool = True) -> tuple[str, ...]:
    """The preset for long trainings: `light` and more; grey images are not mirrored."""
    if channels == 1:
        return ("shift", "affine:15:translate=0:scale=0.15:shear=10", "cutout")
    first = light(channels, side, files=files, mirrored=mirrored)
    return (*first, "v2/TrivialAugmentWide") if files else (*first, "rotate", "jitter", "cutout")


def parse(spelled: str, side: int) -> Step:
    """`crop:4` as an augmentation of images whose shorter side is `side`.

    Raises:
        UsageError: The augmentation does not exist, or does not take a parameter.
    """
    return _read(spelled, side)[0]


def _read(spelled: str, side: int) -> tuple[Step, str]:
    """The augmentation, and its full spelling."""
    if library.is_library(spelled):
        transform = library.parse(spelled, side)
        return transform, transform.spelled
    name, *arguments = spelled.split(":")
    kind = KINDS.get(name)
    if kind is None:
        known = [*KINDS, *PRESETS, *library.ALIASES]
        raise UsageError(f"augment: unknown '{spelled}'. {nearest(name, known)}")
    values = _arguments(spelled, kind, arguments)
    if kind.pixels is not None:
        key, share = kind.pixels
        values.setdefault(key, max(1, round(side * share)))
        if not 1 <= values[key] < side:
            most = f"to {side - 1}" if side < ANY_SIDE else "on"
            raise UsageError(f"augment: '{spelled}' needs pixels from 1 {most}")
    try:
        step = kind.build(**values)
    except ValueError as error:
        raise UsageError(f"augment: '{spelled}' takes {error}") from None
    return step, _spell(name, kind, step)


def _arguments(spelled: str, kind: _Kind, arguments: Sequence[str]) -> dict[str, Any]:
    """Values by parameter: a bare number goes to the first, or to those named `BARE`."""
    types = {f.name: int if f.type in (int, "int") else float for f in fields(kind.build)}  # type: ignore[arg-type]
    bare = getattr(kind.build, "BARE", tuple(types)[:1])
    values: dict[str, Any] = dict(kind.preset)
    for number, argument in enumerate(arguments):
        key, equals, text = argument.rpartition("=")
        keys = (key,) if equals else bare if number == 0 else ()
        unknown = [key for key in keys if key not in types]
        if not keys or unknown:
            takes = ", ".join(types) or "nothing"
            raise UsageError(f"augment: '{spelled}': {kind.build.__name__.lower()} takes {takes}")
        for one in keys:
            try:
                values[one] = types[one](text)
            except ValueError:
                word = "a whole number" if types[one] is int else "a number"
                raise UsageError(f"augment: '{spelled}': {one} is {word}, not '{text}'") from None
    return values


def _spell(name: str, kind: _Kind, step: Any) -> str:
    """The full spelling, every parameter by its value, which no later default can change."""
    values = {f.name: getattr(step, f.name) for f in fields(step)}
    if len(values) == 1:
        return f"{name}:{_number(next(iter(values.values())))}"
    return ":".join([name, *(f"{key}={_number(value)}" for key, value in values.items())])


def _number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return short if float(short := f"{value:g}") == value else repr(value)


def check_names(names: Sequence[str] | None) -> None:
    """Refuses misspelt augmentations before any image is decoded; sizes are checked later."""
    for name in names or []:
        if name not in PRESETS:
            parse(name, side=ANY_SIDE)


def resolve(
    names: Sequence[str] | None,
    *,
    channels: int,
    height: int,
    width: int,
    files: bool = False,
    mirrored: bool = True,
) -> tuple[str, ...]:
    """Presets, defaults and parameters spelt out; every name checked against the image's size.

    Args:
        names: Names as typed; None for the default, which is `light`.
        channels: Channels of the images, 1 or 3.
        height: Height of a view in pixels.
        width: Width of a view in pixels.
        files: Whether each view starts from the whole image, rather than from one of this size.
        mirrored: Whether presets flip images of colour; a `flip` that is named always does.

    Raises:
        UsageError: An augmentation does not exist, does not fit, or stands in a wrong place.
    """
    side = min(height, width)
    spelled: list[str] = []
    for name in ["light"] if names is None else names:
        if name == "none":
            if len(names or []) > 1:
                raise UsageError("augment: 'none' stands alone")
        elif name in PRESETS:
            preset = light if name == "light" else strong
            spelled += preset(channels, side, files=files, mirrored=mirrored)
        else:
            spelled.append(name)
    steps = [_read(name, side) for name in spelled]
    mixes = [isinstance(step, Mixup | Cutmix) for step, _ in steps]
    if mixes != sorted(mixes):
        raise UsageError("augment: mixup and cutmix come last: whole views are mixed")
    for kind in (Mixup, Cutmix):
        if sum(isinstance(step, kind) for step, _ in steps) > 1:
            raise UsageError(f"augment: {kind.__name__.lower()} stands twice")
    return tuple(full for _, full in steps)
