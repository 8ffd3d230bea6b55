"""Which labelled samples are hard, and whose label is probably wrong. Shapes: N samples, K classes, M judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.data.split_images import Images
from distill_cli.doubt import confidently_others, margin_of_label, votes_against
from distill_cli.pipeline.answers import Answers, Part
from distill_cli.recipe.parsing import Amount
from distill_cli.types import UNLABELLED

# Share of the labelled samples that are hard where nobody says how many.
HARD = 0.01


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Samples of several parts, sorted by sample id, and the answers to them.

    Attributes:
        parts: The part of each sample.
        place_N: int64 number of each sample in its part.
        sample_ids: Their ids.
        label_N: int64 labels, −1 where the run knew none.
        answers: The judges' answers.
    """

    parts: tuple[Part, ...]
    place_N: Tensor
    sample_ids: tuple[str, ...]
    label_N: Tensor
    answers: Answers

    def images(self, rows: Sequence[int]) -> list[Images]:
        """The images of some samples, one by one."""
        return [self.parts[row].images.take(self.place_N[row : row + 1]) for row in rows]


def joined(parts: Sequence[tuple[Part, Answers]]) -> Rows:
    """The samples of several parts as one table."""
    of_row = [part for part, _ in parts for _ in range(len(part))]
    ids = [name for part, _ in parts for name in part.images.sample_ids]
    order = sorted(range(len(ids)), key=lambda row: (ids[row], row))
    index_N = torch.tensor(order, dtype=torch.int64)
    place_N = torch.cat([torch.arange(len(part)) for part, _ in parts])
    return Rows(
        parts=tuple(of_row[row] for row in order),
        place_N=place_N[index_N],
        sample_ids=tuple(ids[row] for row in order),
        label_N=torch.cat([part.images.label_N for part, _ in parts])[index_N],
        answers=Answers(
            mean_NK=torch.cat([answers.mean_NK for _, answers in parts])[index_N],
            answer_MN=torch.cat([answers.answer_MN for _, answers in parts], dim=1)[:, index_N],
            disagreement_N=torch.cat([answers.disagreement_N for _, answers in parts])[index_N],
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the judges say of labels.

    Attributes:
        labelled: Samples that have a label.
        margin_N: fp64 probability of the label minus the largest other; +∞ of a sample without a label.
        confidence_N: fp64 probability of the label; 1 of a sample without.
        votes_N: int64 judges whose answer is another; 0 of a sample without.
        suspected: Samples that are confidently of another class, as `confidently_others` has it.
        mislabelled: Rows of the samples whose label is probably wrong, the surest first.
        hard: Rows of the samples that are labelled rightly and hard, the hardest first.
    """

    labelled: int
    margin_N: Tensor
    confidence_N: Tensor
    votes_N: Tensor
    suspected: int
    mislabelled: tuple[int, ...]
    hard: tuple[int, ...]


def judge(rows: Rows, budget: Amount | None) -> Judged:
    """Ranks the labelled samples by the margin of their label, the least first; ties go by sample id.

    Args:
        rows: The samples.
        budget: How many are mislabelled and how many are hard, a number or a share of the labelled ones.
            Without one as many are mislabelled as are confidently of another class.
    """
    probs_NK, label_N = rows.answers.mean_NK, rows.label_N
    known_N = label_N != UNLABELLED
    index_N = label_N.clamp(min=0)
    margin_N = margin_of_label(probs_NK, index_N).where(known_N, torch.inf)
    confidence_N = probs_NK.double().gather(1, index_N[:, None])[:, 0].where(known_N, 1.0)
    suspected_N = confidently_others(probs_NK, label_N)
    labelled, suspected = int(known_N.sum()), int(suspected_N.sum())
    order = margin_N.argsort(stable=True)[:labelled]
    surely = order[suspected_N[order]]
    wrong = surely if budget is None else order[: _number(budget, labelled)]
    agreed_N = probs_NK.argmax(dim=-1) == label_N
    agreed_N[wrong] = False
    hard = order[agreed_N[order]][: _number(HARD if budget is None else budget, labelled)]
    return Judged(
        labelled=labelled,
        margin_N=margin_N,
        confidence_N=confidence_N,
        votes_N=votes_against(rows.answers.answer_MN, label_N).where(known_N, 0),
        suspected=suspected,
        mislabelled=tuple(wrong.tolist()),
        hard=tuple(hard.tolist()),
    )


def _number(budget: Amount, labelled: int) -> int:
    if isinstance(budget, int):
        return min(budget, labelled)
    return min(labelled, max(1, round(budget * labelled)))
