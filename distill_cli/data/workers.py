"""Work on images in other processes, in order, with a bounded number of batches ahead."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from distill_cli.errors import DistillError, InternalError

R = TypeVar("R")
T = TypeVar("T")
# Batches that each worker may prepare ahead.
AHEAD = 2


@dataclass(frozen=True)
class _Failure:
    """A user's error on its way from a worker: exceptions lose their hint when pickled."""

    kind: type[DistillError]
    message: str
    hint: str | None


class _Results(Dataset[T | _Failure], Generic[R, T]):
    def __init__(self, make: Callable[[R], T], requests: Sequence[R]) -> None:
        self.make, self.requests = make, requests

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, number: int) -> T | _Failure:
        try:
            return self.make(self.requests[number])
        except DistillError as error:
            return _Failure(type(error), error.message, error.hint)


def stream(
    make: Callable[[R], T], requests: Sequence[R], *, workers: int, pin: bool = False
) -> Iterator[T]:
    """`make(request)` for each request, in order.

    Args:
        make: A function of its request alone; with workers it runs in other processes, which return
            tensors in shared memory and all else pickled.
        requests: Arguments of `make`.
        workers: Number of processes; 0 calls `make` in this process, on demand.
        pin: Return results in page-locked memory, from which copies to a GPU overlap with work.

    Raises:
        DistillError: `make` raised it.
        InternalError: A worker died.
    """
    with warnings.catch_warnings():
        # More workers than processors are the caller's choice.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        made = _started(_loader(make, requests, workers, pin))
    while True:
        try:
            result = next(made)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InternalError(
                "a worker that reads images died",
                hint="Out of memory is the usual reason: try fewer --workers, or a smaller batch",
            ) from None
        if isinstance(result, _Failure):
            raise result.kind(result.message, hint=result.hint)
        yield result


def _loader(
    make: Callable[[R], T], requests: Sequence[R], workers: int, pin: bool
) -> DataLoader[T | _Failure]:
    return DataLoader(
        _Results(make, requests),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=_leave_signals,
        # A separate generator: the global one's state belongs to the network's dropout.
        generator=torch.Generator(),
        # Python 3.14 would start servers anew, which import everything again.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def _started(loader: DataLoader[T | _Failure]) -> Iterator[T | _Failure]:
    """The loader's iterator; a Ctrl-C waits until all workers have started, which ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals(number: int) -> None:
    """A worker leaves Ctrl-C to its parent, and ends when its parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
