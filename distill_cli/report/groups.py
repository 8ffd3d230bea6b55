"""Runs that differ in their seed only belong together."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distill_cli.report.format import plain, short_name
from distill_cli.report.run_folder import RunSummary
from distill_cli.report.same_images import IMAGES, noted_images
from distill_cli.types import STAGES, RunResult

# Keys that may differ between the runs of a group: the seed, and those that do not change training.
# `command` is only what the file is for; whether there are teachers tells the verbs apart.
NOT_THE_RECIPE = {
    *("seed", "view_seed", "out", "recorded", "require", "about", "command"),
    *(
        "max_megapixels",
        "rank_timeout",
        "device",
        "threads",
        "workers",
        "graphs",
        "checkpoint_every",
        "max_time",
        "grace",
    ),
}
# The defaults of kd in 0.1.0, whose runs record its name alone; later runs record every value.
KD_OF_0_1_0: Mapping[str, float] = {"temperature": 4, "weight": 0.9}

# Keys that say which network is trained, and on how many levels its weights and activations lie.
NETWORK = ("model", "model_args")
BITS = ("weight_bits", "act_bits", "quantizer", "quantize_all", "last_layer_bits")
# Keys that recipe.yaml has only where they say something, with what their absence means.
UNWRITTEN: Mapping[str, Any] = {
    **dict.fromkeys(BITS),
    **dict.fromkeys(("freeze", "labels_fraction", "labels_per_class", "label_noise", "fold")),
    **dict.fromkeys(("coarse_labels", "omit_class", "only_classes", "limit", "without", "relabel")),
    **dict.fromkeys(("unlabelled_list", "objective_values")),
    **{"quantize_all": False, "transductive": False, "mutual": False, "peer": {}, "label_seed": 0},
}
Role = Literal["teacher", "student"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One recipe under several seeds.

    Attributes:
        label: Name of the group for a reader.
        runs: Its runs, one a seed.
        repeats: Runs of a seed that another one has already: they are no further draw.
    """

    label: str
    runs: tuple[RunSummary, ...]
    repeats: tuple[RunSummary, ...] = ()

    @property
    def role(self) -> Role:
        """Student where teachers taught it, else teacher: a network on labels alone."""
        return role_of(self.runs[0].recipe)

    @property
    def results(self) -> tuple[RunResult, ...]:
        """The figures of the runs that finished."""
        return tuple(run.result for run in self.runs if run.result is not None)

    def values(self, figure: str) -> list[float]:
        """A figure of result.json from every run that has it."""
        values = [getattr(result, figure) for result in self.results]
        return [float(value) for value in values if value is not None]

    def mean(self, figure: str) -> float | None:
        """Mean of a figure; None where no run has it."""
        values = self.values(figure)
        return statistics.fmean(values) if values else None

    @property
    def bytes(self) -> float | None:
        """Mean bytes of its weights as they are handed on: packed where they are quantised."""
        sizes = [result.packed_bytes or result.model_bytes for result in self.results]
        return statistics.fmean(sizes) if sizes else None

    def sd(self, figure: str) -> float | None:
        """Sample standard deviation of a figure (n − 1); None below two runs."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 else None


def role_of(recipe: Mapping[str, Any]) -> Role:
    """Role of a run; `command` may be absent in runs started from Python, `teachers` may not."""
    return "student" if recipe.get("teachers") else "teacher"


def group_runs(runs: Sequence[RunSummary]) -> list[Group]:
    """Groups in the order in which each first appears, every label another one.

    Runs of one recipe on other images, as far as they noted them, are of other groups. Of several
    runs of one recipe and seed, the first counts.
    """
    by_recipe: dict[str, list[RunSummary]] = {}
    for run in runs:
        by_recipe.setdefault(json.dumps(_kept(run), sort_keys=True, default=str), []).append(run)
    split = [members for runs in by_recipe.values() for members in _by_images(runs)]
    first = [members[0] for members in split]
    labels = _told_apart([label_of(run.recipe) for run in first], first)
    return [_of_seeds(label, members) for label, members in zip(labels, split, strict=True)]


def _by_images(runs: Sequence[RunSummary]) -> list[list[RunSummary]]:
    """The runs by their training and test images; what one did not note is that of the first."""
    usual: dict[str, Any] = {}
    by_images: dict[tuple[Any, ...], list[RunSummary]] = {}
    for part in IMAGES:
        noted = (noted_images(run, part) for run in runs)
        usual[part] = next((images for images in noted if images is not None), None)
    for run in runs:
        key = tuple(noted_images(run, part) or usual[part] for part in IMAGES)
        by_images.setdefault(key, []).append(run)
    return list(by_images.values())


def _of_seeds(label: str, members: Sequence[RunSummary]) -> Group:
    by_seed: dict[Any, RunSummary] = {}
    for run in members:
        by_seed.setdefault(run.seed, run)
    counted = list(map(id, by_seed.values()))
    return Group(
        label=label,
        runs=tuple(by_seed.values()),
        repeats=tuple(run for run in members if id(run) not in counted),
    )


def ranked(groups: Iterable[Group]) -> list[Group]:
    """The best first, by test accuracy; those without any come last."""

    def key(group: Group) -> float:
        accuracy = group.mean("test_top1")
        return math.inf if accuracy is None else -accuracy

    return sorted(groups, key=key)


def _kept(run: RunSummary) -> dict[str, Any]:
    kept = {key: value for key, value in run.recipe.items() if key not in NOT_THE_RECIPE}
    # The artefacts of an earlier stage lie in each run's own folder, or in that of all stages.
    out = str(run.recipe.get("out"))
    folder = out.rpartition(f"/{STAGES}/")[0] or out
    for key in ("init", "teachers", "relabel", "unlabelled_list"):
        if isinstance(kept.get(key), str):
            kept[key] = _inside(kept[key], folder)
        elif isinstance(kept.get(key), list):
            kept[key] = [_inside(str(name), folder) for name in kept[key]]
    return kept


def _inside(name: str, folder: str) -> str:
    """A path as it is from a run's folder, if it lies among its stages; whole paths of these are recorded too."""
    before, _, stage = name.rpartition(f"/{STAGES}/")
    inside = before == folder or before.endswith(f"/{folder}")
    return f"{STAGES}/{stage}" if inside else name


