"""Class relations of a run's objectives: kept in relations.json beside its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from distill_cli.adapters.class_relations import likest
from distill_cli.adapters.hooks import HasClassRelations
from distill_cli.files import write_json
from distill_cli.types import Relation
from distill_cli.types.relation import MOST_CLASSES, RELATIONS

# Pairs of an objective that are kept.
PAIRS = 20


def keep_relations(run: Path, adapters: nn.ModuleDict, class_names: Sequence[str]) -> None:
    """Writes relations.json, where any objective has an opinion."""
    relations = {
        name: _relation(module.relations().double().cpu(), class_names)
        for name, module in adapters.named_modules()
        if isinstance(module, HasClassRelations)
    }
    if relations:
        write_json(run / RELATIONS, {name: each.to_json() for name, each in relations.items()})


def _relation(relation_KK: Tensor, class_names: Sequence[str]) -> Relation:
    pairs = likest(relation_KK, PAIRS)
    kept = list(range(len(class_names)))
    if len(kept) > MOST_CLASSES:
        # Keep the classes of the likest pairs, as far as there is room ...
        likest_first = dict.fromkeys(index for *pair, _ in pairs for index in pair)
        # ... in the order of classes, so that rows of neighbours stay together.
        kept = sorted(list(likest_first)[:MOST_CLASSES])
    return Relation(
        class_names=[class_names[index] for index in kept],
        share=[[round(cell, 6) for cell in row] for row in relation_KK[kept][:, kept].tolist()],
        pairs=[
            (class_names[first], class_names[second], round(share, 6))
            for first, second, share in pairs
        ],
    )
