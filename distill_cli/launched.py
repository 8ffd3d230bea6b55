"""This process as a launcher started it: alone, or as one of several ranks. Torch-free."""

from __future__ import annotations

import os
from dataclasses import dataclass

# The number of processes and this one's, as torchrun tells them.
PROCESSES, NUMBER, LOCAL_NUMBER = "WORLD_SIZE", "RANK", "LOCAL_RANK"


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
