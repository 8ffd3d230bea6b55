"""This process as a launcher started it: alone, or as one of several ranks. Torch-free."""

from __future__ import annotations

import os
from dataclasses import dataclass

# The number of processes and this one's, as torchrun tells them.
PROCESSES, NUMBER, LOCAL_NUMBER = "WORLD_SIZE", "RANK", "LOCAL_RANK"
# The name of the launch, and how often the ranks were started anew in it.
_LAUNCH, _RESTARTS = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"
# How names of launches by --ranks begin; behind it stands the number of the attempt.
BY_OPTION = "distill-"
# Exit codes after which another attempt would end in the same way.
UNMENDED = (2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a process among the ranks of one command.

    Attributes:
        rank: Its number over all machines, from 0.
        ranks: The number of all.
        local_rank: Its number on its machine, from 0: which of several GPUs is its own.
    """

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether it is the rank that writes, and speaks to a person."""
        return self.rank == 0


def place() -> Place:
    """The place that a launcher gave this process; alone where none did."""
    ranks = os.environ.get(PROCESSES, "")
    numbers = [os.environ.get(name, "") for name in (NUMBER, LOCAL_NUMBER)]
    if not ranks.isdecimal() or int(ranks) < 2 or not numbers[0].isdecimal():
        return Place()
    rank, local = (int(number) if number.isdecimal() else 0 for number in numbers)
    return Place(rank=rank, ranks=int(ranks), local_rank=local)


def by_option() -> bool:
    """Whether `--ranks` started this rank: then the command that has the option speaks for all."""
    return os.environ.get(_LAUNCH, "").startswith(BY_OPTION) and place().ranks > 1


def attempt() -> str:
    """A name of the attempt that this rank takes part in, the same on all of its ranks."""
    return os.environ[_LAUNCH] if by_option() else attempt_named(restarts())


def attempt_named(number: int) -> str:
    """The name of an attempt of torchrun's, from 0."""
    return f"attempt-{number}"


def restarts() -> int:
    """How often torchrun started this rank anew; what was begun before is not known to it."""
    times = os.environ.get(_RESTARTS, "")
    anew = not by_option() and place().ranks > 1 and times.isdecimal()
    return int(times) if anew else 0


class _Before:
    """Whether an earlier attempt of the same command began what this one goes on with."""

    begun = False


def go_on() -> None:
    """Notes that an earlier attempt began what this one is to go on with."""
    _Before.begun = True


def goes_on() -> bool:
    """Whether this rank was started anew, and goes on with what was begun before."""
    return _Before.begun
