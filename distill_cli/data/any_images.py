"""The images of folders that need be no class folders, for sources whose labels are not looked at."""

from __future__ import annotations

from distill_cli.data.archives import Files
from distill_cli.data.class_folders import (
    NONE,
    Below,
    Chosen,
    in_words,
    leading,
    reason_beside,
    source_of,
)
from distill_cli.data.source import WHOLE, FileSource
from distill_cli.errors import ArtifactError


def images_below(files: Files) -> FileSource:
    """The images to learn from without labels: those of train where there are splits, else all.

    Args:
        files: The image files, in whatever folders.

    Raises:
        ArtifactError: There are none, or those of other splits alone.
    """
    below = Below(files, leading(files))
    chosen, left = dict(enumerate(below.paths)), dict[int, str]()
    if named := below.splits():
        train = [name for name, split in named.items() if split == "train"]
        if not train:
            raise ArtifactError(
                f"{files.where} has {in_words(list(named))} and no train/",
                hint="Images of val and test are none to learn from",
            )
        left = {n: reason_beside(p) for n, p in chosen.items() if p[0] not in train or len(p) == 1}
        chosen = {n: parts for n, parts in chosen.items() if n not in left}
    if not chosen:
        raise ArtifactError(f"{files.where} holds no images")
    return source_of(below.without(left), NONE, (), "train", chosen)


def splits_below(files: Files) -> dict[str, FileSource]:
    """All images by split and by path below it, or as one split, `train`, where there are no splits.

    Args:
        files: The image files, in whatever folders; which are classes is not asked.

    Raises:
        ArtifactError: Two folders mean one split, or train has no images.
    """
    below = Below(files, leading(files))
    named = below.splits()
    images: dict[str, Chosen] = {} if named else {"train": dict(enumerate(below.paths))}
    for name, split in named.items():
        if split in images:
            raise ArtifactError(f"two folders of {files.where} mean {split}/, one of them {name}/")
        images[split] = below.inside(name)
    if not images.get("train"):
        raise ArtifactError(f"{files.where} holds no images{' in train/' if named else ''}")
    names = () if named else WHOLE
    return {split: source_of(below.files, NONE, names, split, images[split]) for split in images}
