"""Class folders as splits: train/<class>/*, test/<class>/* by their usual names, or <class>/* alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from distill_cli.data.archives import Files
from distill_cli.data.inventory import Left
from distill_cli.data.source import FileSource
from distill_cli.errors import ArtifactError
from distill_cli.types import UNLABELLED, DataVersion

SPLITS = ("train", "val", "test")
# What splits are called, without case, separators, and a last "set", "data", "images" or "split".
USUAL = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LAST_WORDS = ("images", "imgs", "split", "data", "set")
WANTED = "It needs train/<class>/ and test/<class>/, or only class folders"
BOTH = {"train", "test"}
# Folders that a message names at most.
NAMED = 4
NOWHERE, BESIDE = "in no class folder", "beside the splits"

Parts = tuple[str, ...]
# Parts of a path below its split, by the number of its file.
Chosen = Mapping[int, Parts]
NONE: Chosen = MappingProxyType({})


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for, as `Training_Set` for train; None for none."""
    plain = "".join(c for c in name.lower() if c not in "-_. ")
    for word in LAST_WORDS:
        if plain.endswith(word) and plain.removesuffix(word) in USUAL:
            return USUAL[plain.removesuffix(word)]
    return USUAL.get(plain)


def class_folders(files: Files, version: DataVersion) -> dict[str, FileSource]:
    """The splits train, test and perhaps val; or one, `all`, where there are class folders alone.

    Args:
        files: The image files.
        version: The version of distill whose names of splits count.

    Raises:
        ArtifactError: A split or a class has no images, or what looks like splits would be classes.
    """
    if version == "0.3.0":
        return _exactly_named(files)
    below = Below(files, leading(files))
    named = {name: split for name in below.tops if (split := split_of(name)) is not None}
    # A class may be called "train" or "Test": only folders below it make it a split.
    deep = [name for name in named if below.is_deep(name)]
    if deep and (set(named.values()) >= BOTH or any(name in SPLITS for name in deep)):
        return _named_splits(below, named)
    _refuse_splits_as_classes(below, deep)
    return _flat(below)


def leading(files: Files) -> int:
    """1 where all files lie in one leading folder that is no split, else 0."""
    if not files.top():
        return 0
    [first] = {parts[0] for parts in files.paths}
    inner = {split_of(parts[1]) for parts in files.paths}
    return int(split_of(first) is None or inner >= BOTH)


def _exactly_named(files: Files) -> dict[str, FileSource]:
    """As versions up to 0.3.0 did: train, val and test are called just so."""
    below = Below(files, files.top())
    if any(parts[0] in SPLITS and len(parts) > 2 for parts in below.paths):
        return _named_splits(below, {split: split for split in SPLITS})
    return _flat(below)


class Below:
    """Files without a leading folder that all of them lie in."""

    def __init__(self, files: Files, top: int) -> None:
        self.files = files
        self.leading = files.paths[0][:top] if files.paths else ()
        self.paths = [parts[top:] for parts in files.paths]
        self.folders = {parts[top:] for parts in files.folders if len(parts) > top}
        # The folders that hold images, sorted.
        self.tops = sorted({parts[0] for parts in self.paths if len(parts) > 1})

    def splits(self) -> dict[str, str]:
        """The splits that folders stand for, whatever is below them; none where these are no splits."""
        named = {name: split for name in self.tops if (split := split_of(name)) is not None}
        loose = any(len(parts) == 1 for parts in self.paths)
        # Beside other folders, one called "train" that holds images alone may be a class.
        whole = not loose and len(named) == len(self.tops)
        return named if named and (whole or any(map(self.is_deep, named))) else {}

    def is_deep(self, name: str) -> bool:
        """Whether a folder holds images in folders of its own."""
        return any(parts[0] == name and len(parts) > 2 for parts in self.paths)

    def inside(self, name: str) -> dict[int, Parts]:
        """The images of a folder, by their parts below it."""
        paths = enumerate(self.paths)
        return {n: parts[1:] for n, parts in paths if parts[0] == name and len(parts) > 1}

    def without(self, left: Mapping[int, str]) -> Files:
        """The files, some of them noted as left out for a reason."""
        noted = [
            Left(self.files.path(self.files.paths[n]), "place", why) for n, why in left.items()
        ]
        return replace(self.files, left=tuple(sorted((*self.files.left, *noted))))


def _refuse_splits_as_classes(below: Below, deep: Sequence[str]) -> None:
    """Refuses folders that look like splits and would be classes.

    Raises:
        ArtifactError: With what to do.
    """
    where, tops = below.files.where, below.tops
    alike = {name: _resembling(name) for name in tops}
    if deep:
        missing = sorted(BOTH - {alike[name] for name in deep})
        raise ArtifactError(
            f"{where} has {in_words(deep)}, which looks like a split, but no "
            f"{' and no '.join(f'{split}/<class>/' for split in missing)}",
            hint=f"{WANTED}. If it is a class, give its folder another name",
        )
    if set(alike.values()) >= BOTH and None not in alike.values():
        raise ArtifactError(
            f"{where} has {in_words(tops)}, which look like splits and would be taken for classes",
            hint=f"{WANTED}; if they are classes, give their folders other names. A .csv of files "
            "and labels does without folders",
        )
    inner = sorted({parts[1] for parts in below.paths if len(parts) > 2})
    shallow = any(len(parts) == 2 for parts in below.paths)
    kinds = {split_of(name) for name in inner}
    if kinds >= BOTH and None not in kinds and not shallow:
        inside = f"Give --data {below.files.path((*below.leading, tops[0]))}"
        outside = "Put the splits outside, as train/<class>/ and test/<class>/"
        raise ArtifactError(
            f"the folders of {where} hold {in_words(inner)}, which look like splits",
            hint=inside if len(tops) == 1 else outside,
        )


