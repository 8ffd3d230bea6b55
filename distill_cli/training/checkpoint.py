"""Checkpoints: all that a run needs to go on to the same bits, in one file, whole or absent.

A run keeps the last two: where the newer cannot be read, it goes on from the older. Behind the
archive that torch writes, as its comment, stands the sha256 of all that is before it. Tensors that
lie in parts on several ranks stand in files of their own (`shards.py`), which are written before.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from distill_cli.errors import ArtifactError, reason
from distill_cli.files import move, write_bytes, writes
from distill_cli.ranks import ALONE, Ranks
from distill_cli.training import shards
from distill_cli.training.optim import restore
from distill_cli.training.seal import check_archive, check_sum, seal
from distill_cli.training.state import State

FILE, BEFORE = "last/checkpoint.pt", "last/checkpoint-before.pt"
FORMAT = 3
# The content has a key that says that there is a sum behind it, so that damage to the seal does not
# pass for a checkpoint of before 0.5.0.
SEALED = "checksum"
# The files of tensors in parts, where there are such.
SHARDS = "shards"
# What every checkpoint of this format has, whatever version wrote it.
KINDS = {"key": str, "state": dict, "parts": dict, "rng": torch.Tensor, "cuda_rng": list}


class OtherRecipeError(ArtifactError):
    """A checkpoint is of another recipe, or of other data."""


class Stateful(Protocol):
    """A part with a state of its own: a network, an optimiser, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, in tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """The inverse."""


def save(
    run: Path, state: State, parts: Mapping[str, Stateful], key: str, ranks: Ranks = ALONE
) -> None:
    """Writes the checkpoint of a run; the last one becomes the one before.

    Args:
        run: The run folder.
        state: State of the loop.
        parts: Everything that training changes, by name: the student, its optimiser, …
        key: Identifies the recipe, so that another one does not resume from it.
        ranks: The ranks, of which each writes what lies in parts, and one all else.
    """
    states, in_parts = shards.taken_out({name: part.state_dict() for name, part in parts.items()})
    folder = (run / FILE).parent
    files = shards.write(run, folder, in_parts, ranks) if in_parts else []
    if not writes():
        return
    content = {
        "format": FORMAT,
        "key": key,
        "state": state.state_dict(),
        "parts": states,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        **({SHARDS: files} if files else {}),
    }
    _write(run / FILE, content, before=run / BEFORE)
    if shards.written(folder) and (before := _files_of(run / BEFORE)) is not None:
        shards.remove_but(folder, [*files, *before])


def check_key(run: Path, *keys: str) -> str:
    """Refuses to go on under another recipe, before anything of the run is changed.

    Args:
        run: The run folder.
        keys: Any of them identifies the recipe.

    Returns:
        The key that the checkpoint was written under.

    Raises:
        ArtifactError: There is no checkpoint, or it is damaged.
        OtherRecipeError: It is of another recipe.
    """
    return str(_checked(run, keys)[1]["key"])


def repair(run: Path) -> list[str]:
    """Puts the checkpoint before in place of a last one that is damaged or missing.

    Returns:
        Lines that say so, or that the checkpoint has no checksum; none where all is well.
    """
    path, content, fault = _newest(run)
    lines = []
    if fault is not None:
        move(path, run / FILE)
        lines.append(f"{fault.message}: going on from the checkpoint before it")
    if SEALED not in content:
        lines.append(
            f"{run / FILE} has no checksum (an earlier version wrote it): damage may not be seen"
        )
    return lines


def rename(run: Path, key: str) -> None:
    """Gives checkpoints that were written under another key this one."""
    _write(run / FILE, {**_read(run / FILE), "key": key})
    with suppress(ArtifactError):
        _write(run / BEFORE, {**_read(run / BEFORE), "key": key})


def tensors_of(parts: Mapping[str, Stateful]) -> list[torch.Tensor]:
    """Tensors of networks and other modules among the parts that training changes."""
    return [
        value
        for part in parts.values()
        if isinstance(part, torch.nn.Module)
        for value in part.state_dict().values()
        if isinstance(value, torch.Tensor)
    ]


