"""Identities that two artefacts must share: of their views and of their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from typing import Any, Literal, get_args

Source = Literal["table", "files"]
# The version of distill by whose rules data are read: which files are images, which folders are
# splits, and whether views are grey. 0.3.0 stands for all versions up to it.
DataVersion = Literal["0.3.0", "0.4.0"]
# What a seeded split goes by: the sample ids alone, or one side for all images of equal content.
SplitBy = Literal["id", "content"]
Resize = Literal["round", "floor"]
Orientation = Literal["stored", "exif"]
Background = Literal["none", "white", "black"]
Decoding = Literal["full", "scaled"]
# The fingerprint of what a dry run does not read: contents of images, weights of a teacher.
UNREAD = ""
# The fingerprint of unlabelled images that a dry run did not read; empty means that there are none.
UNREAD_IMAGES = "unread"
# The keys of an identity that speak of unlabelled images alone; absent without any.
UNLABELLED_KEYS = ("unlabelled", "unlabelled_samples")
# Pixels of a side of a view that networks and caches from elsewhere may have.
MOST_SIDE = 4096
# The values that each key of a framing may have.
FRAMINGS: Mapping[str, tuple[str, ...]] = {
    "resize": get_args(Resize),
    "orientation": get_args(Orientation),
    "background": get_args(Background),
    "decoding": get_args(Decoding),
}


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How the picture in a file becomes an image of a view's size.

    The defaults, `EARLIER_FRAMING`, are what versions before 0.4.0 did. Plans, recipes and models
    made by them do not say so: JSON has the other values alone. `decoding` came with 0.6.0.

    Attributes:
        resize: The longer side, once the shorter one fits: rounded down and cropped as torchvision
            and timm do (`floor`), or rounded to the nearest pixel (`round`).
        orientation: Pixels as they lie in the file (`stored`), or turned as its EXIF tag says.
        background: The colour behind transparent pixels; `none` drops alpha, which shows whatever
            colour the file has there.
        decoding: JPEGs at their own size (`full`), or at a half, a quarter or an eighth of it where
            what is cut out of them stays at least as large as the view (`scaled`).
    """

    resize: Resize = "round"
    orientation: Orientation = "stored"
    background: Background = "none"
    decoding: Decoding = "full"

    def __post_init__(self) -> None:
        for key, known in FRAMINGS.items():
            if getattr(self, key) not in known:
                raise ValueError(f"'{key}' should be one of {', '.join(known)}")

    def to_json(self) -> dict[str, Any]:
        """The values that are not those of versions before 0.4.0."""
        values = {key: getattr(self, key) for key in FRAMINGS}
        return {
            key: values[key] for key in FRAMINGS if values[key] != getattr(EARLIER_FRAMING, key)
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Framing:
        """The inverse of `to_json`, from among other keys.

        Raises:
            ValueError: A value is none of those that there are.
        """
        return cls(**{key: value[key] for key in FRAMINGS if key in value})


EARLIER_FRAMING = Framing()


@dataclass(frozen=True, kw_only=True)
class PlainView:
    """The image that a network is shown of a file where nothing is augmented.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: Pixels.
        width: Pixels.
        framing: How a picture of another size, orientation or mode becomes one of these.
    """

    channels: int
    height: int
    width: int
    framing: Framing = EARLIER_FRAMING

    def to_json(self) -> dict[str, Any]:
        """The view as plain JSON values."""
        size = {"channels": self.channels, "height": self.height, "width": self.width}
        return {**size, **self.framing.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PlainView:
        """The inverse of `to_json`; keys that it does not have are ignored.

        Raises:
            KeyError, ValueError: It is malformed.
        """
        channels, height, width = sizes = [value[key] for key in ("channels", "height", "width")]
        if not all(type(size) is int and 0 < size <= MOST_SIDE for size in sizes):
            raise ValueError(f"a view has height and width in pixels, {MOST_SIDE:,} at most")
        if channels not in (1, 3):
            raise ValueError("a view has 1 or 3 channels")
        return cls(channels=channels, height=height, width=width, framing=Framing.from_json(value))


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """All that decides the pixels of `view(sample, view_index)`, besides the sample itself.

    Attributes:
        augment: Augmentations in order, fully spelled: `("crop:4", "flip")`; empty for none.
        channels: 1 (grey) or 3 (RGB).
        height: Pixels.
        width: Pixels.
        seed: Seed of every random draw of a view; a training run's own seed is another one.
        source: The image that a view starts from: one of the view's size, decoded once (`table`), or
            the whole image, read from its file (`files`).
        framing: How a file's picture becomes the image that a view starts from.
    """

    augment: tuple[str, ...]
    channels: int
    height: int
    width: int
    seed: int
    source: Source = "table"
    framing: Framing = EARLIER_FRAMING

    @property
    def plain(self) -> PlainView:
        """The image that it starts from, not augmented."""
        return PlainView(
            channels=self.channels, height=self.height, width=self.width, framing=self.framing
        )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return any(step.split(":")[0] in ("mixup", "cutmix") for step in self.augment)

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values, those of the framing among the others."""
        values = {**asdict(self), "augment": list(self.augment), **self.framing.to_json()}
        return {key: value for key, value in values.items() if key != "framing"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ViewSpec:
        """The inverse of `to_json`; unknown keys raise TypeError.

        Raises:
            ValueError: A value of the framing is none of those that there are.
        """
        others = {key: item for key, item in value.items() if key not in FRAMINGS}
        others["augment"] = tuple(value["augment"])
        return cls(framing=Framing.from_json(value), **others)


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """The identity of a dataset under a split: equal wherever two artefacts are used together.

    Attributes:
        fingerprint: blake2b of the sorted (sample id, label, content hash) of the train split;
            `UNREAD` in a dry run that did not read them all.
        ids_digest: `digest_of_ids` of the sorted sample ids of the train split; `UNREAD` in a dry
            run that leaves out bad images, which it does not look for.
        samples: Rows of the train split, the held-out part included.
        class_names: In label order.
        split_seed: Seed of the train/held-out split.
        val_fraction: Share of the train split that is held out (0 where `val/` exists).
        split_by: `content` where equal images were kept on one side of that split and it is another
            than the sample ids alone would give; else `id`.
        dedupe: Whether copies were left out.
        unlabelled: blake2b of the sorted (sample id, content hash) of the images of --unlabelled, whose
            rows follow those of train; empty without any, `UNREAD_IMAGES` in a dry run that did not
            read them all.
        unlabelled_samples: Number of these rows.
    """

    fingerprint: str
    ids_digest: str
    samples: int
    class_names: tuple[str, ...]
    split_seed: int
    val_fraction: float
    split_by: SplitBy = "id"
    dedupe: bool = False
    unlabelled: str = ""
    unlabelled_samples: int = 0

    @property
    def rows(self) -> int:
        """Rows that a cache has: those of the train split, and the unlabelled images behind them."""
        return self.samples + self.unlabelled_samples

    @property
    def is_read(self) -> bool:
        """Whether nothing of it was left unread by a dry run."""
        return UNREAD not in (self.fingerprint, self.ids_digest) and (
            self.unlabelled != UNREAD_IMAGES
        )

    @property
    def beside(self) -> dict[str, Any]:
        """The keys of unlabelled images in plans and runs; none without any."""
        return {key: getattr(self, key) for key in UNLABELLED_KEYS if self.unlabelled}

    def with_unlabelled_of(self, other: DatasetIdentity | None) -> DatasetIdentity:
        """The same data, with the unlabelled images of another beside them, or with none."""
        none = {"unlabelled": "", "unlabelled_samples": 0}
        return replace(self, **{**none, **({} if other is None else other.beside)})

    @property
    def split(self) -> dict[str, Any]:
        """The split as a plan has it; the keys of versions up to 0.3.0 alone where that says it all."""
        values: dict[str, Any] = {"seed": self.split_seed, "val_fraction": self.val_fraction}
        if self.split_by != "id":
            values["split_by"] = self.split_by
        if self.dedupe:
            values["dedupe"] = True
        return values

    @staticmethod
    def split_rules(split: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `split`, from a mapping that may hold other keys too.

        Raises:
            ValueError: A value is none that it can have.
        """
        by, dedupe = split.get("split_by", "id"), split.get("dedupe", False)
        if by not in get_args(SplitBy) or not isinstance(dedupe, bool):
            raise ValueError("'split_by' should be id or content, and 'dedupe' true or false")
        return {"split_by": by, "dedupe": dedupe}

    def to_json(self) -> dict[str, Any]:
        """The identity as plain JSON values; as in earlier versions where it can be."""
        values = asdict(self)
        optional = {"split_by", "dedupe", *UNLABELLED_KEYS}
        for key in optional - self.split.keys() - self.beside.keys():
            values.pop(key)
        return {**values, "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetIdentity:
        """The inverse of `to_json`; unknown keys raise TypeError."""
        return cls(**{**value, "class_names": tuple(value["class_names"])})


def digest_of_ids(sample_ids: Sequence[str]) -> str:
    """blake2b-128 of sample ids joined by NUL, hexadecimal."""
    return blake2b("\0".join(sample_ids).encode(), digest_size=16).hexdigest()


def differences(expected: Any, found: Any) -> list[str]:
    """The fields in which two dataclasses of one type differ, as `name: expected … , found …`."""
    return [
        f"{field.name}: expected {getattr(expected, field.name)!r}, "
        f"found {getattr(found, field.name)!r}"
        for field in fields(expected)
        if getattr(expected, field.name) != getattr(found, field.name)
    ]
