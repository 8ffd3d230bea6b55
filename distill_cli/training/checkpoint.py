"""Checkpoints: all that a run needs to go on to the same bits, in one file, whole or absent."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from distill_cli.errors import ArtifactError
from distill_cli.files import write_atomically
from distill_cli.training.state import State

FILE = "last/checkpoint.pt"
FORMAT = 3


class OtherRecipeError(ArtifactError):
    """A checkpoint is of another recipe, or of other data."""


class Stateful(Protocol):
    """A part with a state of its own: a network, an optimiser, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, in tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """The inverse."""


def save(run: Path, state: State, parts: Mapping[str, Stateful], key: str) -> None:
    """Writes the checkpoint of a run.

    Args:
        run: The run folder.
        state: State of the loop.
        parts: Everything that training changes, by name: the student, its optimiser, …
        key: Identifies the recipe, so that another one does not resume from it.
    """
    content = {
        "format": FORMAT,
        "key": key,
        "state": state.state_dict(),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    _write(run / FILE, content)


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
    content = _read(run / FILE)
    if content.get("format") != FORMAT:
        raise ArtifactError(f"{run / FILE} is not a checkpoint of this version of distill")
    if content["key"] not in keys:
        raise OtherRecipeError(
            f"{run} was started from another recipe or other data",
            hint="Resume with the options it was started with, or choose another --out",
        )
    return str(content["key"])


def rename(run: Path, key: str) -> None:
    """Gives a checkpoint that was written under another key this one."""
    _write(run / FILE, {**_read(run / FILE), "key": key})


def load(run: Path, parts: Mapping[str, Stateful], key: str) -> State:
    """Restores all parts and the generators, and returns the state of the loop.

    Raises:
        ArtifactError: There is no checkpoint, it is damaged, or it is of another recipe.
    """
    check_key(run, key)
    content = _read(run / FILE)
    for name, part in parts.items():
        part.load_state_dict(content["parts"][name])
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["cuda_rng"])
    return State.from_state_dict(content["state"])


def _write(path: Path, content: dict[str, Any]) -> None:
    # Through memory: torch reports a full disk as a RuntimeError without a cause.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"there is no checkpoint at {path}", hint="Start without --resume")
    try:
        # weights_only: a checkpoint from someone else may hold a pickle that runs code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"checkpoint {path} cannot be read: {first_line}") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is not a checkpoint")
    return content
