"""The knowledge that a run had of labels, as its recipe.yaml records it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_cli.report.format import plain
from distill_cli.types import RunResult

NOTHING_HELD_OUT = "nothing was held out"


def epoch_name(result: RunResult) -> str:
    """Which epoch was kept."""
    return "last epoch" if result.val_top1 is None else "best epoch"


def known_labels(recorded: Mapping[str, Any]) -> dict[str, str]:
    """Counts by what they are of; empty where the run knew all labels as they lie on disk."""
    noted = recorded.get("labels")
    if not isinstance(noted, Mapping):
        return {}
    values = {
        "labels known": f"{plain(noted.get('known'))} of {plain(noted.get('images'))}",
        "labels held out": plain(noted.get("held_out")),
        "labels hidden": plain(noted.get("hidden")),
    }
    if noted.get("noise"):
        values["labels changed"] = f"{plain(noted.get('changed'))} ({plain(noted['noise'])})"
    if noted.get("groups"):
        values["labels name"] = f"{plain(noted['groups'])} groups of classes"
    if noted.get("left_out"):
        images = plain(noted.get("left_out_images"))
        values["classes not trained on"] = f"{plain(noted['left_out'])} ({images} images)"
    if isinstance(limit := noted.get("limit"), list) and len(limit) == 2:
        values["images taken"] = f"{plain(limit[0])} of {plain(limit[1])}"
    if type(listed := noted.get("relabelled")) is int:
        values["labels of a list"] = (
            f"{plain(listed)} ({plain(noted.get('newly_known'))} not known before)"
        )
    if type(fit := noted.get("without")) is int:
        held = plain(noted.get("without_held_out"))
        values["left out by a list"] = f"{plain(fit)} to train on, {held} held out"
    return values
