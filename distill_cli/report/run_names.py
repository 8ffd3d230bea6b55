"""Short names of run folders: as much of each path as tells it from the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from distill_cli.files import real_path

# The folder of one seed, in a folder of several.
RUN_OF_SEED = re.compile(r"seed-\d+")
NUMBERED = re.compile(r"(.*?)(\d+)")
# So many names are listed; of more, the first ones.
LISTED = 2


def group_names(groups: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each group of run folders: `student-1`, `hard, kd`, `hard-0…4`.

    Runs of several seeds in one folder go by that folder. No name says where on a machine the
    folders lie, beyond what tells them apart.
    """
    units = [_units(folders) for folders in groups]
    known = _shortest({unit for of_group in units for unit in of_group})
    return [_listed([known[unit] for unit in of_group]) for of_group in units]


def _units(folders: Sequence[Path]) -> list[Path]:
    """The folders of a group, those of seeds that lie beside each other as their parent."""
    paths = [_absolute(folder) for folder in folders]
    parents = [path.parent for path in paths if RUN_OF_SEED.fullmatch(path.name)]
    several = {parent for parent in parents if parents.count(parent) > 1}
    return list(dict.fromkeys(path.parent if path.parent in several else path for path in paths))


def _absolute(folder: Path) -> Path:
    """As it was typed; of `.`, the folder that it stands for."""
    return folder.absolute() if folder.name not in ("", "..") else real_path(folder)


def _shortest(paths: set[Path]) -> dict[Path, str]:
    """For each path, the fewest last parts that no other path ends with."""
    names = {}
    for path in paths:
        parts = path.parts
        length = 2 if RUN_OF_SEED.fullmatch(path.name) else 1
        while length < len(parts) and any(
            other != path and other.parts[-length:] == parts[-length:] for other in paths
        ):
            length += 1
        names[path] = "/".join(parts[-length:])
    return names


def _listed(names: Sequence[str]) -> str:
    numbered = [NUMBERED.fullmatch(name) for name in names]
    matches = [match for match in numbered if match is not None]
    numbers = [int(match[2]) for match in matches]
    if (
        len(matches) == len(names) > 1
        and len({match[1] for match in matches}) == 1
        and all(after == before + 1 for before, after in pairwise(numbers))
    ):
        return f"{names[0]}…{numbers[-1]}"
    more = len(names) - LISTED
    return ", ".join(names if more <= 0 else [*names[:LISTED], f"+{more}"])
