"""Where the ranks of one command meet, and the words they leave there: how one ended, and who said so.

A word is the end of a rank: its code, message, rank and host, and the rank that wrote it down. The
first one counts. It outlives its rank where a launcher keeps the meeting point.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

# Documented names, which torch's types do not list.
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from distill_cli.errors import InternalError, UsageError, reason
from distill_cli.launched import attempt, by_option, place

# Keys of the store.
_END, _SAID, _PARTED = "end", "said", "parted"
# Seconds that the others have to tell that they are there, and that rank 0 has to speak.
ROLL_CALL, HEARING = 2.0, 3.0
# Seconds that a rank waits for the others at its end.
PARTING = 5.0
# Seconds to find the store for a last word, which must not keep anybody.
_BRIEF = 5.0
_LOOK = 0.02

Word = dict[str, Any]


class _Meeting:
    """The store of this process's launch."""

    store: Any = None
    # Whether this rank has said that it is through.
    parts = False
    unreachable = False


def _briefly() -> Any:
    """The store, for a last word, which keeps nobody waiting.

    Raises:
        DistillError: It cannot be reached; it is tried once.
    """
    if _Meeting.unreachable:
        raise InternalError("the other ranks cannot be told")
    _Meeting.unreachable = True
    store = meet(_BRIEF)
    _Meeting.unreachable = False
    return store


def address() -> tuple[str, int]:
    """Host and port where the ranks meet, as a launcher gives them.

    Raises:
        UsageError: It gave none.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        raise UsageError(
            "several ranks were started, and not told where they meet (MASTER_ADDR, MASTER_PORT)",
            hint="Start them by --ranks, or by torchrun",
        )
    return host, int(port)


def kept_by_launcher() -> bool:
    """Whether a launcher keeps the store, rather than rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def meet(timeout: float) -> Any:
    """The store that the ranks of this attempt share.

    Args:
        timeout: Seconds to wait until it can be reached.

    Raises:
        UsageError: Its port is taken.
        InternalError: It cannot be reached.
    """
    if _Meeting.store is None:
        host, port = address()
        leads = place().leads and not kept_by_launcher()
        store = store_at(host, port, leads=leads, timeout=timeout)
        _Meeting.store = part_of(store, attempt())
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        _Meeting.store.set(f"rank/{place().rank}", json.dumps(about))
    return _Meeting.store


def part_of(store: Any, name: str) -> Any:
    """The part of a store that has the keys below a name to itself."""
    return PrefixStore(name, store)


def store_at(host: str, port: int, *, leads: bool, timeout: float) -> Any:
    """A store of torch's at an address.

    Args:
        host: Name or address.
        port: Port; 0, where this process keeps the store, for a free one.
        leads: Whether this process keeps the store.
        timeout: Seconds to wait for who keeps it.

    Raises:
        UsageError: The port is taken.
        InternalError: Nobody keeps a store there.
    """
    options = {"is_master": leads, "wait_for_workers": False, "multi_tenant": True}
    try:
        return TCPStore(host, port, timeout=timedelta(seconds=timeout), **options)
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UsageError(f"port {port} of {host} is taken", hint="Choose another one") from None
        raise InternalError(
            f"nobody answers at {host}:{port}, where the ranks meet, within {timeout:g} s: "
            f"{reason(error)}"
        ) from None


def is_open() -> bool:
    """Whether this rank has met the others."""
    return _Meeting.store is not None


def part() -> None:
    """Waits a moment until every rank is through with the others: who leaves first is a fault to them.

    By counting in the store: a collective of those that end in some other way would never be met.
    """
    deadline = time.monotonic() + PARTING
    with suppress(Exception):
        while is_open() and time.monotonic() < deadline:
            gone = _Meeting.store.add(_PARTED, 0 if _Meeting.parts else 1)
            _Meeting.parts = True
            if gone >= place().ranks:
                return
            time.sleep(_LOOK)


def leave_word(code: int, message: str, *, rank: int | None = None, host: str = "") -> Word:
    """Leaves for the other ranks how one ended; what is left first counts.

    Args:
        code: Exit code.
        message: The line for a person.
        rank: Whose end it is; by default this one's.
        host: Its machine.

    Returns:
        The word that counts; this one where nobody can be told.
    """
    own = place().rank
    word = {"code": code, "message": message, "by": own, "rank": own if rank is None else rank}
    word["host"] = host or socket.gethostname()
    with suppress(Exception):
        kept = _briefly().compare_set(_END, "", json.dumps(word))
        return dict(json.loads(kept))
    return word


def last_word(store: Any = None) -> Word | None:
    """The end that a rank left word of; None where none did."""
    store = store or _Meeting.store
    with suppress(Exception):
        if store is not None and store.check([_END]):
            return dict(json.loads(store.get(_END)))
    return None


def in_words(word: Word) -> str:
    """A word as a person reads it. Rank 0 speaks for all: what it says of itself needs no name."""
    if word["rank"] == word["by"] == 0:
        return str(word["message"])
    return f"rank {word['rank']} on {word['host']}: {word['message']}"


def word_of_lost(timeout: float = ROLL_CALL) -> Word:
    """Why another rank does not answer: the word that it left, or one left for it.

    A process of this machine that is gone is seen at once; whoever is elsewhere is asked to answer.

    Args:
        timeout: Seconds to wait for words and answers.
    """
    ranks, own, store = place().ranks, place().rank, _Meeting.store
    try:
        store.set(f"here/{own}", "")
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if (word := last_word()) is not None:
                return word
            came = {rank: _about(rank) for rank in range(ranks) if store.check([f"rank/{rank}"])}
            if gone := [rank for rank, about in came.items() if _is_gone(about)]:
                return _left_for(gone, came, "was killed")
            time.sleep(_LOOK)
        if absent := [rank for rank in range(ranks) if rank not in came]:
            others = f" of ranks {', '.join(map(str, absent))}" if absent[1:] else ""
            return leave_word(1, f"it has not come{others}", rank=absent[0], host="its machine")
        silent = [rank for rank in came if not store.check([f"here/{rank}"])]
        if silent:
            return _left_for(silent, came, "does not answer any more")
    except Exception:
        # Whoever keeps the store is gone.
        lost = {0: {"host": os.environ.get("MASTER_ADDR", "")}}
        return _left_for([0], lost, "was killed, or its machine is lost")
    return leave_word(1, "the connection to the other ranks was lost")


def _about(rank: int) -> dict[str, Any]:
    return dict(json.loads(_Meeting.store.get(f"rank/{rank}")))


def _left_for(gone: list[int], came: dict[int, dict[str, Any]], what: str) -> Word:
    """Leaves word of ranks that cannot do so any more."""
    others = "".join(f", and rank {rank} on {came[rank]['host']} too" for rank in gone[1:])
    message = f"it {what}{others}"
    return leave_word(1, message, rank=gone[0], host=came[gone[0]]["host"])


def host_of(rank: int) -> str:
    """The machine of a rank; empty where it is not known."""
    with suppress(Exception):
        if _Meeting.store.check([f"rank/{rank}"]):
            return str(_about(rank)["host"])
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
    """Whether it falls to this process to say how it all ended, which is said once."""
    try:
        store = store or _briefly()
        own = f"{socket.gethostname()}:{os.getpid()}"
        return bool(store.compare_set(_SAID, "", own).decode() == own)
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
    until = time.monotonic() + HEARING
    with suppress(Exception):
        store = _briefly()
        while time.monotonic() < until:
            if store.check([_SAID]):
                return True
            time.sleep(_LOOK)
    return False
