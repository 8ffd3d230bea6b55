"""Abilities of adapters, declared by class: an adapter has one by inheriting from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer


class HasClassRelations(ABC):
    """An adapter with an opinion on which classes are alike."""

    @abstractmethod
    def relations(self) -> Tensor:
        """(K, K): what share of the label of class y is put on each class, or of its residual."""


class HasSummary(ABC):
    """An adapter with something to say once training is over."""

    @abstractmethod
    def summary(self, class_names: Sequence[str]) -> list[str]:
        """Lines for a person, without the objective's name."""


class OwnOptimizer(ABC):
    """An adapter that is not moved by the student's optimiser."""

    @abstractmethod
    def optimizer(self) -> Optimizer:
        """A fresh optimiser of its parameters."""