def load(run: Path, parts: Mapping[str, Stateful], key: str, *, ranks: Ranks = ALONE) -> State:
    """Restores all parts and the generators, and returns the state of the loop.

    Args:
        run: The run folder, which rank 0 reads.
        parts: Everything that training changes, by name.
        key: Identifies the recipe.
        ranks: The ranks that go on, as many as before or not.

    Raises:
        ArtifactError: There is no checkpoint, it is damaged, or it is of another recipe.
    """
    path, content = ranks.led(lambda: _checked(run, (key,)))
    ranks.together(lambda: _restore(path, content, parts, ranks))
    return State.from_state_dict(content["state"])


def _restore(
    path: Path, content: Mapping[str, Any], parts: Mapping[str, Stateful], ranks: Ranks
) -> None:
    name = "shards"
    try:
        in_files = shards.Shards(path.parent, content.get(SHARDS, []))
        for name, part in parts.items():
            kept = in_files.held(content["parts"][name], part)
            if isinstance(part, torch.optim.Optimizer):
                restore(part, kept)
            else:
                part.load_state_dict(kept)
        name = "generators"
        torch.set_rng_state(content["rng"])
        if content["cuda_rng"] and torch.cuda.is_available():
            kept = content["cuda_rng"]
            # The generator of rank 0 is that of every rank, each on a device of its own.
            torch.cuda.set_rng_state_all(
                kept if ranks.alone else kept[:1] * torch.cuda.device_count()
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(path, f"the state of its {name} does not fit ({_why(error)})") from None


def _files_of(path: Path) -> list[dict[str, str]] | None:
    """The files of parts that a checkpoint has; None where it cannot be read."""
    if not path.is_file():
        return []
    with suppress(Exception):
        # Mapped: its tensors are not read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        files: list[dict[str, str]] = content.get(SHARDS, [])
        return files
    return None


def _write(path: Path, content: dict[str, Any], *, before: Path | None = None) -> None:
    # Through memory: torch reports a full disk as a RuntimeError without a cause.
    buffer = io.BytesIO()
    torch.save({**content, SEALED: "sha256"}, buffer)
    seal(buffer)
    write_bytes(path, buffer.getbuffer(), before=before)


def _checked(run: Path, keys: Collection[str]) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read, if it is of one of these recipes."""
    path, content, _ = _newest(run)
    if content["key"] not in keys:
        raise OtherRecipeError(
            f"{run} was started from another recipe or other data",
            hint="Resume with the options it was started with, or choose another --out",
        )
    return path, content


def _newest(run: Path) -> tuple[Path, dict[str, Any], ArtifactError | None]:
    """The newest checkpoint that can be read, and why the last one cannot, where it is the other."""
    try:
        return run / FILE, _read(run / FILE), None
    except ArtifactError as error:
        fault = error
    try:
        return run / BEFORE, _read(run / BEFORE), fault
    except ArtifactError as error:
        alone = (run / BEFORE).is_file() and not (run / FILE).is_file()
        raise (error if alone else fault) from None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"there is no checkpoint at {path}", hint="Begin anew with --overwrite")
    try:
        sealed = check_sum(path)
        check_archive(path, sums=not sealed)
        # weights_only: a checkpoint from someone else may hold a pickle that runs code.
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_content(content, sealed=sealed)
        shards.check(path.parent, content.get(SHARDS, []))
    # A pickle is a program: a damaged one fails as it likes.
    except Exception as error:
        foreign = isinstance(error, pickle.UnpicklingError)
        why = "it holds more than tensors and plain values" if foreign else _why(error)
        raise _unreadable(path, why) from None
    return dict(content)


def _check_content(content: Any, *, sealed: bool) -> None:
    """Checks all of a content that does not depend on the run.

    Raises:
        ValueError: A key is missing, or of another kind.
    """
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise ValueError("it is not a checkpoint")
    if content["format"] != FORMAT:
        raise ValueError("it is not a checkpoint of this version of distill")
    if SEALED in content and not sealed:
        raise ValueError("its checksum is missing")
    for key, kind in KINDS.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{key} is missing or damaged")
    if not all(isinstance(state, torch.Tensor) for state in content["cuda_rng"]):
        raise ValueError("cuda_rng is damaged")
    torch.Generator().set_state(content["rng"])
    State.from_state_dict(content["state"])


def _why(error: Exception) -> str:
    """The message of an exception; that of a KeyError is a key alone."""
    return f"{error} is missing" if isinstance(error, KeyError) else reason(error)


def _unreadable(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"checkpoint {path} cannot be read: {reason}",
        hint="Copy it again, or begin anew with --overwrite",
    )
