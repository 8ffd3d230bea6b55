"""Options of trainings that name a file of labels or of classes: where it is, for whoever reads it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_cli.errors import UsageError
from distill_cli.files import real_path
from distill_cli.pipeline.inputs.class_groups import WORDS
from distill_cli.recipe.parsing import parse_noise

# What a run makes of these is recorded in `recorded.labels`, and of the others nowhere.
OF_LABELS = ("label_noise", "coarse_labels", "without", "relabel", "unlabelled_list")
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


def check_files(values: Mapping[str, Any]) -> None:
    """Refuses pipes and devices, as `<(…)` is one: these files are read again, by what checks, resumes and looks back.

    Raises:
        UsageError: With the option.
    """
    given = {key: [values[key]] for key in files_named(values)}
    for key, names in {**given, "class_map": values.get("class_map") or []}.items():
        for name in names:
            path = Path(name)
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UsageError(
                    f"--{key.replace('_', '-')} {name} is no regular file, and it is read more than once",
                    hint="Write it into a file first",
                )
