"""A step of training as the list of its operations, which can be played again: a CUDA graph on a CPU.

What a recording plays again reads and writes the memory, and uses the numbers, of when it was made.
So a step that counts on the host, or leaves a result in other memory each time, goes wrong in it as
it would in a CUDA graph, and without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
# Operations that wait for the device, or have a shape that only it knows, or bring host memory in.
WAITING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
}


class Recording(TorchDispatchMode):
    """Takes down every operation while it is entered, which are carried out as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "profiler":
            return out
        # Lists are kept as they are now: an optimiser may empty its own.
        self.calls.append((func, tree_map(lambda x: x, args), tree_map(lambda x: x, kwargs), out))
        return out

    @torch.no_grad()
    def play(self) -> None:
        """Carries all of it out again, on the same memory and with the same numbers."""
        for func, args, kwargs, out in self.calls:
            returns = func._schema.returns
            if any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
                # A view, which shows what its base holds by now.
                continue
            again, _ = tree_flatten(func(*args, **kwargs))
            for before, now in zip(tree_flatten(out)[0], again, strict=True):
                if isinstance(before, Tensor) and before.data_ptr() != now.data_ptr():
                    before.copy_(now)

    def waiting(self) -> list[str]:
        """Operations that no CUDA graph can hold, or that wait for the device; none twice."""
        names = [
            str(func) for func, args, _, _ in self.calls if func in WAITING or _masked(func, args)
        ]
        return list(dict.fromkeys(names))

    def text(self) -> list[str]:
        """Every operation with its numbers, and the type and shape of its tensors, a line each."""
        return [
            f"{func} {_described(args)} {_described(kwargs)}"
            for func, args, kwargs, _ in self.calls
        ]


def _masked(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an index is a mask, whose number of rows only the device knows."""
    if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        return False
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])


def _described(values: Any) -> Any:
    def one(value: Any) -> Any:
        return (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else value

    return tree_map(one, values)


def record(step: Callable[[], None]) -> Recording:
    """Takes a step, and takes it down."""
    recording = Recording()
    with recording:
        step()
    return recording
