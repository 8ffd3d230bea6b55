"""State of the loop: epoch, step, figures and the best epoch so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from distill_cli.errors import DivergedError
from distill_cli.objectives.compose import Loss
from distill_cli.sharding import whole
from distill_cli.training.growth import Growth
from distill_cli.training.pseudo_tally import CLASSES, PseudoLabelTally
from distill_cli.training.tally import Tally
from distill_cli.types import Batch

# The share of a step's images that have a label, where others have none: right answers are of these.
LABELLED = "labelled"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Figures at the end of an epoch, on images that are not trained on.

    Attributes:
        figures: Figures by name, as metrics.jsonl has them.
        rank: Numbers that choose the epoch: greater is better, the first decides.
        images: Where few choose, how many images the first is the share of right answers of: an epoch within a
            standard error of the best so far then takes its place. 0 to have the best one count.
        beside: The same of networks that are trained along, by name.
    """

    figures: Mapping[str, float]
    rank: tuple[float, ...]
    images: int = 0
    beside: Mapping[str, HeldOut] = field(default_factory=dict)


def counting(held_out: HeldOut, best: Sequence[float]) -> list[float] | None:
    """The rank that later epochs are compared with, if these figures are the best so far; else None.

    Args:
        held_out: The figures.
        best: The rank that was best before; empty where this is the first epoch, or nothing is held out.
    """
    rank, alike = list(held_out.rank), False
    if held_out.images and best:
        alike = rank[0] >= best[0] - math.sqrt(best[0] * (1 - best[0]) / held_out.images)
    if best and rank <= list(best) and not alike:
        return None
    if alike:
        # Later ones are compared with the best of all, or each could be a little worse than the last.
        rank[0] = max(rank[0], best[0])
    return rank


