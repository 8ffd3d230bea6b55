"""`distill query`: the images whose labels would tell a network most. Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw
from distill_cli.data.dataset import Dataset
from distill_cli.data.inventory import left_in_words
from distill_cli.data.label_draws import Stream
from distill_cli.doubt import entropies, margin_of_two
from distill_cli.errors import UsageError
from distill_cli.files import csv_text, write_text
from distill_cli.models import load_model
from distill_cli.pipeline.answers import Answers, Part, answers_to, data_as_known, judges_of
from distill_cli.pipeline.inputs.artifacts import once
from distill_cli.pipeline.inputs.teachers import check_classes
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.fields import Device
from distill_cli.runtime import decide
from distill_cli.types import UNLABELLED

By = Literal["margin", "entropy", "disagreement", "random"]
COLUMNS = ("sample_id", "rank", "score", "predicted", "label")


@dataclass(frozen=True, kw_only=True)
class Query:
    """Images to label, the most telling first.

    Attributes:
        asked: Sample id, score and likeliest class of each.
        candidates: Images without a known label that they were chosen from.
        class_names: In label order.
    """

    asked: tuple[tuple[str, float, str], ...]
    candidates: int
    class_names: tuple[str, ...]


def query(
    runs: Sequence[str],
    *,
    budget: int,
    by: By,
    seed: int,
    data: str | None,
    unlabelled: str | None,
    device: Device,
    message: Callable[[str], None],
) -> Query:
    """Chooses images whose label the first run did not know. No hidden label is read.

    Args:
        runs: Run folders; their answers are averaged.
        budget: How many to choose.
        by: The score, see `scores`.
        seed: Seed of `random`.
        data: The first run's data's new place; None where they were not moved.
        unlabelled: A source of images to choose from; None for those among the run's own.
        device: The device to compute on.
        message: Is told what of the data is left out, and of weights without a checksum.

    Raises:
        UsageError: The data are nowhere, all labels are known, or an image may have several.
        ArtifactError: Classes differ, or a network answers yes or no for each label.
    """
    runtime, tell = decide(device), once(message)
    folder = Path(runs[0])
    network = load_model(folder, tell=tell)
    dataset = data_as_known(
        folder, kept_recipe(folder), network.view, data=data, unlabelled=unlabelled
    )
    for line in left_in_words(dataset.left):
        message(line)
    check_classes(str(folder), network.class_names, dataset.class_names, hint=None)
    part = _candidates(folder, dataset, beside=unlabelled is not None)
    judges = judges_of(runs, dataset, runtime, tell)
    answers = answers_to(part, part.images.iter_plain(), judges, runtime.device)
    score_N = scores(answers, by, part.images.key_N, seed)
    # Rows are sorted by sample id, those beside the data behind them: ties go by their order.
    order = score_N.argsort(descending=by != "margin", stable=True)[:budget].tolist()
    names, likely_N = dataset.class_names, answers.mean_NK.argmax(dim=-1)
    return Query(
        asked=tuple(
            (part.images.sample_ids[row], float(score_N[row]), names[int(likely_N[row])])
            for row in order
        ),
        candidates=len(part),
        class_names=names,
    )


def _candidates(folder: Path, dataset: Dataset, *, beside: bool) -> Part:
    """The images without a known label, whichever the run learnt from; of a source beside the data, or all.

    Raises:
        UsageError: There is none.
    """
    if dataset.multi_label:
        raise UsageError(
            f"several labels may apply to an image of {folder}: a margin is between classes of which one applies"
        )
    rows = dataset.fit_rows
    rows = rows[dataset.train.label_N[rows] == UNLABELLED]
    if beside:
        rows = rows[rows >= dataset.identity.samples]
    if not len(rows):
        raise UsageError(
            f"{folder} knew the labels of all of its images"
            if not beside
            else f"{folder} knew the labels of all of these images",
            hint="Give --unlabelled DATA, a source of images without labels",
        )
    return Part(split="train", images=dataset.train.take(rows))


def scores(answers: Answers, by: By, key_N: Tensor, seed: int) -> Tensor:
    """A score for each image, fp64 (N,): the least margin is asked first, of the others the largest.

    Args:
        answers: The networks' answers; scores are of their mean, but for disagreement.
        by: margin: between the two likeliest classes; entropy: nats; disagreement: Jensen-Shannon
            divergence of the networks' answers, nats; random: a draw from [0, 1) by seed and sample id.
        key_N: int64 sample keys.
        seed: Seed of the draw.
    """
    if by == "margin":
        return margin_of_two(answers.mean_NK)
    if by == "entropy":
        return entropies(answers.mean_NK)
    if by == "disagreement":
        return answers.disagreement_N
    bits_N = draw(seed, Purpose.KNOWN, int(Stream.QUERY), key_N)
    return ((bits_N >> 11) & ((1 << 53) - 1)).to(torch.float64) / (1 << 53)


def write_query(made: Query, out: Path) -> None:
    """Writes the list, with a column for the labels.

    Raises:
        UsageError: It cannot be written.
    """
    asked = enumerate(made.asked, start=1)
    rows = ([sample, rank, f"{score:.8g}", likely, ""] for rank, (sample, score, likely) in asked)
    write_text(out, csv_text([COLUMNS, *rows]))
