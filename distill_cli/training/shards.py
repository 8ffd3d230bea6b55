"""Sharded tensors of a checkpoint: each rank's parts in a safetensors file of its own, none pickled.

The checkpoint has a mark in place of each such tensor, and the names and sums of the files. A tensor's
rows lie in them in the order of the ranks, so that any number of ranks, or one process, reads its own.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from distill_cli.errors import ArtifactError
from distill_cli.files import below, by_every_rank, remove, write_bytes
from distill_cli.ranks import Ranks
from distill_cli.sharding import is_sharded, laid_as, local
from distill_cli.training.sharded import ShardedState

NAME = re.compile(r"shard-(\d+)-(\d+)\.safetensors")
# What stands in place of a tensor: its name in the files.
MARK = "sharded"

# Names of values on the way to a tensor of a state.
Route = tuple[Any, ...]


def taken_out(states: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """States with a mark in place of each sharded tensor, and this rank's parts of them by name."""
    parts: dict[str, Tensor] = {}

    def mark(value: Any, route: Route) -> Any:
        if not is_sharded(value):
            return value
        name = "/".join(map(str, route))
        parts[name] = local(value).detach().cpu().clone(memory_format=torch.contiguous_format)
        return {MARK: name}

    return _mapped(dict(states), mark), parts


def write(
    run: Path, folder: Path, parts: Mapping[str, Tensor], ranks: Ranks
) -> list[dict[str, str]]:
    """Writes this rank's parts, and has all ranks do so.

    Args:
        run: The run folder, below which no link is followed.
        folder: The folder of the checkpoint.
        parts: The parts by name.
        ranks: The ranks.

    Returns:
        Names and sums of the files of all ranks, in their order.

    Raises:
        DistillError: Some rank cannot write its file, or writes it where rank 0 does not see it.
    """
    numbers = (int(found[1]) for path in written(folder) if (found := NAME.fullmatch(path.name)))
    number = ranks.led(lambda: max(numbers, default=0) + 1)

    def own() -> tuple[dict[str, str], str]:
        content = save(dict(parts))
        file = f"shard-{number}-{ranks.number}.safetensors"
        with by_every_rank(), below(run):
            write_bytes(folder / file, content)
        return {"file": file, "sha256": hashlib.sha256(content).hexdigest()}, socket.gethostname()

    files = ranks.values(ranks.together(own))

    def seen() -> None:
        for rank, (file, host) in enumerate(files):
            if not (folder / file["file"]).is_file():
                raise ArtifactError(
                    f"rank {rank} on {host} wrote {folder / file['file']}, and rank 0 sees no such file",
                    hint="With --shard every machine writes its part: put --out into a folder that all share",
                )

    ranks.led(seen)
    return [file for file, _ in files]


def written(folder: Path) -> list[Path]:
    """The files of parts in a folder."""
    return [path for path in folder.glob("shard-*") if NAME.fullmatch(path.name)]


def remove_but(folder: Path, files: Sequence[Mapping[str, str]]) -> None:
    """Removes the files of parts that are none of these."""
    kept = {file["file"] for file in files}
    for path in written(folder):
        if path.name not in kept:
            remove(path)


def check(folder: Path, files: Any) -> None:
    """Checks that the files of a checkpoint are there, and whole.

    Raises:
        ValueError: They are not, or what names them is damaged.
    """
    if not isinstance(files, list) or not all(map(_is_entry, files)):
        raise ValueError("the names of its shards are damaged")
    for entry in files:
        path = folder / entry["file"]
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{entry['file']} is missing")
        status = path.stat()
        if _sum(path, status.st_size, status.st_mtime_ns) != entry["sha256"]:
            raise ValueError(f"the checksum of {entry['file']} does not agree")


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"file", "sha256"}
        and all(isinstance(value, str) for value in entry.values())
        and NAME.fullmatch(entry["file"]) is not None
    )


@cache
def _sum(path: Path, size: int, changed: int) -> str:
    """The sum of a file, made once: a resume asks more than once for one that may be huge."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shards:
    """The tensors of a checkpoint that lie in files of parts.

    Args:
        folder: Their folder.
        files: Their names and sums, checked.
    """

    def __init__(self, folder: Path, files: Sequence[Mapping[str, str]]) -> None:
        self.files: list[Any] = [safe_open(folder / file["file"], "pt") for file in files]

    def held(self, state: Any, part: object) -> Any:
        """A kept state as a part of training holds its own: in parts on the ranks, or whole.

        Args:
            state: The state, with marks.
            part: The network, optimiser, … that it is of.

        Raises:
            ValueError: A marked tensor is missing, or in pieces that do not fit each other.
        """
        like = _like(part)

        def put(value: Any, route: Route) -> Any:
            marked = isinstance(value, dict) and value.keys() == {MARK}
            if not marked and not isinstance(value, Tensor):
                return value
            wanted = like(route)
            if marked:
                shape, rows = self._find(value[MARK])
            else:
                shape, rows = list(value.shape), value.__getitem__
            if wanted is not None and is_sharded(wanted) and list(wanted.shape) == shape:
                return laid_as(wanted, rows)
            return rows(slice(0, shape[0])) if marked else value

        return _mapped(state, put)

    def _find(self, name: Any) -> tuple[list[int], Callable[[slice], Tensor]]:
        """The shape of a marked tensor, and what reads rows of it."""
        slices = [file.get_slice(name) for file in self.files if name in file.keys()]  # noqa: SIM118
        shapes = [list(one.get_shape()) for one in slices]
        if not shapes or any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
            raise ValueError(f"{name} is missing from its shards, or damaged")

        def rows(wanted: slice) -> Tensor:
            found: list[Tensor] = []
            first = 0
            for one, shape in zip(slices, shapes, strict=True):
                begin, end = max(wanted.start - first, 0), min(wanted.stop - first, shape[0])
                # At least one piece, if it is empty, has the type and the other dimensions.
                if begin < end or (one is slices[-1] and not found):
                    found.append(one[min(begin, shape[0]) : max(min(end, shape[0]), 0)])
                first += shape[0]
            return torch.cat(found)

        return [sum(shape[0] for shape in shapes), *shapes[0][1:]], rows


def _like(part: object) -> Callable[[Route], Tensor | None]:
    """What says how the value at a place of a part's state lies."""
    if isinstance(part, nn.Module):
        state = part.state_dict()
        return lambda route: state.get(route[0]) if len(route) == 1 else None
    if isinstance(part, ShardedState):
        return lambda route: part.like(route[1]) if route[:1] == ("state",) else None
    return lambda route: None


def _mapped(value: Any, change: Callable[[Any, Route], Any], route: Route = ()) -> Any:
    """A copy of nested dicts and lists, each value changed; a dict is asked for before its values."""
    changed = change(value, route)
    if changed is not value:
        return changed
    if isinstance(value, dict):
        return {key: _mapped(one, change, (*route, key)) for key, one in value.items()}
    if isinstance(value, list):
        return [_mapped(one, change, (*route, place)) for place, one in enumerate(value)]
    return value
