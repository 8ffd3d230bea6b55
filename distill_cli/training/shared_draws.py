"""Random numbers of a forward, the same for a sample whichever rank it is on.

Dropout and drop path draw from torch's generator, which all ranks have in the same state. A rank draws
the numbers of the whole batch and keeps those of its share, so that any number of ranks gives each
sample what a single process gives it, and all generators go on alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill_cli.errors import UsageError
from distill_cli.ranks import Ranks

aten = torch.ops.aten
# Operations that fill a tensor, whatever was in it.
FILLS = {
    *(aten.bernoulli_.float, aten.uniform_.default, aten.normal_.default),
    *(aten.exponential_.default, aten.random_.default),
}


class SharedDraws:
    """Shares out what forwards draw; those of a network that draws nothing are left alone.

    Args:
        ranks: The ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        # The first forward tells.
        self.draws: bool | None = None

    @contextmanager
    def of(self, runs: Sequence[int]) -> Iterator[None]:
        """The context of a forward of this rank's samples.

        Args:
            runs: How many, run by run: a single process has the first run of all ranks, then the next.

        Raises:
            UsageError: It draws in a way that cannot be shared out.
        """
        if self.draws is False:
            yield
            return
        with _Shared(self.ranks, runs) as mode:
            yield
        self.draws = self.draws or mode.drawn


class _Shared(TorchDispatchMode):
    """Draws for all ranks, and keeps what is this one's."""

    def __init__(self, ranks: Ranks, runs: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ranks, self.runs, self.drawn = ranks, runs, False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answers an operation that draws; others as they are."""
        values = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return func(*args, **values)
        if _draws_nothing(func, args, values):
            return func(*args, **values)
        self.drawn = True
        if func in FILLS:
            return args[0].copy_(self._own(args[0], lambda drawn: func(drawn, *args[1:], **values)))
        if func is aten.native_dropout.default:
            return self._dropout(*args)
        raise UsageError(
            f"the network draws random numbers by {func}, which ranks cannot share out",
            hint="Train it as one process",
        )

    def _dropout(self, x: Tensor, p: float, train: bool) -> tuple[Tensor, Tensor]:
        kept = self._own(x, lambda drawn: drawn.bernoulli_(1 - p)).bool()
        scale = 0.0 if p == 1 else 1 / (1 - p)
        return x * kept * scale, kept

    def _own(self, like: Tensor, draw: Callable[[Tensor], Any]) -> Tensor:
        """This rank's part of what is drawn for all; all of it where there are no samples' rows."""
        samples = sum(self.runs)
        if not like.ndim or len(like) % samples:
            drawn = torch.empty_like(like)
            draw(drawn)
            return drawn
        rows, size = len(like), (len(like) * self.ranks.count, *like.shape[1:])
        # Laid out as the whole batch is, for numbers are drawn in the order of memory.
        outermost = like.stride(0) * rows == like.numel()
        drawn = like.new_empty_strided(size, like.stride()) if outermost else like.new_empty(size)
        draw(drawn)
        number, count, first, kept = self.ranks.number, self.ranks.count, 0, []
        for run in self.runs:
            # A sample may have several rows, as windows of attention.
            size_of_run = run * (rows // samples)
            start = first + number * size_of_run
            kept.append(drawn[start : start + size_of_run])
            first += count * size_of_run
        return kept[0] if len(kept) == 1 else torch.cat(kept)


def _draws_nothing(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation that may draw does not, as attention and dropout of rate 0 do not."""
    if func is aten.native_dropout.default:
        return not args[2]
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            default = kwargs.get("dropout_p", argument.default_value)
            return not (args[place] if place < len(args) else default)
    return False
