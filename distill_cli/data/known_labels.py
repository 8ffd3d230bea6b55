"""The outcome of a run's rules for labels: counts, words, and an identity."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from torch import Tensor

from distill_cli.errors import counted

# Classes that a line names; of more it says how many there are.
NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownLabels:
    """The knowledge that a run has of the labels of its data.

    Attributes:
        images: Images of train that have a label on disk, and of `val/` where there is one.
        known: Those to train on or held out whose label the run knows.
        held_out: Those of them that are held out.
        hidden: Images to train on whose label is hidden, of those that have one on disk.
        noise: The noise in words; empty without.
        changed: Known labels that the noise changed.
        classes: Classes of the data.
        groups: Groups of classes that coarse labels name; None where labels are fine.
        left_out: Classes that are left out of training.
        left_out_images: Images of them.
        limit: Images to train on and those it was chosen from, where a part was; else None.
        fold: The fold that is left out, from 1, of how many, and its images; None where none is.
        without: Images that a list leaves out, of those to train on and of those held out; None without one.
        listed: Labels that a list says, those of them that were not known, and those that were others;
            None without one.
        elsewhere: Rows of the list of labels whose images are neither trained on nor held out, nor test.
        unlabelled: Images without a label that no list of those to learn from names; None without one.
        of_test: Rows of these lists that are of test images, which stay as they are.
        split_rows: int64 training rows of the split, as caches know it.
        val_rows: int64 places of the held-out images among those that the split holds out.
        val_labels: Digest of the labels of all that the split holds out, as they lie on disk.
        digest: Digest of everything that a training reads of the labels, but for images from a source
            beside the data.
        beside: The same of these, where lists may say labels of them; else empty.
    """

    images: int
    known: int
    held_out: int
    hidden: int
    noise: str
    changed: int
    classes: int
    groups: int | None
    left_out: tuple[str, ...]
    left_out_images: int
    limit: tuple[int, int] | None
    fold: tuple[int, int, int] | None
    without: tuple[int, int] | None = None
    listed: tuple[int, int, int] | None = None
    elsewhere: int = 0
    unlabelled: int | None = None
    of_test: int = 0
    split_rows: Tensor
    val_rows: Tensor
    val_labels: str
    digest: str
    beside: str = ""

    @property
    def few(self) -> bool:
        """Whether more images are trained on than a label on disk is known of: those held out are few, too."""
        return bool(self.hidden or self.unlabelled or (self.listed is not None and self.listed[1]))

    def in_words(self) -> list[str]:
        """The differences from the data on disk, each kind by itself."""
        parts = []
        if self.hidden or not self.held_out:
            held_out = f"{self.held_out:,}" if self.held_out else "none"
            parts.append(
                f"{self.known:,} of {self.images:,} labelled ({held_out} of them held out)"
            )
        if self.noise:
            parts.append(f"{self.noise}: {counted(self.changed, 'label')} changed")
        if self.groups is not None:
            parts.append(
                f"coarse labels: {counted(self.groups, 'group')} of {self.classes} classes"
            )
        if self.left_out:
            names = ", ".join(self.left_out[:NAMED])
            more = ", …" if len(self.left_out) > NAMED else ""
            kind = "class" if len(self.left_out) == 1 else "classes"
            number = counted(self.left_out_images, "image")
            parts.append(f"not trained on: {kind} {names}{more} ({number})")
        if self.limit is not None:
            taken, of = self.limit
            parts.append(f"{taken:,} of {counted(of, 'image')} to learn from taken")
        if self.fold is not None:
            fold, count, images = self.fold
            parts.append(f"fold {fold} of {count} left out ({counted(images, 'image')})")
        if self.without is not None:
            fit, held = self.without
            parts.append(
                f"left out by a list: {counted(fit + held, 'image')} ({held:,} of them held out)"
            )
        if self.listed is not None:
            said, new, others = self.listed
            beside = f", {counted(self.elsewhere, 'row')} of other images" if self.elsewhere else ""
            parts.append(
                f"{counted(said, 'label')} of a list ({new:,} not known before, {others:,} changed{beside})"
            )
        if self.unlabelled is not None:
            parts.append(
                f"not learnt from: {counted(self.unlabelled, 'image')} without a label, which a list lacks"
            )
        if self.of_test:
            parts.append(f"{counted(self.of_test, 'row')} of test images passed over")
        return parts

    def to_json(self) -> dict[str, Any]:
        """The counts as recipe.yaml records them."""
        values: dict[str, Any] = {
            "images": self.images,
            "known": self.known,
            "held_out": self.held_out,
            "hidden": self.hidden,
            "digest": self.digest,
            **({"beside": self.beside} if self.beside else {}),
        }
        if self.noise:
            values |= {"noise": self.noise, "changed": self.changed}
        if self.groups is not None:
            values["groups"] = self.groups
        if self.left_out:
            values |= {"left_out": list(self.left_out), "left_out_images": self.left_out_images}
        if self.limit is not None:
            values["limit"] = list(self.limit)
        if self.fold is not None:
            values["fold"] = list(self.fold)
        if self.without is not None:
            values |= dict(zip(("without", "without_held_out"), self.without, strict=True))
        if self.unlabelled is not None:
            values["unlabelled_left_out"] = self.unlabelled
        if self.listed is not None:
            values |= dict(
                zip(("relabelled", "newly_known", "relabelled_otherwise"), self.listed, strict=True)
            )
        return values


def digest_of(*tensors: Tensor) -> str:
    """blake2b of int64 tensors."""
    whole = blake2b(digest_size=16)
    for values in tensors:
        whole.update(len(values).to_bytes(8, "little") + values.contiguous().numpy().tobytes())
    return whole.hexdigest()