def _told_apart(labels: list[str], runs: Sequence[RunSummary]) -> list[str]:
    """Adds to equal labels the keys in which their recipes differ, then names, then numbers."""
    for add in (_differing, lambda run, others: run.name):
        labels = [
            f"{label} · {add(run, _equals(labels, runs, label))}"
            if labels.count(label) > 1
            else label
            for label, run in zip(labels, runs, strict=True)
        ]
    return [
        f"{label} #{labels[: index + 1].count(label)}" if labels.count(label) > 1 else label
        for index, label in enumerate(labels)
    ]


def _equals(labels: Sequence[str], runs: Sequence[RunSummary], label: str) -> list[RunSummary]:
    return [run for other, run in zip(labels, runs, strict=True) if other == label]


def _differing(run: RunSummary, others: Sequence[RunSummary]) -> str:
    """`lr=0.1 epochs=30`: this run's values of the keys in which any of the others differs."""
    kept = [_flat(_kept(other)) for other in others]
    keys = dict.fromkeys(key for values in kept for key in values)
    values_of_run = _flat(_kept(run))
    differing = [
        f"{key}={plain(values_of_run.get(key))}"
        for key in keys
        if any(values.get(key) != values_of_run.get(key) for values in kept)
    ]
    return " ".join(differing)


def _flat(kept: Mapping[str, Any]) -> dict[str, Any]:
    """With the values of each listed objective as keys of their own: `kd.temperature`."""
    listed = kept.get("objective")
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        return dict(kept)
    values = {f"{entry.get('name')}.{key}": entry[key] for entry in listed for key in entry}
    return {**kept, **values, "objective": [entry.get("name") for entry in listed]}


def label_of(recipe: Mapping[str, Any]) -> str:
    """`mlp_800x2 · kd T=20 α=0.9 · single`, or `mlp_800x2 · ce` where no teacher taught."""
    parts = [short_name(str(recipe.get("model") or "network")), objective_of(recipe)]
    if role_of(recipe) == "student":
        teachers = recipe["teachers"]
        mode = recipe.get("mode") or ("single" if len(teachers) == 1 else "ensemble")
        parts.append(str(mode) if len(teachers) == 1 else f"{mode} of {len(teachers)}")
    return " · ".join(parts)


def objective_of(recipe: Mapping[str, Any]) -> str:
    """The loss that was minimised: `kd T=4 α=0.9`, `ce ε=0.1`, or a list's entries joined by `+`.

    As it was asked for, where the run says so; every value is in `values_of`.
    """
    recorded = recipe.get("recorded")
    asked = recorded.get("asked") if isinstance(recorded, Mapping) else None
    request = {**recipe, **(asked if isinstance(asked, Mapping) else {})}
    objective = request.get("objective")
    if isinstance(objective, list):
        return " + ".join(_entry(entry) for entry in objective)
    words = [str(objective or "ce")]
    if role_of(recipe) == "student":
        words += _soft(request, recipe.get("objective"))
    smoothing = request.get("label_smoothing")
    return " ".join(words if smoothing is None else [*words, f"ε={plain(smoothing)}"])


def values_of(recipe: Mapping[str, Any]) -> str:
    """Every value of its objectives, as far as the run says them."""
    objective = recipe.get("objective")
    return " + ".join(map(_entry, objective)) if isinstance(objective, list) else plain(objective)


def _soft(request: Mapping[str, Any], listed: Any) -> list[str]:
    """Temperature and weight of the objective that is named first.

    Args:
        request: Names and flags.
        listed: The same with every value, where the run says them.
    """
    temperature, alpha = request.get("temperature"), request.get("alpha")
    if request.get("objective") == "kd":
        # Other objectives have defaults of their own, or no temperature.
        values = _of_kd(listed)
        temperature = values["temperature"] if temperature is None else temperature
        alpha = values["weight"] if alpha is None else alpha
    words = [] if temperature is None else [f"T={plain(temperature)}"]
    if alpha is None and request.get("objective") != "kd":
        return words  # each has published weights of its own
    weight = f"α={plain(alpha)}"
    schedule, end = request.get("schedule"), request.get("alpha_end")
    if end is not None or schedule not in (None, "constant"):
        weight += f"→{plain(0 if end is None else end)} {schedule or 'linear'}"
    return [*words, weight]


def _of_kd(listed: Any) -> dict[str, Any]:
    """Default temperature and weight of kd, or of its counterpart on sigmoid targets."""
    values: dict[str, Any] = dict(KD_OF_0_1_0)
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, Mapping) and entry.get("name") in ("kd", "sigmoid-kd"):
            values |= entry
    return values


def _entry(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return plain(entry)
    short = {"temperature": "T", "epsilon": "ε"}
    values = {short.get(key, key): value for key, value in entry.items() if key != "name"}
    return f"{entry.get('name')} {plain(values)}".strip()
