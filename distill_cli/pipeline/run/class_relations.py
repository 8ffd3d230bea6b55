"""Which classes the objectives of a run hold to be alike: kept beside its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill_cli.adapters.class_relations import likest
from distill_cli.adapters.hooks import HasClassRelations
from distill_cli.files import write_json
from distill_cli.report.run_folder import MOST_CLASSES, RELATIONS

PAIRS = 20


def keep_relations(run: Path, adapters: nn.ModuleDict, class_names: Sequence[str]) -> None:
    """Writes relations.json, where any objective has an opinion."""
    found = {
        name: _said(module.relations().double().cpu(), class_names)
        for name, module in adapters.named_modules()
        if isinstance(module, HasClassRelations)
    }
    if found:
        write_json(run / RELATIONS, found)


def _said(relation_KK: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    pairs = likest(relation_KK, PAIRS)
    kept = list(range(len(class_names)))
    if len(kept) > MOST_CLASSES:
        # Those of its likest pairs.
        of_pairs = dict.fromkeys(place for *pair, _ in pairs for place in pair)
        # In the order of classes, so that rows of neighbours stay together.
        kept = sorted(list(of_pairs)[:MOST_CLASSES])
    return {
        "class_names": [class_names[place] for place in kept],
        "share": [[round(cell, 6) for cell in row] for row in relation_KK[kept][:, kept].tolist()],
        "pairs": [
            [class_names[first], class_names[second], round(share, 6)]
            for first, second, share in pairs
        ],
    }
