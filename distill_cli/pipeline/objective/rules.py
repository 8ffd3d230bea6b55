"""The reasons for which a combination of objectives is refused, by the recipe alone.

Of the three moments of refusing (*early*: before torch is imported; *before the data* are opened;
*before the first byte* is written) this is the second. Objectives that these teachers, layers or data
do not suit are refused before the first byte: in `offers.py`, and for orders of samples in
`order.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from distill_cli.errors import UsageError
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import Objective
from distill_cli.objectives.compose import Composition, Weighted
from distill_cli.objectives.hooks import (
    ChecksEpochs,
    ConditionalNeeds,
    JudgesEpochs,
    SelectsSamples,
    TapsStudent,
    WholeBatch,
    needs_of,
)
from distill_cli.pipeline.objective.given import check_given
from distill_cli.pipeline.objective.order import check_order
from distill_cli.pipeline.objective.temperature import TEMPERATURE, has_temperature, tempered
from distill_cli.recipe.base import TeacherLabels, TrainRecipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.types import Need, Targets

# Hard labels, which an objective that selects samples has itself: nothing is left to soften.
NO_SOFT_LABEL = frozenset({"ce"})


def check_smoothed(owner: str, parameters: Sequence[str]) -> None:
    """Refuses `--label-smoothing` beside an objective that defines the hard label by itself.

    Args:
        owner: Name of the objective that owns the hard label.
        parameters: Names of its hyper-parameters.
    """
    if "epsilon" not in parameters:
        raise UsageError(
            f"label_smoothing cannot be combined with objective '{owner}', which defines the "
            "hard label by itself"
        )


def check_flags(
    recipe: StudentRecipe,
    entries: Sequence[Mapping[str, Any]],
    version: str | None,
    *,
    alone: bool,
) -> None:
    """Refuses flags that say nothing of the named objectives, or contradict each other.

    Args:
        recipe: Recipe with the flags.
        entries: Entries of the named objectives, with their weights.
        version: The distill whose flags the recipe means; None for today's.
        alone: Whether the hard label is cross-entropy's, joined to what is named.

    Raises:
        UsageError: With the reason.
    """
    if recipe.temperature is not None:
        _check_temperature(recipe.temperature, entries, version)
    layers = (recipe.hint_layer, recipe.guided_layer)
    if layers != (None, None) and not any(entry["name"] == "hint" for entry in entries):
        raise UsageError("--hint-layer and --guided-layer: there is no hint among the objectives")
    if (recipe.alpha, recipe.alpha_end, recipe.schedule) == (None, None, None):
        return
    if not alone:
        raise UsageError(
            "--alpha weighs one objective against cross-entropy on the hard label, which another of "
            "these defines",
            hint="Give weights in a list of objectives",
        )
    if recipe.schedule == "constant" and recipe.alpha_end is not None:
        raise UsageError("--alpha-end contradicts --schedule constant", hint="Leave one out")


def _check_temperature(
    temperature: float, entries: Sequence[Mapping[str, Any]], version: str | None
) -> None:
    classes = [OBJECTIVES[entry["name"]] for entry in entries]
    if any(tempered(cls, version) for cls in classes):
        return
    having = [cls.info.name for cls in classes if has_temperature(cls)]
    if not having:
        raise UsageError("--temperature: none of these objectives has one")
    listed = [
        {**entry, TEMPERATURE: temperature} if entry["name"] in having else entry
        for entry in entries
    ]
    spelt = ", ".join(
        f"{{{', '.join(f'{key}: {value}' for key, value in entry.items())}}}" for entry in listed
    )
    raise UsageError(
        f"--temperature is that of a teacher's labels, and '{having[0]}' has one of its own",
        hint=f"Set it by --set 'objective=[{spelt}]'",
    )


def check_kinds(parts: Sequence[Weighted], targets: Targets, epochs: int) -> None:
    """Refuses objectives for other targets, and parameters that make no sense in so many epochs.

    Raises:
        UsageError: With the reason.
    """
    for part in parts:
        info = part.objective.info
        if targets not in info.targets:
            raise UsageError(
                f"objective '{info.name}' is for {' and '.join(sorted(info.targets))} targets, "
                f"these are {targets}"
            )
        if isinstance(part.objective, ChecksEpochs):
            part.objective.check(epochs)


def check_parts(parts: Sequence[Weighted]) -> None:
    """Refuses objectives that stand twice, own one thing, want two orders or name one term.

    Raises:
        UsageError: With the two.
    """
    infos = [part.objective.info for part in parts]
    for name, count in Counter(info.name for info in infos).items():
        if count > 1:
            raise UsageError(f"objective '{name}' stands {count} times in one composition")
    owners: dict[str, str] = {}
    for info in infos:
        for thing in info.owns:
            if thing in owners:
                raise UsageError(
                    f"objectives '{owners[thing]}' and '{info.name}' cannot be combined: both "
                    f"define {thing.value}",
                    hint="Keep one of them",
                )
            owners[thing] = info.name
    wanted = Composition(tuple(parts)).orders
    if len(set(wanted.values())) > 1:
        first = next(iter(wanted))
        second = next(name for name in wanted if wanted[name] != wanted[first])
        raise UsageError(
            f"objectives '{first}' and '{second}' cannot be combined: {first} wants samples "
            f"{wanted[first]}, {second} {wanted[second]}",
            hint="Keep one of them",
        )
    for info, other in combinations(infos, 2):
        if shared := sorted(info.terms & other.terms):
            raise UsageError(
                f"objectives '{info.name}' and '{other.name}' cannot be combined: both report a "
                f"term '{shared[0]}'",
                hint="Keep one of them",
            )


def check_sense(recipe: TrainRecipe, composed: Composition) -> None:
    """Refuses objectives that cannot be trained together, or not by this verb.

    Raises:
        UsageError: With the reason.
    """
    _check_selecting(composed)
    _check_teaching(recipe, composed)
    check_given(recipe, composed)
    check_order(recipe, composed)
    objectives = [part.objective for part in composed.parts]
    if recipe.accumulate > 1 and (cut := undivided(composed)):
        raise UsageError(
            f"objective '{cut[0]}' looks at a batch as a whole: --accumulate would cut it up",
            hint="Leave --accumulate out, or use a smaller --batch-size",
        )
    tapping = [
        one.info.name
        for one in objectives
        if isinstance(one, TapsStudent | JudgesEpochs) or Need.FEATURES in needs_of(one)
    ]
    if recipe.compile is True and tapping:
        raise UsageError(
            f"--compile cannot look at layers, and objective '{tapping[0]}' does",
            hint="Leave it out with this objective",
        )


def undivided(composed: Composition) -> list[str]:
    """The objectives that must see a batch as a whole."""
    whole = [
        part.objective.info.name
        for part in composed.parts
        if isinstance(part.objective, WholeBatch) and part.objective.whole_batch
    ]
    return [*composed.coupled, *whole]


def companions(cls: type[Objective]) -> list[type[Objective]]:
    """The objectives of which one must stand beside this one; none where it may stand alone."""
    if not issubclass(cls, SelectsSamples):
        return []
    return [
        other
        for other in OBJECTIVES.values()
        if other is not cls
        and other.info.name not in NO_SOFT_LABEL
        and not other.info.coupled
        and other.info.targets & cls.info.targets
    ]


def _check_selecting(composed: Composition) -> None:
    """Refuses a choice between labels where there is one kind, or where samples are not apart."""
    for part in composed.parts:
        name = part.objective.info.name
        if not isinstance(part.objective, SelectsSamples):
            continue
        others = [p.objective.info for p in composed.parts if p is not part]
        if all(info.name in NO_SOFT_LABEL for info in others):
            raise UsageError(
                f"objective '{name}' chooses which samples get a soft label, and none is named",
                hint=f"As --objective {name},label-smoothing",
            )
        if composed.coupled:
            raise UsageError(
                f"objective '{composed.coupled[0]}' compares the samples of a batch with each "
                f"other: '{name}' cannot choose some of them for it"
            )


def _check_teaching(recipe: TrainRecipe, composed: Composition) -> None:
    if isinstance(recipe, StudentRecipe) and recipe.hint_epochs is not None and not recipe.hints:
        raise UsageError("--hint-epochs is of --hints", hint="Leave it out, or add --hints")
    taught = Need.TEACHER in composed.needs
    if isinstance(recipe, TeacherLabels) and not taught:
        raise UsageError(
            "objective: none of these learns from a teacher",
            hint=_other_form(composed) or "Use `distill teacher train` for a network without one",
        )
    if not isinstance(recipe, TeacherLabels) and taught:
        other = _other_form(composed)
        hint = "Use `distill student --teachers …`" + (f". {other}" if other else "")
        raise UsageError("objective: this one needs teachers", hint=hint)


def _other_form(composed: Composition) -> str:
    """Where to read of other parameters, of an objective that learns from teachers or does not."""
    names = [
        part.objective.info.name
        for part in composed.parts
        if isinstance(part.objective, ConditionalNeeds)
        and Need.TEACHER in part.objective.info.needs
    ]
    return f"{names[0]} can be set otherwise: distill methods show {names[0]}" if names else ""
