"""Copies of images to a GPU that are under way before a step asks for them, on a stream of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

R = TypeVar("R")
T = TypeVar("T")
# Batches whose copies are begun beside the one that a step is given.
AHEAD = 2


def begun_ahead(
    parts: Iterable[R], begin: Callable[[R], Callable[[], T]], count: int = AHEAD
) -> Iterator[T]:
    """What becomes of each part, in order, begun while the results of others are still in use.

    Args:
        parts: The parts; each is taken once.
        begin: Begins the work on a part; the function that it returns waits for the result.
        count: Parts that are begun beside the one whose result is given.
    """
    under_way: deque[Callable[[], T]] = deque()
    for part in parts:
        under_way.append(begin(part))
        if len(under_way) > count:
            yield under_way.popleft()()
    while under_way:
        yield under_way.popleft()()


def copied_ahead(parts: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Tensors on a device, in order; of a CUDA device, copied there ahead on a stream of their own.

    Args:
        parts: Tensors on the CPU; from page-locked memory the copies overlap with the device's work.
        device: The device.
    """
    if device.type != "cuda":
        return (part.to(device, non_blocking=True) for part in parts)
    return begun_ahead(parts, _Copies(device))


class _Copies:
    """Begins copies to a CUDA device.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, _stream_of(device)

    def __call__(self, part: Tensor) -> Callable[[], Tensor]:
        """Begins one; what it returns has the stream that asks wait for it, and not the host."""
        with torch.cuda.stream(self.stream):
            copy = part.to(self.device, non_blocking=True)
            done = self.stream.record_event()

        def arrived() -> Tensor:
            asking = torch.cuda.current_stream(self.device)
            asking.wait_event(done)
            # Its memory is of the copies' stream, which must not have it again while it is read.
            copy.record_stream(asking)
            return copy

        return arrived


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a device's copies: torch has few, and hands them out again."""
    return torch.cuda.Stream(device)
