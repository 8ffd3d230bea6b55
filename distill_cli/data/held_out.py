"""The rows of a train split that are held out to choose the epoch, where there is no `val/`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distill_cli.data.split_images import Images
from distill_cli.data.splits import group_of, stratified
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.types import UNLABELLED, SplitBy


def held_out(
    train: Images,
    fraction: float,
    seed: int,
    contents: Sequence[bytes] | None,
    split_by: SplitBy,
) -> tuple[set[int], SplitBy]:
    """Rows to hold out, and whether equal images moved any of them from where its id alone puts it.

    Args:
        train: The train split.
        fraction: Share to hold out.
        seed: Seed of the split.
        contents: Digest of each row's image; None where they are not known.
        split_by: Whether images of equal content lie on one side.
    """
    held = _drawn(train, fraction, seed, None)
    if split_by == "id" or contents is None or len(set(contents)) == len(contents):
        return held, "id"
    together = _drawn(train, fraction, seed, contents)
    return together, "id" if together == held else "content"


def _drawn(train: Images, fraction: float, seed: int, contents: Sequence[bytes] | None) -> set[int]:
    """Rows to hold out, all of them labelled: unlabelled ones could not choose an epoch.

    Where several labels may apply, all rows are labelled, and the sets of labels are too many to be
    strata.
    """
    if train.label_NK is not None:
        alike = [0] * len(train.sample_ids)
        held = stratified(train.sample_ids, alike, fraction, seed, again=True, contents=contents)
        return held - _last_of_their_label(train.label_NK, held, contents)
    labelled = (train.label_N != UNLABELLED).nonzero()[:, 0].tolist()
    names = [train.sample_ids[row] for row in labelled]
    known = None if contents is None else [contents[row] for row in labelled]
    held = stratified(names, train.label_N[labelled].tolist(), fraction, seed, contents=known)
    return {labelled[position] for position in held}


def _last_of_their_label(
    label_NK: Tensor, held: set[int], contents: Sequence[bytes] | None
) -> set[int]:
    """Held-out rows to give back, so that every label has an image to train on."""
    kept: set[int] = set()
    for column in label_NK.unbind(dim=1):
        holders = (column > 0).nonzero()[:, 0].tolist()
        if holders and held.issuperset(holders):
            kept.update(group_of(holders[0], contents))
    return kept


def check_fraction(fraction: float, *, needed: bool) -> None:
    """Refuses a share to hold out that is none.

    Args:
        fraction: The share.
        needed: Whether there is no `val/`.

    Raises:
        UsageError: It is not between 0 and 1.
    """
    if needed and not 0 < fraction < 1:
        raise UsageError(
            f"val_fraction {fraction} is not between 0 and 1",
            hint="The best epoch is chosen on held-out images, and there is no val/",
        )


def some_rows(spec: str, held: set[int]) -> list[int]:
    """The held-out rows in order.

    Raises:
        ArtifactError: There is none.
    """
    if not held:
        raise ArtifactError(
            f"{spec} has too few labelled images to hold any out",
            hint="The best epoch is chosen on them; or give some in val/<class>/. Images of equal "
            "content are held out together, unless --split-by is id",
        )
    return sorted(held)
