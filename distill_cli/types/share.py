"""The share of each batch that one of several ranks sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Share:
    """One rank's samples of every batch: an equal run of each part that it is accumulated from.

    Joined in the order of the ranks, the runs of a part are that part as a single process has it, so
    that what compares or normalises its samples sees the same ones in the same order.

    Attributes:
        rank: Number of the rank, from 0.
        ranks: R, the number of ranks.
        parts: A, the parts that a batch is accumulated from.
    """

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    @property
    def is_all(self) -> bool:
        """Whether one rank sees everything."""
        return self.ranks == 1

    def of(self, column_B: Tensor) -> Tensor:
        """The rank's entries of a column (B, …) of a batch; A·R must divide B."""
        if self.is_all:
            return column_B
        shape = (self.parts, self.ranks, -1, *column_B.shape[1:])
        return column_B.reshape(shape)[:, self.rank].flatten(0, 1)


WHOLE = Share()