@dataclass(kw_only=True)
class State:
    """State of a run, kept in the loop and in checkpoints alone.

    Attributes:
        epoch: The epoch under way, from 0.
        step: Steps of that epoch that are taken.
        tally: Loss, terms and share of correct answers over the epoch's steps.
        growth: Growth of terms since the first step, and the warnings of it.
        pseudo_labels: Labels that the epoch's steps made up, counted.
        best_epoch: The epoch with the best held-out figures; −1 before the first.
        best: Its held-out figures.
        best_rank: Rank that they were chosen by.
        rates: Training images a second, one entry a finished epoch.
        epoch_seconds: Seconds of training steps in the epoch under way.
        seconds: Seconds of the whole run, evaluation included.
        log_lengths: Bytes of metrics.jsonl and summary.csv.
    """

    epoch: int = 0
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    growth: Growth = field(default_factory=Growth)
    pseudo_labels: PseudoLabelTally = field(default_factory=PseudoLabelTally)
    best_epoch: int = -1
    best: dict[str, float] = field(default_factory=dict)
    best_rank: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    log_lengths: tuple[int, int] = (0, 0)

    def is_best(self, held_out: HeldOut) -> bool:
        """Whether these held-out figures are the best so far; if so, remembers them."""
        chosen = counting(held_out, self.best_rank)
        if chosen is None:
            return False
        self.best_epoch, self.best, self.best_rank = self.epoch, dict(held_out.figures), chosen
        return True

    def where(self, epochs: int) -> str:
        """Where training stands, in words: in epoch 3 of 30."""
        return f"in epoch {self.epoch + 1} of {epochs}"

    def next_epoch(self, rate: float, seconds: float) -> None:
        """Closes the epoch under way, which ran at `rate` images/s and took `seconds` in all."""
        self.rates.append(rate)
        self.seconds += seconds
        self.epoch, self.step, self.epoch_seconds = self.epoch + 1, 0, 0.0
        self.tally.clear()
        self.pseudo_labels.clear()

    def note(self, logits_BK: Tensor | None, part: Batch, loss: Loss) -> None:
        """Adds a part of the step under way: the student's logits and the loss."""
        figures = {"loss": loss.total.detach(), **loss.terms}
        if part.unlabelled and part.labelled_share is not None and logits_BK is not None:
            figures[LABELLED] = part.known_B.sum().to(loss.total.dtype) / part.samples
        self.tally.note(logits_BK, part, figures)
        if loss.pseudo_labels is not None and logits_BK is not None:
            self.pseudo_labels.note(loss.pseudo_labels, part, logits_BK.shape[-1])
        self.growth.note(loss, first=self.epoch == 0 and self.step == 0)

    def means(self) -> dict[str, float]:
        """Means over the epoch's steps so far; waits for the device.

        The share of right answers, `top1`, is of the images that have a label.
        """
        sums = self.tally.read()
        labelled = sums.pop(LABELLED, None)
        means = {name: total / self.step for name, total in sums.items()}
        if labelled is not None:
            means["top1"] = sums["top1"] / labelled if labelled else 0.0
        return {**means, **self.pseudo_labels.means()}

    def look(self, tell: Callable[[str], None], epochs: int, steps: int) -> None:
        """Looks at the epoch's figures so far, and tells what is wrong; waits for the device.

        Args:
            tell: Shows a person a line.
            epochs: Epochs of the whole training.
            steps: Steps of an epoch.

        Raises:
            DivergedError: The loss is NaN or infinite.
        """
        means = self.means()
        self._require_finite(means["loss"])
        fraction = (self.epoch * steps + self.step - 1) / max(1, epochs * steps - 1)
        for warning in self.growth.look(means, fraction):
            tell(warning)

    def require_finite(self, held_out: Iterable[float] = ()) -> None:
        """Looks at the epoch's loss so far, and waits for the device.

        Raises:
            DivergedError: It, or one of these held-out figures, is NaN or infinite.
        """
        self._require_finite(sum(held_out, self.means().get("loss", 0.0)))

    def require_finite_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """The same of the epoch's loss and of the weights that the last step left.

        Raises:
            DivergedError: One of them is NaN or infinite.
        """
        self.require_finite(float(whole(tensor.sum())) for tensor in tensors.values())

    def _require_finite(self, figure: float) -> None:
        if not math.isfinite(figure):
            raise DivergedError(
                f"the loss is no longer a number in epoch {self.epoch + 1}, step {self.step}",
                hint="Lower --lr; the best model and the last checkpoint before it are kept",
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        parts = {
            "tally": self.tally.state_dict(),
            "growth": self.growth.state_dict(),
            "pseudo_labels": self.pseudo_labels.state_dict(),
        }
        return {**values, **parts, "log_lengths": list(self.log_lengths)}

    @classmethod
    def from_state_dict(cls, values: dict[str, Any]) -> State:
        """The inverse.

        Raises:
            ValueError: A value is missing, of another kind, or out of its range.
        """
        # A checkpoint of 0.1.0 has neither, and those up to 0.6.0 count no labels.
        values = {"growth": {}, "pseudo_labels": [], **values}
        _check_kinds(values)
        tally, growth = Tally(), Growth()
        tally.load_state_dict(values["tally"])
        growth.load_state_dict(values["growth"])
        parts = {
            "tally": tally,
            "growth": growth,
            "pseudo_labels": PseudoLabelTally(values["pseudo_labels"]),
        }
        return cls(**{**values, **parts, "log_lengths": tuple(values["log_lengths"])})


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Refuses what `State.state_dict` does not make, with a ValueError."""
    right: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("epoch", "step"), _is_count),
        "best_epoch": lambda value: _is_count(value) or (type(value) is int and value == -1),
        **dict.fromkeys(("epoch_seconds", "seconds"), _is_number),
        **dict.fromkeys(("tally", "best"), _are_figures),
        **dict.fromkeys(("best_rank", "rates"), _are_numbers),
        "growth": _is_growth,
        "pseudo_labels": _are_label_counts,
        "log_lengths": _are_two_counts,
    }
    for name, is_right in right.items():
        if name not in values or not is_right(values[name]):
            raise ValueError(f"{name} of its state is missing or damaged")
    if more := sorted(map(str, values.keys() - right.keys())):
        raise ValueError(f"its state has an unknown value {more[0]}")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_two_counts(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _are_label_counts(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(map(_is_count, value))
        and (not value or len(value) > CLASSES)
    )


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(map(_is_number, values))


def _are_figures(values: object) -> bool:
    return (
        isinstance(values, dict)
        and all(isinstance(name, str) for name in values)
        and all(map(_is_number, values.values()))
    )


def _is_growth(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _are_figures(value.get("first", {}))
        and isinstance(warned := value.get("said", {}), dict)
        and all(isinstance(word, str) for word in (*warned, *warned.values()))
    )
