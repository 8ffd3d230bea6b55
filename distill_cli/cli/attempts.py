"""What an attempt of torchrun's knows of those before: torchrun's store outlives its ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill_cli.cli.begun import kept_file
from distill_cli.errors import DistillError
from distill_cli.launched import UNMENDED, attempt_named, go_on, place, restarts

# Keys of the store: what the first attempt met, for all attempts; whether one goes on, for its ranks.
_MET, _GOES_ON = "distill/met", "goes-on"


class EndedBeforeError(DistillError):
    """An attempt before ended in a way that another one would."""


def state_of(out: str | None) -> object:
    """Something that is another as soon as a run has begun in its folder; JSON can have it."""
    kept = None if out is None else kept_file(Path(out))
    if kept is None:
        return None
    status = kept.stat()
    return [kept.name, status.st_ino, status.st_mtime_ns]


def note_met(out: str | None) -> None:
    """Has later attempts know in what state the first one met the folder of the command.

    Args:
        out: The folder; None where the command names none.
    """
    if (launch := _launch()) is not None and place().leads:
        launch.compare_set(_MET, "", json.dumps({"out": out, "state": state_of(out)}))


def look_back() -> None:
    """Has a rank that torchrun started anew go on with what was begun; the command is done as typed else.

    Raises:
        EndedBeforeError: An attempt before ended by what is not the machine's fault: its code and message.
    """
    if not restarts() or (launch := _launch()) is None:
        return
    from distill_cli import meeting

    for number in range(restarts()):
        word = meeting.last_word(meeting.part_of(launch, attempt_named(number)))
        if word is not None and word["code"] in UNMENDED:
            error = EndedBeforeError(f"{meeting.in_words(word)} (so attempt {number + 1} ended)")
            error.exit_code = int(word["code"])
            raise error
    store = meeting.meet(meeting.ANSWER)
    if place().leads:
        # The folder may be this machine's alone.
        store.set(_GOES_ON, json.dumps(_has_begun(launch)))
    if json.loads(store.get(_GOES_ON)):
        go_on()


def _has_begun(launch: Any) -> bool:
    if not launch.check([_MET]):
        return False
    met = json.loads(launch.get(_MET))
    return bool(state_of(met["out"]) != met["state"])


def _launch() -> Any:
    """The store of all attempts of torchrun; None where nobody keeps one."""
    if place().ranks == 1:
        return None
    from distill_cli import meeting

    return meeting.of_launch() if meeting.kept_by_launcher() else None
