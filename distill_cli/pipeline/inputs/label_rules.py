"""The rules for labels of a recipe: checked, their files read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill_cli.data.dataset import Dataset
from distill_cli.data.label_files import (
    Omitted,
    Relabelling,
    read_corrections,
    read_hierarchy,
    read_probabilities,
    read_relabelling,
    read_samples,
)
from distill_cli.data.label_rules import LabelRules, Noise
from distill_cli.errors import UsageError
from distill_cli.pipeline.inputs.artifacts import Artifacts
from distill_cli.pipeline.inputs.file_options import files_named
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.recipe.base import VAL_FRACTION, Recipe, TrainRecipe
from distill_cli.recipe.label_options import LabelOptions
from distill_cli.recipe.load import validate
from distill_cli.recipe.parsing import parse_noise
from distill_cli.recipe.recorded import mapping
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.types import UNLABELLED_KEYS


def check_label_options(recipe: TrainRecipe) -> None:
    """Refuses options of labels that contradict each other.

    Raises:
        UsageError: With the two.
    """
    for one, other in (
        ("labels_fraction", "labels_per_class"),
        ("omit_class", "only_classes"),
    ):
        if getattr(recipe, one) is not None and getattr(recipe, other) is not None:
            flags = (f"--{key.replace('_', '-')}" for key in (one, other))
            raise UsageError(f"{' and '.join(flags)} say the same thing twice: give one of them")
    if recipe.transductive and recipe.unlabelled is not None:
        raise UsageError(
            f"--transductive learns from the test images, and --unlabelled {recipe.unlabelled} from others",
            hint="Leave one of them out",
        )
    if recipe.coarse_labels is not None and getattr(recipe, "targets", None) == "sigmoid":
        raise UsageError(
            "--coarse-labels and --targets sigmoid: of a group one class applies, not each by itself"
        )


def label_rules(recipe: Recipe) -> LabelRules:
    """The rules that a recipe means; of a verb that does not train, none.

    Raises:
        UsageError: A file cannot be read.
        ArtifactError: It is malformed.
    """
    if not isinstance(recipe, TrainRecipe):
        return LabelRules()
    return LabelRules(
        fraction=recipe.labels_fraction,
        per_class=recipe.labels_per_class,
        noise=None if recipe.label_noise is None else _noise(recipe.label_noise),
        coarse=() if recipe.coarse_labels is None else read_hierarchy(Path(recipe.coarse_labels)),
        omit=tuple(recipe.omit_class or ()),
        only=tuple(recipe.only_classes or ()),
        limit=recipe.limit,
        fold=None if recipe.fold is None else (recipe.fold.number, recipe.fold.parts),
        without=_samples(recipe.without, "--without") or (),
        relabel=() if recipe.relabel is None else read_corrections(Path(recipe.relabel)),
        unlabelled=_samples(recipe.unlabelled_list, "--unlabelled-list"),
        seed=recipe.label_seed,
        val_fraction=VAL_FRACTION if recipe.val_fraction is None else recipe.val_fraction,
    )


def _samples(name: str | None, option: str) -> Omitted | None:
    return None if name is None else read_samples(Path(name), option)


def _noise(text: str) -> Noise | Relabelling:
    spec = parse_noise(text)
    return read_relabelling(Path(text)) if spec is None else Noise(kind=spec.kind, rate=spec.rate)


def said_of_knowing(
    recipe: TrainRecipe,
    names: Sequence[str],
    members: Sequence[Member],
    dataset: Dataset,
    runs: Artifacts,
) -> list[str]:
    """Lines about teachers that know labels which are hidden from the student.

    Args:
        recipe: The student's.
        names: The teachers' folders.
        members: The teachers.
        dataset: What the student knows.
        runs: The reader of their folders.
    """
    if dataset.labels is None or not dataset.labels.hidden:
        return []
    own, lines = _of_knowledge(recipe.model_dump()), []
    for name, member in zip(names, members, strict=True):
        if isinstance(member, CachedTeacher):
            lines.append(
                f"teacher {name} may know labels that are hidden here: a cache is of all images"
            )
            continue
        kept = runs.recipe(name)
        trained_on = (kept.get("recorded") or {}).get("dataset") or {}
        same = trained_on.get("fingerprint") == dataset.identity.fingerprint
        if same and _of_knowledge(kept) != own:
            lines.append(f"teacher {name} was trained with other labels than are known here")
    return lines


def _of_knowledge(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the keys of images that are left out or come in, by which no label is known."""
    keys = label_keys(kept)
    return {
        key: value
        for key, value in keys.items()
        if key not in ("without", "unlabelled_list", "transductive")
    }


def label_keys(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of labels in the recipe.yaml of a run; none where it knew them all."""
    located = {**kept, **files_named(kept)}
    return {key: located[key] for key in LabelOptions.model_fields if kept.get(key) is not None}


def rules_kept_of(kept: Mapping[str, Any]) -> LabelRules:
    """The rules of a run's recipe.yaml.

    Raises:
        UsageError: A key has a value that it cannot have, or a file cannot be read.
    """
    keys = {**label_keys(kept), "val_fraction": kept.get("val_fraction") or VAL_FRACTION}
    return label_rules(validate(TrainRecipe, keys))


def rules_said(kept: Mapping[str, Any]) -> LabelRules:
    """The rules of a run's recipe.yaml, without labels that a self-training made: they are no knowledge.

    Raises:
        UsageError: A key has a value that it cannot have, or a file cannot be read.
    """
    rules = rules_kept_of(kept)
    if not rules.relabel:
        return rules
    made = read_probabilities(Path(str(label_keys(kept)["relabel"])))
    return replace(rules, relabel=tuple(row for row in rules.relabel if row not in made))


def rules_for(dataset: Dataset, kept: Mapping[str, Any], rules: LabelRules) -> LabelRules:
    """A run's rules, without what its lists say of images beside the data where these are not its own.

    Images of another source may have the names of its own, and lists know no more than names.

    Args:
        dataset: The run's data, with whatever lies beside them now.
        kept: The run's recipe.yaml.
        rules: Its rules.
    """
    if dataset.identity.beside == beside_then(kept):
        return rules
    return rules.of_data(dataset.train.sample_ids[: dataset.identity.samples])


def beside_then(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the images beside the data that a run recorded; empty where there were none."""
    then = mapping(mapping(kept.get("recorded")).get("dataset"))
    return {key: then[key] for key in UNLABELLED_KEYS if then.get(key)}
