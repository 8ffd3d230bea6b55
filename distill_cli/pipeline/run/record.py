"""How a run comes about, as its folder keeps it below the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill_cli import __version__
from distill_cli.data.dataset import Dataset
from distill_cli.errors import DistillError
from distill_cli.pipeline.inputs.other_views import ViewSpecs
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.pipeline.objective.entries import entry_of
from distill_cli.pipeline.objective.layers import Layers
from distill_cli.readers.json_values import read_json
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.recorded import asked_of, made_by
from distill_cli.report.run_folder import RESULT
from distill_cli.runtime import Runtime, describe
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import UNLABELLED, Teacher
from distill_cli.types.relation import is_number


def record_of(
    recipe: TrainRecipe,
    dataset: Dataset,
    specs: ViewSpecs,
    names: Sequence[str],
    members: Sequence[Teacher],
    layers: Layers,
    runtime: Runtime,
) -> dict[str, Any]:
    """What recipe.yaml has below `recorded`: machine, versions, data, teachers, layers."""
    recorded = {
        **describe(runtime),
        **({} if runtime.ranks.alone else {"ranks": runtime.ranks.count}),
        "dataset": dataset.identity.to_json(),
        "trained_on": len(dataset.fit_rows),
        **({} if dataset.labels is None else {"labels": dataset.labels.to_json()}),
        "test": {"samples": len(dataset.test.sample_ids), "fingerprint": dataset.test_fingerprint},
        "view_spec": specs.student.to_json(),
        **({} if specs.teacher is None else {"teacher_view_spec": specs.teacher.to_json()}),
        "teachers": [member.fingerprint for member in members],
        "teacher_networks": [
            _network(name, member) for name, member in zip(names, members, strict=True)
        ],
        "skipped_images": dataset.skipped,
        "layers": list(layers.recorded),
        # Below the versions of now: of a run that goes on, they are not what its names stood for.
        "defaults": made_by(recipe.recorded) or __version__,
    }
    if isinstance(recipe, LabelledRecipe):
        return {**recorded, "asked": asked_of(recipe)}
    return {**recorded, "objective": [entry_of(part) for part in layers.composition.parts]}


def _network(name: str, member: Teacher) -> dict[str, Any]:
    """The network of a teacher; parameters and test accuracy where they are known, else None.

    The accuracy is the one that the teacher's own run measured, or, of a cache, that of the test
    rows which it stores.
    """
    model, params, accuracy = None, None, None
    if isinstance(member, LiveTeacher):
        model, params = kept_recipe(Path(name)).get("model"), member.network.num_params
        accuracy = _measured(Path(name))
    elif isinstance(member, CachedTeacher):
        accuracy = _stored(member)
    return {
        "model": str(model or getattr(member, "architecture", name)),
        "params": params,
        "test_top1": None if accuracy is None else round(accuracy, 6),
    }


def _measured(folder: Path) -> float | None:
    """The test accuracy of a finished run; None of a model without one."""
    run = folder.parent if folder.name == "model" else folder
    result: Any = None
    with suppress(DistillError):
        result = read_json(run / RESULT) if (run / RESULT).is_file() else None
    accuracy: float | None = result.get("test_top1") if isinstance(result, dict) else None
    return accuracy if is_number(accuracy) else None


def _stored(teacher: CachedTeacher) -> float | None:
    rows = teacher.reader.eval_rows("test")
    if rows is None:
        return None
    logits_NK, target_N = rows
    labelled_N = target_N != UNLABELLED
    right_N = logits_NK.argmax(dim=1) == target_N
    return float(right_N[labelled_N].double().mean()) if bool(labelled_N.any()) else None
