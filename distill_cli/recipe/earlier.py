"""Defaults of earlier versions: a run that recorded a name, or left a key out, means these.

Whoever changes a default enters the old one here, under the last version that had it. What is new
in an objective is entered too, with the value at which it does what was done before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from distill_cli.types import EARLIER_FRAMING, DataVersion, Framing

# By version, objective and parameter. Two keys are none of its parameters: the usual weights where
# it is named, its own as `weight` and that of cross-entropy beside it as `hard_weight`.
EARLIER: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "0.1.0": {
        "category-structure": {"intra_weight": 0.002, "inter_weight": 0.04},
        "dist": {"inter": 1.0, "intra": 1.0},
        "hint": {"weight": 100.0, "normalised": False, "gradient_scale": 1.0},
        "tfkd-reg": {"form": "paper"},
    },
}
OWN_WEIGHT, HARD_WEIGHT = "weight", "hard_weight"
# Where a parameter has a default by form, those entered are of one: that of an entry which says this
# or nothing.
OF_FORM: Mapping[str, str] = {"category-structure": "paper"}
# Which values of an objective meant another formula, by the last version that had it. A run that was
# begun with them cannot be gone on with.
OTHER_FORMULAS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "0.1.0": {"category-structure": {"form": "release"}},
}
# The last version whose `--temperature` went by the parameter's name, to tfkd-reg and tfkd-self too.
TEMPERATURE_BY_NAME = "0.2.0"
# The last version that read data by other rules, and recorded none.
DATA_VERSION: DataVersion = "0.3.0"
# How pictures become pixels where nothing is said, and the last version that did it as `EARLIER_FRAMING`.
FRAMING = Framing(resize="floor", orientation="exif", background="white", decoding="full")
LAST_EARLIER_FRAMING = "0.3.0"
# The batch where nothing is said, whatever the number of images, and the last version that had it. It
# also had images without labels in every batch, and took means over the labelled ones of each.
BATCH_SIZE, LAST_FIXED_BATCH = 128, "0.4.0"
# The last version whose generations had the networks that are trained along in the first of them alone.
LAST_PEERS_OF_FIRST = "0.8.0"
# The last version that scaled the gradient of an activation's step by the values of an entry of the first axis.
LAST_STEPS_BY_ENTRY = "0.8.0"


def defaults_then(version: str | None, name: str) -> dict[str, Any]:
    """An objective's defaults in an earlier version, as far as they differ from today's.

    Args:
        version: The distill that made a run; None for today's. One that does not say which it was
            stands for the first.
        name: The objective's name.
    """
    then: dict[str, Any] = {}
    if version is None:
        return then
    for last in sorted(EARLIER, key=_numbers, reverse=True):
        if _numbers(version) <= _numbers(last):
            then |= EARLIER[last].get(name, {})
    return then


def parameters_then(version: str | None, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same for an entry in a list of objectives: without the usual weights, which it has."""
    name = entry["name"]
    if entry.get("form", OF_FORM.get(name)) != OF_FORM.get(name, entry.get("form")):
        return {}
    then = defaults_then(version, name)
    return {key: value for key, value in then.items() if key not in (OWN_WEIGHT, HARD_WEIGHT)}


def other_formula(version: str | None, entries: Iterable[Mapping[str, Any]]) -> str | None:
    """The first objective that a version computed by another formula than today's, as `name, key: value`.

    Args:
        version: The distill that made a run; None for today's.
        entries: The run's objectives with every value, as a recipe lists them.
    """
    for entry in entries if version is not None else ():
        for last, changed in OTHER_FORMULAS.items():
            values = changed.get(str(entry.get("name")))
            if values is None or _numbers(str(version)) > _numbers(last):
                continue
            if all(entry.get(key) == value for key, value in values.items()):
                listed = ", ".join(f"{key}: {value}" for key, value in values.items())
                return f"{entry['name']}, {listed}"
    return None


def temperature_by_name(version: str | None) -> bool:
    """Whether a version's `--temperature` set every parameter that is called `temperature`.

    Args:
        version: The distill that made a run; None for today's.
    """
    return version is not None and _numbers(version) <= _numbers(TEMPERATURE_BY_NAME)


def data_version_then(version: str | None) -> DataVersion | None:
    """The rules by which a version read data, where it had no key for them; None for today's.

    Args:
        version: The distill that made a run; None for today's.
    """
    earlier = version is not None and _numbers(version) <= _numbers(DATA_VERSION)
    return DATA_VERSION if earlier else None


def framing_then(version: str | None) -> Framing:
    """A version's framing of pictures where its recipe says nothing.

    Args:
        version: The distill whose defaults a recipe has; None for today's.
    """
    earlier = version is not None and _numbers(version) <= _numbers(LAST_EARLIER_FRAMING)
    return EARLIER_FRAMING if earlier else FRAMING


def batch_size_then(version: str | None) -> int | None:
    """A version's batch where nothing is said; None where it goes by the images.

    Args:
        version: The distill whose defaults a recipe has; None for today's.
    """
    return BATCH_SIZE if counts_labelled_then(version) else None


def counts_labelled_then(version: str | None) -> bool:
    """Whether a version took the mean over those images of a batch that have a label.

    Args:
        version: The distill whose defaults a recipe has; None for today's.
    """
    return version is not None and _numbers(version) <= _numbers(LAST_FIXED_BATCH)


def peers_of_first_then(version: str | None) -> bool:
    """Whether a version trained networks along with the first of several generations alone.

    Args:
        version: The distill whose defaults a recipe has; None for today's.
    """
    return version is not None and _numbers(version) <= _numbers(LAST_PEERS_OF_FIRST)


def steps_by_entry_then(version: str | None) -> bool:
    """Whether a version took each entry of what goes into a layer for an image, and its last call for all.

    Args:
        version: The distill whose defaults a recipe has; None for today's.
    """
    return version is not None and _numbers(version) <= _numbers(LAST_STEPS_BY_ENTRY)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
