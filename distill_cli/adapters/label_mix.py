"""Learnt embeddings of classes: which are alike, from what the network confuses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill_cli.adapters.class_optimizer import by_class
from distill_cli.adapters.class_relations import in_words
from distill_cli.adapters.hooks import HasClassRelations, HasSummary, OwnOptimizer
from distill_cli.losses.soft_targets import class_relation


class ClassEmbeddings(nn.Module, OwnOptimizer, HasClassRelations, HasSummary):
    """A vector a class; their cosines are the relation between classes.

    They learn to foretell the network's mean answer to each class, with an optimiser of their own.

    Args:
        classes: K.
        temperature: T of the relation.
        rate: Learning rate of their optimiser, for the mean over the samples of one class.
    """

    def __init__(self, classes: int, temperature: float, rate: float) -> None:
        super().__init__()
        # As many values as classes: any relation can be had, and all classes start equally far.
        self.embedding_KD = nn.Parameter(torch.eye(classes))
        self.temperature = temperature
        self.rate, self.classes = rate, classes

    def optimizer(self) -> torch.optim.Optimizer:
        """Plain SGD of the embeddings alone."""
        return by_class(self, self.classes, self.rate)

    def forward(self) -> Tensor:
        """relation_KK, each row of sum 1, from which gradients reach the embeddings."""
        return class_relation(self.embedding_KD, self.temperature)

    @torch.no_grad()
    def relations(self) -> Tensor:
        """The relation as it stands."""
        relation_KK: Tensor = self()
        return relation_KK

    def summary(self, class_names: Sequence[str]) -> list[str]:
        """The pairs of classes that are related most."""
        return [f"the most alike are {in_words(self.relations(), class_names)}"]
