"""The words that ranks leave where they meet: how one ended, and who says so to a person.

A word is the end of a rank: its code, message, rank and host, and the rank that wrote it down. The
first one counts. It outlives its rank where a launcher keeps the meeting point.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill_cli.launched import by_option, place
from distill_cli.meeting.store import BRIEF, asked, bounded

# Keys of the store.
_END, _SAID = "end", "said"
# Seconds that the others have to tell that they are there, and that rank 0 has to speak.
ROLL_CALL, HEARING = 2.0, 3.0
_LOOK = 0.02

Word = dict[str, Any]


def leave_word(code: int, message: str) -> Word:
    """Leaves for the other ranks how this one ends; what is left first counts.

    Returns:
        The word that counts; this one where nobody can be told.
    """
    return _left(_word(code, message, place().rank, socket.gethostname()))


def _word(code: int, message: str, rank: int, host: str) -> Word:
    return {"code": code, "message": message, "rank": rank, "host": host, "by": place().rank}


def _left(word: Word) -> Word:
    with suppress(Exception):
        return dict(json.loads(asked(lambda store: store.compare_set(_END, "", json.dumps(word)))))
    return word


def last_word(store: Any) -> Word | None:
    """The end that a rank left word of in a store; None where none did."""
    return dict(json.loads(store.get(_END))) if store.check([_END]) else None


def in_words(word: Word) -> str:
    """A word as a person reads it. Rank 0 speaks for all: what it says of itself needs no name."""
    if word["rank"] == word["by"] == 0:
        return str(word["message"])
    where = f" on {word['host']}" if word["host"] else ""
    return f"rank {word['rank']}{where}: {word['message']}"


def word_of_lost(timeout: float = ROLL_CALL) -> Word:
    """Why another rank does not answer: the word that it left, or one left for it.

    A process of this machine that is gone is seen at once; whoever is elsewhere is asked to answer.

    Args:
        timeout: Seconds to wait for words and answers.
    """
    try:
        word = asked(lambda store: _roll_call(store, timeout), timeout + BRIEF)
    except Exception:
        # Whoever keeps the store is gone, or nobody can be reached.
        message = "it was killed, or its machine is lost"
        return _word(1, message, 0, os.environ.get("MASTER_ADDR", ""))
    return _left(word)


def _roll_call(store: Any, timeout: float) -> Word:
    ranks = range(place().ranks)
    store.set(f"here/{place().rank}", "")
    until = time.monotonic() + timeout
    while True:
        if (word := last_word(store)) is not None:
            return word
        came = {rank: _about(store, rank) for rank in ranks if store.check([f"rank/{rank}"])}
        if gone := [rank for rank, about in came.items() if _is_gone(about)]:
            return _word_for(gone, came, "was killed")
        if time.monotonic() > until:
            break
        time.sleep(_LOOK)
    if absent := [rank for rank in ranks if rank not in came]:
        others = f" of ranks {', '.join(map(str, absent))}" if absent[1:] else ""
        return _word(1, f"it has not come{others}", absent[0], "")
    if silent := [rank for rank in came if not store.check([f"here/{rank}"])]:
        return _word_for(silent, came, "does not answer any more")
    return _word(1, "it lost the connection to the others", place().rank, socket.gethostname())


def _about(store: Any, rank: int) -> dict[str, Any]:
    return dict(json.loads(store.get(f"rank/{rank}")))


def _word_for(gone: list[int], came: dict[int, dict[str, Any]], what: str) -> Word:
    """The word of ranks that cannot leave any."""
    others = "".join(f", and rank {rank} on {came[rank]['host']} too" for rank in gone[1:])
    return _word(1, f"it {what}{others}", gone[0], came[gone[0]]["host"])


def host_of(rank: int) -> str:
    """The machine of a rank; empty where it is not known."""
    with suppress(Exception):
        return str(asked(lambda store: _about(store, rank))["host"])
    return ""


def _is_gone(who: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended; its parent may not have looked yet."""
    if who["host"] != socket.gethostname() or not Path("/proc/self/stat").exists():
        return False
    try:
        state = Path(f"/proc/{who['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in "ZX"


def claim(store: Any = None) -> bool:
    """Whether it falls to this process to say how it all ended, which is said once.

    Args:
        store: Where it is asked; by default that of this process's launch.
    """
    own = f"{socket.gethostname()}:{os.getpid()}"

    def ask(store: Any) -> bool:
        return bool(store.compare_set(_SAID, "", own).decode() == own)

    try:
        return asked(ask) if store is None else bounded(lambda: ask(store), BRIEF)
    except Exception:
        # Nobody can be asked: twice is better than never.
        return True


def line_of(message: str, code: int, *, word: Word | None = None) -> str | None:
    """The line that this rank says of its end; None where another says it.

    Rank 0 speaks for all. Where it does not hear of the end of another, whoever left word of that says it,
    or the command that has the option `--ranks`.

    Args:
        message: This rank's own line.
        code: Its exit code.
        word: The end of another rank, where that is why this one ends.
    """
    word = word or leave_word(code, message)
    if place().leads:
        return message if claim() else None
    if by_option() or word["by"] != place().rank:
        return None
    return in_words(word) if not _is_said_soon() and claim() else None


def _is_said_soon() -> bool:
    """Whether rank 0, given a moment, says how it all ended."""

    def wait(store: Any) -> bool:
        until = time.monotonic() + HEARING
        while time.monotonic() < until:
            if store.check([_SAID]):
                return True
            time.sleep(_LOOK)
        return False

    with suppress(Exception):
        return asked(wait, HEARING + BRIEF)
    return False
