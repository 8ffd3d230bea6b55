"""rounds.json: the rounds of a self-training, as its folder keeps them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError
from distill_cli.readers.json_values import read_json
from distill_cli.report.format import NOTHING, exactly, share

ROUNDS = "rounds.json"
SEEN = (
    "transductive: test images are among those that got labels; from round 2 on its errors are of images that were "
    "seen, without their labels"
)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: the labels that it was given, and what it reached.

    Attributes:
        round: Its number, from 1.
        run: Its folder below that of all rounds; `.` for the last.
        labelled: Images to train on whose label is known without it.
        unlabelled: Images that the round before labelled; None of the first round, as all to `accuracy`.
        of_test: Those of them that are of test; None where none is, and of rounds before 0.9.0.
        above: Those whose likeliest class is as probable as the threshold asks for.
        chosen: Those that are learnt from.
        confidence: The largest probability of a class that any of them has.
        classes: How many are chosen of each class.
        evenness: Entropy of these shares over that of equal ones: 1 where all are alike, 0 of one class.
        known: Those chosen whose label is known to nobody but this report.
        accuracy: Share of these that are labelled rightly; None where none is known.
        val_top1: Held-out accuracy; None until the round is over, as the next two, or where nothing is held out.
        test_top1: Accuracy on test.
        test_errors: Errors on test.
    """

    round: int
    run: str
    labelled: int
    unlabelled: int | None = None
    of_test: int | None = None
    above: int | None = None
    chosen: int | None = None
    confidence: float | None = None
    classes: Mapping[str, int] | None = None
    evenness: float | None = None
    known: int | None = None
    accuracy: float | None = None
    val_top1: float | None = None
    test_top1: float | None = None
    test_errors: int | None = None

    def with_figures(self, figures: Mapping[str, Any]) -> Round:
        """The round with what its result.json says it reached."""
        return replace(
            self,
            val_top1=figures.get("val_top1"),
            test_top1=figures.get("test_top1"),
            test_errors=figures.get("test_errors"),
        )


@dataclass(frozen=True, kw_only=True)
class RoundTable:
    """All rounds of a self-training.

    Attributes:
        transductive: Whether test images were among those without labels.
        threshold: Least probability at which an image is chosen.
        balance: Whether as many images of every class were.
        soft: Whether all probabilities were learnt, in place of the likeliest class.
        rounds: Those that were begun, in order.
    """

    transductive: bool
    threshold: float
    balance: bool
    soft: bool
    rounds: tuple[Round, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The table as plain JSON values."""
        return asdict(self)


def read_rounds(run: Path) -> RoundTable | None:
    """The table of a run; None where it is of no self-training.

    Raises:
        ArtifactError: The file is malformed.
    """
    path = run / ROUNDS
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        rows = [_row(row) for row in content.pop("rounds")]
        return RoundTable(**content, rounds=tuple(rows))
    except (TypeError, AttributeError, KeyError):
        raise ArtifactError(
            f"{path} is malformed: it holds no rounds",
            hint="Remove it, and --resume makes it again",
        ) from None


def _row(values: Mapping[str, Any]) -> Round:
    known = {field.name for field in fields(Round)}
    return Round(**{key: value for key, value in values.items() if key in known})


def columns_of(table: RoundTable) -> tuple[str, ...]:
    """The headings of a table of rounds, for `cells_of`."""
    first = ("round", "labels", f"p ≥ {exactly(table.threshold)}", "chosen", "of a class")
    return (*first, "right", "held out", "test errors", "accuracy")


def cells_of(row: Round) -> list[str]:
    """A round as people read it."""
    above = of_class = NOTHING
    if row.unlabelled and row.above is not None and row.classes:
        above = share(row.above / row.unlabelled, decimals=1)
        of_class = f"{min(row.classes.values()):,}–{max(row.classes.values()):,}"
    chosen = NOTHING if row.chosen is None else f"{row.chosen:,}"
    errors = NOTHING if row.test_errors is None else f"{row.test_errors:,}"
    return [
        *(str(row.round), f"{row.labelled:,}", above, chosen, of_class),
        *(share(row.accuracy), share(row.val_top1), errors, share(row.test_top1)),
    ]
