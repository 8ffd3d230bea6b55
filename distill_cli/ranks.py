"""What the ranks of one command exchange: rows, sums, values and errors.

Every rank holds the same state to the bit: weights, optimisers, adapters, generators and figures. Rank
0 writes and speaks. A collective names the same operation on all ranks in the same order; one that
fails, for a rank is gone, is a `RankLostError`. Shapes: R ranks, b rows of each, B = R·b.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from distill_cli import meeting
from distill_cli.errors import DistillError, InternalError, StoppedError, UsageError, reason
from distill_cli.files import leave_to_others
from distill_cli.launched import place
from distill_cli.sharding import is_sharded

T = TypeVar("T")

# Seconds that a rank waits for the others in a step, before it takes a machine for vanished.
TIMEOUT = 120.0
# Waiting for what one rank does alone, as reading data, has no natural end.
_PATIENCE = timedelta(days=7)


class RankLostError(InternalError):
    """Another rank ended, or does not answer.

    Attributes:
        ended: The code, rank, host and message that it left, where it left any.
    """

    def __init__(self, message: str, *, ended: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.ended = ended
        if ended is not None:
            self.exit_code = int(ended["code"])


@dataclass(frozen=True)
class Ranks:
    """This process and the others of its command; `ALONE` where there are none.

    Attributes:
        number: Its rank, from 0.
        count: R.
    """

    number: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.count == 1

    @property
    def leads(self) -> bool:
        """Whether it is the rank that writes."""
        return self.number == 0

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (B, …) of all ranks, in their order, of the (b, …) of this one.

        Gradients flow back to the own rows alone: what is made of all of them is made on every rank
        alike, so that each has its own share of the gradient already.
        """
        if self.alone:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def add(self, values: Tensor) -> None:
        """Replaces the values of every rank by their sum over all, equal to the bit everywhere."""
        if not self.alone:
            with answering():
                dist.all_reduce(values)

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Replaces tensors by those of rank 0, but for those of which each rank holds a part."""
        if not self.alone:
            with answering():
                for tensor in tensors:
                    if is_sharded(tensor):
                        continue
                    # Rows of memory: what is sent lies densely, and gloo knows no bool.
                    sent = tensor.detach().contiguous()
                    sent = sent.byte() if sent.dtype == torch.bool else sent.clone()
                    dist.broadcast(sent, 0)
                    tensor.detach().copy_(sent)

    def require_equal(self, tensors: Iterable[Tensor]) -> None:
        """Looks whether all ranks hold the same tensors, but for parts of one; waits for the device.

        Raises:
            InternalError: They do not: their machines compute differently, or a memory is faulty.
        """
        if self.alone:
            return
        own = [_sum_of_bits(tensor) for tensor in tensors if not is_sharded(tensor)]
        if any(other != own for other in self.values(own)):
            raise InternalError(
                "the ranks no longer hold the same weights",
                hint="Run them on machines of one kind; --resume goes on from the last checkpoint",
            )

    def values(self, value: T) -> list[T]:
        """The value that each rank has, in their order; waits for what a rank does alone."""
        if self.alone:
            return [value]
        gathered: list[Any] = [None] * self.count
        with answering():
            dist.all_gather_object(gathered, value, group=_Group.patient)
        return gathered

    def together(self, act: Callable[[], T]) -> T:
        """Does the same on every rank; an error of one is everyone's.

        Raises:
            DistillError: The first rank's that could not, which is named where it is not rank 0.
        """
        if self.alone:
            return act()
        error: BaseException | None = None
        try:
            result = act()
        except (DistillError, OSError, MemoryError, RuntimeError) as raised:
            error = raised
        errors = self.values(None if error is None else _told(error, self))
        first = next((told for told in errors if told is not None), None)
        if first is None:
            return result
        if error is not None and first["rank"] == self.number:
            raise error
        raise RankLostError(meeting.in_words(first), ended=first)

    def first_on_machine(self, act: Callable[[], T]) -> T:
        """Does the same on every rank, on one of each machine before the others.

        What that one remembers on disk, as decoded images, the others need not do again.
        """
        first = place().local_rank == 0
        if self.alone:
            return act()
        try:
            result = act() if first else None
        finally:
            self.values(None)
        return act() if result is None else result

    def led(self, act: Callable[[], T]) -> T:
        """Does something on rank 0 alone, and has every rank know its result.

        Raises:
            DistillError: It failed there.
        """
        if self.alone:
            return act()
        return self.together(lambda: self._first(act))

    def _first(self, act: Callable[[], T]) -> T:
        error: BaseException | None = None
        result: Any = None
        if self.leads:
            try:
                result = act()
            except (DistillError, OSError, MemoryError, RuntimeError) as raised:
                error = raised
        told = None if error is None else _told(error, self)
        sent = [(result, told)]
        with answering():
            dist.broadcast_object_list(sent, 0, group=_Group.patient)
        if error is not None:
            raise error
        result, told = sent[0]
        if told is not None:
            raise RankLostError(meeting.in_words(told), ended=told)
        value: T = result
        return value


ALONE = Ranks()


# Whole numbers as wide as an element of a tensor.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _sum_of_bits(tensor: Tensor) -> int:
    """A checksum of a tensor's bits, made where it lies."""
    bits = tensor.detach().contiguous().flatten().view(_WORDS[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64))


