"""torchvision's and timm's transforms as functions of (sample, view): each call is seeded."""

from __future__ import annotations

import ast
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill_cli.errors import UsageError, nearest, reason

# Names of the papers for torchvision's transforms.
ALIASES = {
    "randaugment": "v2/RandAugment",
    "trivialaugment": "v2/TrivialAugmentWide",
    "autoaugment": "v2/AutoAugment",
}
PREFIXES = ("v2/", "timm/")


@dataclass(frozen=True)
class LibraryTransform:
    """A transform of one Pillow image, which draws from the global generators.

    Attributes:
        spelled: Spelling in a view spec: `v2/RandAugment:magnitude=5`, `timm/rand-m9-mstd0.5`.
        apply: The transform.
    """

    spelled: str
    apply: Callable[[Image.Image], Image.Image] = field(compare=False, repr=False)

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """The image, changed as this seed says; of the same size and mode.

        Raises:
            UsageError: The transform fails, or returns no image of the same size.
        """
        with seeded(seed):
            try:
                changed = self.apply(image)
            except Exception as error:
                # Libraries raise any exception on an image that they cannot use.
                raise UsageError(
                    f"augment: {self.spelled} fails on an image: {reason(error)}"
                ) from None
        if not isinstance(changed, Image.Image) or changed.size != image.size:
            raise UsageError(
                f"augment: {self.spelled} does not give back an image of the same size",
                hint="It belongs to a place where tensors or other sizes are wanted",
            )
        return changed if changed.mode == image.mode else changed.convert(image.mode)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under Python's, NumPy's and torch's global generators, then restores them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # torch.manual_seed would seed the accelerators' generators too.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def is_library(spelled: str) -> bool:
    """Whether an augmentation is torchvision's or timm's."""
    return spelled.startswith(PREFIXES) or spelled.partition(":")[0] in ALIASES


def parse(spelled: str, side: int) -> LibraryTransform:
    """`v2/NAME:key=value:…` or `timm/SPEC` as a transform of images of this side.

    Raises:
        UsageError: The library has no such transform, or it does not take an argument.
    """
    short, colon, rest = spelled.partition(":")
    spelled = ALIASES.get(short, short) + colon + rest
    library, _, rest = spelled.partition("/")
    name, *arguments = rest.split(":")
    apply = _torchvision(spelled, name, arguments) if library == "v2" else _timm(rest, side)
    return LibraryTransform(spelled, apply)


def _torchvision(spelled: str, name: str, arguments: list[str]) -> Any:
    from torchvision.transforms import v2

    known = [
        name
        for name, kind in vars(v2).items()
        if inspect.isclass(kind) and issubclass(kind, v2.Transform) and kind is not v2.Transform
    ]
    if name not in known:
        raise UsageError(f"augment: torchvision has no transform '{name}'. {nearest(name, known)}")
    pairs = [argument.partition("=") for argument in arguments]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError(f"augment: arguments of {name} are key=value, not '{arguments[0]}'")
    try:
        return getattr(v2, name)(**{key: _value(text) for key, _, text in pairs})
    except (TypeError, ValueError) as error:
        raise UsageError(f"augment: {spelled}: {reason(error)}") from None


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _timm(spec: str, side: int) -> Any:
    from timm.data import auto_augment

    # The values of timm's training script, except for the largest magnitude: at 10 some operations
    # of the increasing kind leave their range and raise.
    hparams: dict[str, Any] = {
        "translate_const": int(side * 0.45),
        "img_mean": (124, 116, 104),
        "magnitude_max": 9.99,
    }
    builders = {
        "rand": auto_augment.rand_augment_transform,
        "augmix": auto_augment.augment_and_mix_transform,
    }
    build = builders.get(spec.split("-")[0], auto_augment.auto_augment_transform)
    try:
        transform = build(spec, hparams)
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"augment: timm/{spec}: {reason(error) if str(error) else 'no such policy'}",
            hint="As timm spells it: rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, original-mstd0.5, 3a",
        ) from None
    # timm fills with a colour: grey images go through RGB, and come back unchanged otherwise.
    return lambda image: transform(image.convert("RGB"))
