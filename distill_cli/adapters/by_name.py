"""Adapters by the names of their objectives."""

from __future__ import annotations

from torch import nn


class AdapterDict(nn.ModuleDict):
    """A `ModuleDict` that takes every name: `forward` is an objective, and a method of modules."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Adds one; it is had by `self[name]` alone."""
        assert module is not None, "an objective without one has no name here"
        self._modules[name] = module