class _Group:
    """The process groups of this process: torch keeps the one that steps use."""

    patient: Any = None


class _Gather(torch.autograd.Function):
    """Rows of all ranks; the gradient of the own ones."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.span = slice(ranks.number * len(rows), (ranks.number + 1) * len(rows))
        gathered = rows.new_empty((ranks.count * len(rows), *rows.shape[1:]))
        with answering():
            dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.span], None


def join(device: torch.device, *, timeout: float = TIMEOUT) -> Ranks:
    """Meets the other ranks that a launcher started; `ALONE` where there are none.

    Args:
        device: Device of this rank's tensors.
        timeout: Seconds to wait for the others in a step.

    Raises:
        RankLostError: They do not come.
        UsageError: The port where they meet is taken, or the device is none that ranks can have.
    """
    here = place()
    if here.ranks == 1:
        return ALONE
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"ranks train on CPUs and on GPUs of NVIDIA's, not on {device.type}")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = meeting.meet(timeout)
        # One store serves all attempts, torchrun's too: torch itself would find the ranks of the one before.
        group = meeting.part_of(store, "group")
        group.set_timeout(timedelta(seconds=timeout))
        options: dict[str, Any] = {"store": group, "rank": here.rank, "world_size": here.ranks}
        options["timeout"] = timedelta(seconds=timeout)
        with answering():
            dist.init_process_group(backend, **options)
            _Group.patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        if here.rank > 0:
            leave_to_others()
    return Ranks(here.rank, here.ranks)


def current() -> Ranks:
    """The ranks that this process has met; `ALONE` before it joined any."""
    here = place()
    return Ranks(here.rank, here.ranks) if dist.is_initialized() else ALONE


def blame(error: DistillError) -> dict[str, Any]:
    """The rank and machine that an error arose on, as last/outcome.json has them; nothing of a stop."""
    if place().ranks == 1 or isinstance(error, StoppedError):
        return {}
    if isinstance(error, RankLostError) and error.ended is not None:
        return {key: error.ended[key] for key in ("rank", "host")}
    rank = place().rank if error.rank is None else error.rank
    return {"rank": rank, "host": meeting.host_of(rank)}


def _told(error: BaseException, ranks: Ranks) -> dict[str, Any]:
    """An error in the words that other ranks repeat."""
    code = error.exit_code if isinstance(error, DistillError) else 1
    words = str(error) if isinstance(error, DistillError) else reason(error)
    host = socket.gethostname()
    return {"rank": ranks.number, "host": host, "code": code, "message": words, "by": ranks.number}


@contextmanager
def answering(*, alone: bool = True) -> Iterator[None]:
    """Turns what a collective raises where a rank is gone into an error of ours.

    Args:
        alone: Whether there are collectives alone, and no other error to pass on.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, dist.DistError) as error:
        if not (alone or isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        ended = meeting.word_of_lost() if meeting.is_open() else None
        if ended is not None:
            raise RankLostError(meeting.in_words(ended), ended=ended) from None
        # gloo's and NCCL's own words are of sockets and of source files.
        raise RankLostError("another rank ended, or does not answer") from None
