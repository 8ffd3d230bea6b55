"""The store where the ranks of one command meet."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn, TypeVar

# Documented names, which torch's types do not list.
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from distill_cli.errors import InternalError, UsageError, reason
from distill_cli.launched import attempt, place

T = TypeVar("T")

# Key of the store.
_PARTED = "parted"
# Seconds that a rank waits for the others at its end.
PARTING = 5.0
# Seconds to wait for the store of torchrun, and for the rank that decides for all.
ANSWER = 120.0
# Seconds to find the store for a last word, which must not keep anybody.
BRIEF = 5.0
_LOOK = 0.02


class _Meeting:
    """The store of this process's launch."""

    store: Any = None
    # The same, of all attempts.
    launch: Any = None
    # Whether this rank has said that it is through.
    parts = False
    lost = False


def bounded(act: Callable[[], T], seconds: float) -> T:
    """Asks a store, for so long: of a machine that has vanished, the network knows after a quarter of an hour.

    Args:
        act: What asks; it goes on, unheard, where it takes longer.
        seconds: The time.

    Raises:
        InternalError: There is no answer.
        Exception: What `act` raises.
    """
    ended: list[Callable[[], T]] = []

    def ask() -> None:
        try:
            value = act()
        except Exception as error:
            ended.append(partial(_raise, error))
        else:
            ended.append(lambda: value)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if not ended:
        raise InternalError("the machine where the ranks meet does not answer")
    return ended[0]()


def _raise(error: Exception) -> NoReturn:
    raise error


def asked(act: Callable[[Any], T], seconds: float = BRIEF) -> T:
    """What the store of this launch answers, for a last word, which keeps nobody waiting.

    Args:
        act: Asks the store.
        seconds: How long it may take.

    Raises:
        Exception: The store does not answer, which is tried once.
    """
    if _Meeting.lost:
        raise InternalError("the other ranks cannot be told")
    _Meeting.lost = True
    answer = bounded(lambda: act(meet(BRIEF)), seconds)
    _Meeting.lost = False
    return answer


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
        _Meeting.launch = store_at(host, port, leads=leads, timeout=timeout)
        _Meeting.store = part_of(_Meeting.launch, attempt())
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        _Meeting.store.set(f"rank/{place().rank}", json.dumps(about))
    return _Meeting.store


def of_launch() -> Any:
    """The store of all attempts, which a launcher keeps.

    Raises:
        InternalError: It cannot be reached.
    """
    meet(ANSWER)
    return _Meeting.launch


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
    with suppress(Exception):
        if is_open():
            asked(_part, PARTING)


def _part(store: Any) -> None:
    deadline = time.monotonic() + PARTING
    while time.monotonic() < deadline:
        gone = store.add(_PARTED, 0 if _Meeting.parts else 1)
        _Meeting.parts = True
        if gone >= place().ranks:
            return
        time.sleep(_LOOK)
