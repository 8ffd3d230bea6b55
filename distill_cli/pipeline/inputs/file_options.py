"""Options of trainings that name a file of labels or of classes: where it is, for whoever reads it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_cli.files import real_path
from distill_cli.pipeline.inputs.class_groups import WORDS
from distill_cli.recipe.parsing import parse_noise

# What a run makes of these is recorded in `recorded.labels`, and of the others nowhere.
OF_LABELS = ("label_noise", "coarse_labels", "without", "relabel")
OF_CLASSES = ("noise_matrix", "groups")


def files_named(values: Mapping[str, Any]) -> dict[str, str]:
    """The options of a recipe that name a file, each with its path made absolute if it is there."""
    paths: dict[str, str] = {}
    for key in (*OF_LABELS, *OF_CLASSES):
        text = values.get(key)
        if not isinstance(text, str) or (key == "groups" and text == WORDS):
            continue
        if key != "label_noise" or parse_noise(text) is None:
            paths[key] = str(real_path(text)) if Path(text).exists() else text
    return paths
