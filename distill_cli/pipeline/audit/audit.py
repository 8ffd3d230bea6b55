"""`distill audit`: from a run to lists of samples, figures and a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from distill_cli.cache.manifest import read_plan
from distill_cli.data.dataset import Dataset
from distill_cli.data.inventory import left_in_words
from distill_cli.errors import ArtifactError
from distill_cli.models import load_model
from distill_cli.pipeline.answers import Part, answers_to, data_as_known, judges_of, parts_of
from distill_cli.pipeline.audit.copies import Copy, Looks, copies
from distill_cli.pipeline.audit.samples import Judged, Rows, joined, judge
from distill_cli.pipeline.inputs.artifacts import once
from distill_cli.pipeline.inputs.teachers import check_classes
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.fields import Device
from distill_cli.recipe.parsing import Amount
from distill_cli.runtime import decide

# The order in which images of a pair stay.
STAYS = {"test": 0, "val": 1, "train": 2}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A run's samples, judged.

    Attributes:
        class_names: In label order.
        judges: Folders of the networks and caches that judged.
        in_sample: Whether these may have learnt the labels that they judge.
        rows: The samples to train on and those held out.
        judged: Hard and mislabelled ones among them.
        duplicates: Rows that are there twice, each with its partner's part and number in it.
        test: Test, whose images alone are looked at.
        in_test: Images of test that are like another image of test.
    """

    class_names: tuple[str, ...]
    judges: tuple[str, ...]
    in_sample: bool
    rows: Rows
    judged: Judged
    duplicates: dict[int, Duplicate]
    test: Part
    in_test: int


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """The image that a sample is like, which stays.

    Attributes:
        part: Its part.
        number: Its number in the part.
        similarity: Correlation of their pixels; 1 where they are equal.
        equal: Whether all pixels are equal.
    """

    part: Part
    number: int
    similarity: float
    equal: bool

    @property
    def sample(self) -> str:
        """Its sample id."""
        return self.part.images.sample_ids[self.number]


def audit(
    folder: Path,
    *,
    teachers: Sequence[str],
    out_of_fold: Sequence[str],
    budget: Amount | None,
    near: float,
    data: str | None,
    unlabelled: str | None,
    device: Device,
    message: Callable[[str], None],
) -> Audit:
    """Judges the samples of a run's data, as the run knew them. Hidden labels and those of test are not read.

    Args:
        folder: The run.
        teachers: Runs, models and caches that judge beside the run's own network.
        out_of_fold: Caches that judge in its place: of networks that had not seen the labels, by --cross-fit.
        budget: As `judge` takes it.
        near: Correlation of pixels from which on images are alike; above 1 only equal ones are.
        data: Its data's new place; None where they were not moved.
        unlabelled: Images without labels beside them; None for the run's own.
        device: The device to compute on.
        message: Is told what of the data is left out, and of weights without a checksum.

    Raises:
        UsageError: The data are nowhere.
        ArtifactError: Their classes are others, or labels of one class each are not what there is.
    """
    runtime, tell = decide(device), once(message)
    network = load_model(folder, tell=tell)
    dataset = data_as_known(
        folder, kept_recipe(folder), network.view, data=data, unlabelled=unlabelled
    )
    for line in left_in_words(dataset.left):
        message(line)
    check_classes(str(folder), network.class_names, dataset.class_names, hint=None)
    _check_labels(folder, dataset)
    names = tuple(out_of_fold or (str(folder), *teachers))
    judges = judges_of(names, dataset, runtime, tell)
    looks = Looks()
    *labelled, test = [part for part in parts_of(dataset) if len(part) or part.split == "test"]
    rows = joined(
        [
            (part, answers_to(part, looks.watch(part.images.iter_plain()), judges, runtime.device))
            for part in labelled
        ]
    )
    for _ in looks.watch(test.images.iter_plain()):
        pass
    judged = judge(rows, budget)
    duplicates, in_test = _duplicates(labelled, test, rows, judged, looks, near)
    return Audit(
        class_names=network.class_names,
        judges=names,
        # A cache without folds has labels of one network, which was trained on nobody knows what.
        in_sample=not out_of_fold
        or not all(read_plan(Path(name)).cross_fit for name in out_of_fold),
        rows=rows,
        judged=judged,
        duplicates=duplicates,
        test=test,
        in_test=in_test,
    )


def _check_labels(folder: Path, dataset: Dataset) -> None:
    """Refuses labels that are not of one class each.

    Raises:
        ArtifactError: An image may have several, or labels name groups of classes.
    """
    kinds = {
        "several labels may apply to an image": dataset.multi_label,
        "labels name groups of classes": dataset.group_K is not None,
    }
    for words, applies in kinds.items():
        if applies:
            raise ArtifactError(
                f"of {folder} {words}: labels that name one class each can be judged alone"
            )


def _duplicates(
    labelled: Sequence[Part], test: Part, rows: Rows, judged: Judged, looks: Looks, near: float
) -> tuple[dict[int, Duplicate], int]:
    """Rows that are like an image that stays, and how many images of test are like another of test.

    Of a pair an image of test stays, before one held out, before one to train on; then one whose label is
    not doubted, one that has a label, and the first by sample id.
    """
    row_of = _rows_of(labelled, rows)
    doubted = set(judged.mislabelled)

    def first(number: int) -> tuple[int, bool, bool, int]:
        if number not in row_of:
            return STAYS["test"], False, False, number
        row = row_of[number]
        unknown = int(rows.label_N[row]) < 0
        return STAYS[rows.parts[row].split], row in doubted, unknown, row

    order = sorted(range(len(looks.digests)), key=first)
    alike = copies(
        [looks.digests[number] for number in order],
        looks.look_ND[torch.tensor(order, dtype=torch.int64)],
        near,
        fixed=len(test),
    )
    behind = sum(len(part) for part in labelled)
    return {
        row_of[order[copy.row]]: _duplicate(copy, order[copy.partner], row_of, rows, test, behind)
        for copy in alike
        if copy.row >= len(test)
    }, sum(copy.row < len(test) for copy in alike)


def _rows_of(labelled: Sequence[Part], rows: Rows) -> dict[int, int]:
    """The row of each image, by its number among those of all parts in turn."""
    starts, start = {}, 0
    for part in labelled:
        starts[part.split], start = start, start + len(part)
    return {
        starts[part.split] + place: row
        for row, (part, place) in enumerate(zip(rows.parts, rows.place_N.tolist(), strict=True))
    }


def _duplicate(
    copy: Copy, partner: int, row_of: dict[int, int], rows: Rows, test: Part, behind: int
) -> Duplicate:
    part, number = test, partner - behind
    if partner in row_of:
        row = row_of[partner]
        part, number = rows.parts[row], int(rows.place_N[row])
    return Duplicate(part=part, number=number, similarity=copy.similarity, equal=copy.equal)
