"""Groups that no other one beats in accuracy and in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from distill_cli.report.groups import Group
from distill_cli.report.same_images import same_test_images


def pareto(groups: Sequence[Group]) -> list[Group]:
    """The groups to which no other is at least equal in both, and better in one: the fewest bytes first.

    Accuracy is that on test, bytes are those of the weights, packed where they are quantised. There is
    no front of accuracies on different test images.
    """
    known = [group for group in groups if point(group) is not None]
    if not same_test(known):
        return []
    front = [group for group in known if not any(_beats(other, group) for other in known)]
    return sorted(front, key=lambda group: point(group) or (0, 0))


def same_test(groups: Sequence[Group]) -> bool:
    """Whether no run of the groups is known to have been tested on other images than the first one."""
    runs = [run for group in groups for run in group.runs]
    return not any(same_test_images(*pair) is False for pair in product(runs[:1], runs[1:]))


def point(group: Group) -> tuple[float, float] | None:
    """Bytes and accuracy of a group; None where a figure is not known."""
    size, accuracy = group.bytes, group.mean("test_top1")
    return None if size is None or accuracy is None else (size, accuracy)


def _beats(one: Group, other: Group) -> bool:
    (size, accuracy), (other_size, other_accuracy) = point(one) or (0, 0), point(other) or (0, 0)
    better = size < other_size or accuracy > other_accuracy
    return better and size <= other_size and accuracy >= other_accuracy
