"""Work on images in other processes, in order, with a bounded number of batches ahead."""

from __future__ import annotations

import ctypes
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from threading import current_thread, main_thread
from typing import Any, Generic, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from distill_cli.data.watch import Watch
from distill_cli.errors import DistillError, InternalError

R = TypeVar("R")
T = TypeVar("T")
# Batches that each worker may prepare ahead.
AHEAD = 2
# Seconds.
PAUSE = 5
# Of <linux/prctl.h>.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class _Failure:
    """A user's error on its way from a worker: exceptions lose their hint when pickled."""

    kind: type[DistillError]
    message: str
    hint: str | None


@dataclass(frozen=True)
class _Copied:
    """A tensor on its way through a pipe."""

    array: npt.NDArray[Any]

    def tensor(self) -> Tensor:
        """The tensor; no further copy is made."""
        return torch.from_numpy(self.array)

    def pin_memory(self) -> Tensor:
        """The tensor in page-locked memory; the loader's thread asks for it by this name."""
        return self.tensor().pin_memory()


def _sent(result: Any) -> Any:
    """A result as it leaves its worker: a tensor in shared memory, where that has room for it.

    A container's /dev/shm may be smaller than a few batches. Left to the queue, a tensor that does
    not fit would be lost in its thread, and waited for without an end.
    """
    if not isinstance(result, Tensor) or get_worker_info() is None:
        return result
    try:
        return result.share_memory_()
    except (RuntimeError, OSError):
        return _Copied(result.numpy())


class _Results(Dataset[Any], Generic[R, T]):
    def __init__(self, make: Callable[[R], T], requests: Sequence[R]) -> None:
        self.make, self.requests = make, requests

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, number: int) -> Any:
        try:
            return _sent(self.make(self.requests[number]))
        except DistillError as error:
            return _Failure(type(error), error.message, error.hint)


def stream(
    make: Callable[[R], T], requests: Sequence[R], *, workers: int, pin: bool = False
) -> Iterator[T]:
    """`make(request)` for each request, in order.

    Args:
        make: A function of its request alone; with workers it runs in other processes, which return
            a tensor in shared memory and all else pickled.
        requests: Arguments of `make`.
        workers: Number of processes; 0 calls `make` in this process, on demand.
        pin: Return results in page-locked memory, from which copies to a GPU overlap with work.

    Raises:
        DistillError: `make` raised it.
        InternalError: A worker died, was stopped, or sent nothing for minutes.
    """
    with warnings.catch_warnings():
        # More workers than processors are the caller's choice.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        made = _started(_loader(make, requests, workers, pin))
    processes = list(getattr(made, "_workers", ()))
    watch = Watch(processes)
    try:
        for number in range(len(requests)):
            watch.awaited = number
            result: Any = _next(made, watch)
            watch.awaited = None
            if isinstance(result, _Failure):
                raise result.kind(result.message, hint=result.hint)
            result = result.tensor() if isinstance(result, _Copied) else result
            yield result
    finally:
        watch.end()
        _shut_down(made, processes)


def _next(made: Iterator[Any], watch: Watch) -> Any:
    """The next result.

    Raises:
        InternalError: A worker died, or the watch gave up waiting.
    """
    while True:
        try:
            return next(made)
        except (RuntimeError, OSError, EOFError) as error:
            if watch.error is not None:
                raise watch.error from None
            if str(error).startswith("DataLoader timed out"):
                # The loader's own clock goes on while a person suspends this process: go on too.
                continue
            if not _is_death(error, watch.workers):
                raise
            raise InternalError(
                "a worker that reads images died",
                hint="Out of memory is the usual reason: try fewer --workers, or a smaller batch",
            ) from None


def _is_death(error: Exception, workers: Sequence[BaseProcess]) -> bool:
    """Whether the loader failed because a worker did not live to send its result."""
    if str(error).startswith("Caught "):
        # A worker's own exception, which it sent.
        return False
    broken = isinstance(error, EOFError | ConnectionError)
    return (bool(workers) and broken) or not all(worker.is_alive() for worker in workers)


def _shut_down(made: Iterator[Any], processes: Sequence[BaseProcess]) -> None:
    """Ends the workers: the loader's way, and then by force, for a stopped one does not listen.

    Python itself would wait for it at its own end.
    """
    shut_down = getattr(made, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join(timeout=PAUSE)


def _loader(
    make: Callable[[R], T], requests: Sequence[R], workers: int, pin: bool
) -> DataLoader[Any]:
    return DataLoader(
        _Results(make, requests),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=partial(_begin, of_main=current_thread() is main_thread()),
        # How often waiting is interrupted, to see whether the watch has given up.
        timeout=PAUSE if workers else 0,
        # A separate generator: the global one's state belongs to the network's dropout.
        generator=torch.Generator(),
        # Python 3.14 would start servers anew, which import everything again.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator; a Ctrl-C waits until all workers have started, which ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(number: int, *, of_main: bool) -> None:
    """A worker leaves Ctrl-C to its parent, and ends when its parent ends it, or ends itself.

    A killed parent's lock on its folder is held as long as a worker lives that was forked from it.

    Args:
        number: Number of the worker.
        of_main: Whether it was forked by the main thread: Linux ties it to the thread.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if of_main and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