def _resembling(name: str) -> str | None:
    """The split that a folder's name stands for, or has as one of its words: seg_train, val2017."""
    words = re.findall("[a-z]+", name.lower())
    return split_of(name) or next((USUAL[word] for word in words if word in USUAL), None)


def in_words(names: Sequence[str]) -> str:
    """Folders, the first few of them, by name."""
    return ", ".join(f"{name}/" for name in names[:NAMED]) + (", …" if len(names) > NAMED else "")


def _flat(below: Below) -> dict[str, FileSource]:
    """Class folders alone."""
    flat = {n: parts for n, parts in enumerate(below.paths) if len(parts) > 1}
    if not flat:
        raise ArtifactError(
            f"{below.files.where} holds no class folders with images",
            hint="Images without labels go into train/, beside test/<class>/ and val/<class>/",
        )
    names = _class_names(
        below.files,
        {p[0] for p in below.folders if len(p) == 1},
        {parts[0] for parts in flat.values()},
    )
    left = {n: NOWHERE for n in range(len(below.paths)) if n not in flat}
    return {"all": source_of(below.without(left), flat, names, "")}


def _named_splits(below: Below, folder_splits: Mapping[str, str]) -> dict[str, FileSource]:
    """Splits by folder; images of train in no class folder are unlabelled."""
    files = below.files
    folder_of: dict[str, str] = {}
    for name, split in folder_splits.items():
        if split in folder_of:
            raise ArtifactError(
                f"{files.where} has {folder_of[split]}/ and {name}/, which both mean {split}/",
                hint="Put their images into one folder, or move one of them elsewhere",
            )
        folder_of[split] = name
    inside = {
        split: below.inside(folder_of[split]) if split in folder_of else {} for split in SPLITS
    }
    loose = {n: parts for n, parts in inside["train"].items() if len(parts) == 1}
    labelled = {
        split: {n: p for n, p in images.items() if len(p) > 1} for split, images in inside.items()
    }
    names = _names_of(below, folder_of, labelled, unlabelled=bool(loose))
    left = {
        n: NOWHERE if any(n in images for images in inside.values()) else reason_beside(parts)
        for n, parts in enumerate(below.paths)
        if n not in loose and not any(n in images for images in labelled.values())
    }
    files = below.without(left)
    return {
        split: source_of(files, labelled[split], names, split, loose if split == "train" else NONE)
        for split in SPLITS
        if labelled[split] or (split == "train" and loose)
    }


def reason_beside(parts: Parts) -> str:
    """The reason to leave out an image that lies in no split."""
    return f"in {parts[0]}/, {BESIDE}" if len(parts) > 1 else BESIDE


def _names_of(
    below: Below,
    folder_of: Mapping[str, str],
    labelled: Mapping[str, Chosen],
    *,
    unlabelled: bool,
) -> Parts:
    """The classes of train; where it has images without labels, those of all splits."""
    files = below.files
    names: tuple[str, ...] = ()
    for split in SPLITS:
        folder = folder_of.get(split, split)
        if not labelled[split] and not (split == "train" and unlabelled):
            if split == "val" and (folder,) not in below.folders:
                continue
            more = "; move a fifth of each class there" if split == "test" else ""
            raise ArtifactError(
                f"{files.where} has no images in {folder}/<class>/", hint=f"{WANTED}{more}"
            )
        used = _class_names(
            files,
            {p[1] for p in below.folders if len(p) == 2 and p[0] == folder},
            {parts[0] for parts in labelled[split].values()},
        )
        names = tuple(sorted({*names, *used}, key=os.fsencode)) if unlabelled else names or used
    return names


def _class_names(files: Files, folders: set[str], used: set[str]) -> tuple[str, ...]:
    empty = sorted(folders - used)
    if empty:
        raise ArtifactError(f"class folder '{empty[0]}' of {files.where} holds no images")
    return tuple(sorted(used, key=os.fsencode))


def source_of(
    files: Files, chosen: Chosen, names: tuple[str, ...], split: str, unlabelled: Chosen = NONE
) -> FileSource:
    """Images of class folders, and others without labels, as a split."""
    labels = {name: label for label, name in enumerate(names)}
    unknown = sorted({parts[0] for parts in chosen.values()} - set(names))
    if unknown:
        raise ArtifactError(
            f"class '{unknown[0]}' of {files.where}, {split}/, does not stand in train/"
        )
    rows = [(n, "/".join(parts), labels[parts[0]]) for n, parts in chosen.items()]
    rows += [(n, "/".join(parts), UNLABELLED) for n, parts in unlabelled.items()]
    return FileSource(files, tuple(sorted(rows, key=lambda row: os.fsencode(row[1]))), names)
