"""The first line about data: everything that was decided about them, and everything left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distill_cli.data.dataset import Dataset
from distill_cli.data.inventory import left_in_words, of_kind
from distill_cli.data.left_copies import labels_of
from distill_cli.data.source import UNLABELLED_PREFIX
from distill_cli.data.split_images import Images, labelled
from distill_cli.errors import counted
from distill_cli.pipeline.entries import SKIPPED


def are_characters(class_names: Sequence[str]) -> bool:
    """Whether all classes are single characters or numbers: mirrored, they would be others."""
    return all(len(name) == 1 or _is_number(name) for name in class_names)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def first_line(name: str, dataset: Dataset, *, size: int | None, mirrored: bool) -> str:
    """All of it in one line, in parts that semicolons separate.

    Args:
        name: The data as the user knows them.
        dataset: The data.
        size: The `--size` that was asked for.
        mirrored: Whether the default augmentation is what it would be whatever the classes are.
    """
    images = [dataset.train, dataset.test]
    images += [dataset.val] if dataset.identity.val_fraction == 0 else []
    beside = dataset.identity.unlabelled_samples
    used = sum(len(part.sample_ids) for part in images) - beside
    own = int((dataset.fit_rows < dataset.identity.samples).sum())
    parts = [
        f"{_files(dataset, used)}{counted(used, 'image')} used",
        f"{own:,} to train on{_unlabelled(dataset)}, "
        f"{len(dataset.val.sample_ids):,} held out, "
        f"{len(dataset.test.sample_ids):,} test",
        *_beside(dataset, len(dataset.fit_rows) - own),
        *([] if dataset.labels is None else dataset.labels.in_words()),
        *_left(dataset),
        _classes(dataset, images),
        _views(dataset, size),
    ]
    if not mirrored:
        parts.append("not mirrored: classes are single characters or numbers")
    if dataset.copies is not None and (copies := dataset.copies.text()):
        advice = "" if dataset.identity.dedupe else " (--dedupe leaves copies out)"
        parts.append(f"copies: {copies}{advice}")
    return f"{name}: {'; '.join(parts)}"


def _beside(dataset: Dataset, taken: int) -> list[str]:
    """The images of `--unlabelled`, some of which may not be trained on."""
    count = dataset.identity.unlabelled_samples
    some = f"{taken:,} of " if taken < count else ""
    if dataset.transductive:
        return [f"+ {some}{counted(count, 'test image')} without labels: transductive"]
    name = Path(dataset.unlabelled).name
    return [f"+ {some}{counted(count, 'unlabelled image')} of {name}"] if count else []


def _files(dataset: Dataset, used: int) -> str:
    """The number of files where it is not that of the images."""
    own = [one for one in dataset.left if not one.where.startswith(UNLABELLED_PREFIX)]
    beside = len(of_kind(own, "unreadable", "suffix", "place", "copy"))
    return f"{counted(used + beside, 'file')}, " if beside else ""


def _left(dataset: Dataset) -> list[str]:
    """What is not used, each kind by itself, and where all of it is listed."""
    parts = left_in_words(dataset.left)
    return [*parts[:-1], f"{parts[-1]} (all in {SKIPPED})"] if parts else []


def _unlabelled(dataset: Dataset) -> str:
    """How many of the images to train on have a label, where some have none."""
    own = dataset.fit_rows[dataset.fit_rows < dataset.identity.samples]
    known = int(labelled(dataset.train)[own].sum())
    if known == len(own):
        return ""
    return f" ({known:,} labelled, {len(own) - known:,} without labels)"


def _classes(dataset: Dataset, images: Sequence[Images]) -> str:
    """The classes with their smallest and largest counts: of images, or of the labels that are known."""
    if known := dataset.labels is not None and not dataset.multi_label:
        images = [dataset.train, dataset.val]
        if dataset.identity.val_fraction:
            # Held-out rows have their labels in train.
            images = [dataset.train]
    labels = [label for part in images for label in labels_of(part)]
    counts = Counter(one for label in labels for one in label)
    ranked = sorted((counts[k], k) for k in _named_by_labels(dataset))
    (least, smallest), (most, largest) = ranked[0], ranked[-1]
    sizes = f"{least:,} to {most:,}" if least < most else f"{least:,}"
    names = f" ({dataset.class_names[smallest]} to {dataset.class_names[largest]})"
    noun = "known labels" if known else "images"
    each = f" of {sizes} {noun}{names if least < most else ' each'}"
    if dataset.multi_label:
        return f"{counted(len(dataset.class_names), 'label')}, several an image,{each}"
    if dataset.group_K is not None:
        return f"{counted(len(ranked), 'group')}{each}"
    return f"{counted(len(dataset.class_names), 'class', 'classes')}{each}"


def _named_by_labels(dataset: Dataset) -> Sequence[int]:
    """The classes that labels may name: of coarse ones, the first of each group."""
    if dataset.group_K is None:
        return range(len(dataset.class_names))
    group_K = dataset.group_K.tolist()
    return [group_K.index(group) for group in sorted(set(group_K))]


def _views(dataset: Dataset, size: int | None) -> str:
    """Size and channels of a view, and why they are so."""
    grey, looked_at = dataset.grey
    sampled = "" if looked_at == dataset.identity.samples else " looked at"
    share = "all" if grey == looked_at else f"{grey:,}" if grey else "none"
    sides = "as they are"
    if size is not None:
        sides = "as --size says"
    elif dataset.sizes_differ:
        sides = "their sizes differ"
    colour = "grey" if dataset.channels == 1 else "colour"
    files = ", read from files" if dataset.from_files else ""
    why = f"{share} of {looked_at:,} training images{sampled} are grey"
    if not looked_at:
        why = "as --channels or a teacher has it"
    return f"{dataset.height}×{dataset.width} ({sides}) {colour} ({why}){files}"
