"""Copies in the splits of a dataset that has been read: counted, or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import torch

from distill_cli.data.copies import Copies, Labels, count_copies, superfluous
from distill_cli.data.inventory import Left
from distill_cli.data.split_images import ImageFiles, Images
from distill_cli.errors import ArtifactError
from distill_cli.types import UNLABELLED

Digests = Mapping[str, tuple[bytes, ...]]


def labels_of(images: Images) -> Labels:
    """The labels of each image: none, one or several."""
    if images.label_NK is not None:
        return [tuple((row_K > 0).nonzero()[:, 0].tolist()) for row_K in images.label_NK]
    return [() if label == UNLABELLED else (label,) for label in images.label_N.tolist()]


def copies_between(
    splits: Mapping[str, Images],
    digests: Digests,
    fit: Sequence[int],
    held: Set[int],
    unlabelled: Sequence[bytes] = (),
) -> Copies:
    """Counts copies between the images to train on, those held out and test, and across classes.

    Args:
        splits: The images.
        digests: Their contents.
        fit: Rows of train to train on.
        held: Rows of train that are held out, where there is no `val/`.
        unlabelled: Contents of the images of `--unlabelled`.
    """
    labels = {name: labels_of(images) for name, images in splits.items()}

    def part(name: str, rows: Sequence[int]) -> tuple[list[bytes], Labels]:
        return [digests[name][row] for row in rows], [labels[name][row] for row in rows]

    if "val" in splits:
        held_out = part("val", range(len(labels["val"])))
    else:
        held_out = part("train", sorted(held))
    test = part("test", range(len(labels["test"])))
    parts = {"train": part("train", fit), "held-out": held_out, "test": test}
    parts |= {"--unlabelled": (list(unlabelled), [()] * len(unlabelled))} if unlabelled else {}
    return count_copies(parts)


def without_copies(
    splits: Mapping[str, Images], digests: Digests
) -> tuple[dict[str, Images], Digests, list[Left]]:
    """The splits without the copies that `superfluous` names, and what is left out.

    Raises:
        ArtifactError: Nothing of a split remains.
    """
    parts = {
        name: (digests[name], labels_of(splits[name]))
        for name in ("train", "val")
        if name in splits
    }
    gone = superfluous(parts, digests["test"])
    kept_splits, kept_digests, left = dict(splits), dict(digests), []
    for name, rows in gone.items():
        images = splits[name]
        kept = [row for row in range(len(images.sample_ids)) if row not in rows]
        if not kept:
            raise ArtifactError(f"every image of {name} is a copy, and --dedupe leaves none")
        if rows:
            kept_splits[name] = images.take(torch.tensor(kept, dtype=torch.int64))
            kept_digests[name] = tuple(digests[name][row] for row in kept)
            left += [
                Left(_where(images, name, row), "copy", reason) for row, reason in rows.items()
            ]
    return kept_splits, kept_digests, left


def _where(images: Images, split: str, row: int) -> str:
    """The path of an image, or its split and sample id where it is held in memory."""
    if isinstance(images, ImageFiles):
        return images.source.where(int(images.row_N[row]))
    return f"{split}: {images.sample_ids[row]}"
