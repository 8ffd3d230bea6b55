"""Pictures of one run for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_cli.errors import counted
from distill_cli.report import plots
from distill_cli.report.plots import Line
from distill_cli.report.run_folder import RunSummary
from distill_cli.types import Relation

# Pairs of classes that are named in words.
LISTED_PAIRS = 5
# Figures of training that are no parts of the loss.
NO_TERMS = {"train_top1", "train_accepted", "train_accepted_entropy"}
History = Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A plot with its heading and, where the plot has none, its legend.

    Attributes:
        title: Heading.
        svg: The plot, made by `plots`: every text in it is escaped there.
        note: A line below it.
        legend: (label, CSS colour, SVG dash pattern) of each curve.
    """

    title: str
    svg: str
    note: str = ""
    legend: tuple[tuple[str, str, str], ...] = ()


def of_run(run: RunSummary) -> list[Picture]:
    """Curves over the epochs of a run, as far as its history has them."""
    if not run.history:
        return []
    keys = [key for key in run.history[0] if key.startswith("train_")]
    terms = {key: key.removeprefix("train_") for key in keys if key not in NO_TERMS}
    terms = {key: "loss (weighted sum)" if name == "loss" else name for key, name in terms.items()}
    accuracy = {
        "val_top1": "held out",
        "train_top1": "training, augmented",
        "val_map": "held out, mAP",
    }
    best = None if run.result is None else run.result.best_epoch
    pictures = [
        _curves("Training loss", run.history, terms, "loss", mark=best),
        _curves("Accuracy", run.history, accuracy, "accuracy, %", scale=100, mark=best),
        _curves("Held-out NLL", run.history, {"val_nll": ""}, "nats", mark=best),
        _dimension(run.history),
        _pseudo_labels(run),
        *(_relation(name, relation) for name, relation in run.relations.items()),
    ]
    return [picture for picture in pictures if picture is not None]


def _relation(name: str, relation: Relation) -> Picture:
    """Matrix of the classes that an objective holds to be alike, and the likest pairs in words."""
    likest = ", ".join(
        f"{a} and {b} ({100 * share:.1f} %)" for a, b, share in relation.pairs[:LISTED_PAIRS]
    )
    kept = len(relation.class_names)
    return Picture(
        title=f"Alike for {name}",
        svg=plots.shares(
            relation.class_names,
            relation.share,
            about=f"What {name} puts on each class, by label, of {counted(kept, 'class', 'classes')}. Most: {likest}",
        ),
        note=f"Row: the label; the darker, the larger the share on another class. Most: {likest}.",
    )


def _pseudo_labels(run: RunSummary) -> Picture | None:
    """How many images without a label learnt from a made-up one, how even its classes and how right it was."""
    rows = [
        {
            "epoch": counts.epoch,
            "share": counts.accepted / max(counts.seen, 1),
            **({} if counts.accuracy is None else {"accuracy": counts.accuracy}),
        }
        for counts in run.pseudo_labels
    ]
    if not rows:
        return None
    last = run.pseudo_labels[-1]
    by_count = sorted(last.classes, key=lambda name: last.classes[name])
    least, most = by_count[0], by_count[-1]
    note = (
        f"Last epoch: {last.accepted:,} of {counted(last.seen, 'image')} without a label; most as {most} "
        f"({last.classes[most]:,}), fewest as {least} ({last.classes[least]:,})."
    )
    names = {"share": "above the threshold", "accuracy": "of them right, where the label is known"}
    return _curves("Pseudo-labels", rows, names, "%", scale=100, mark=None, note=note)


def _dimension(history: History) -> Picture | None:
    """The dimension of the features, with the epoch in which it turned."""
    turn = next((row["epoch"] for row in history if row.get("turned", 0) > 0), None)
    note = "No turn: every label was trusted."
    if turn is not None:
        note = (
            f"Dashed: the turn in epoch {turn:.0f}, which was undone; from the next on, labels are "
            "mixed with the network's own answers."
        )
    title = "Local intrinsic dimension of the features"
    return _curves(title, history, {"lid": ""}, "dimension", mark=turn, note=note)


def _curves(
    title: str,
    history: History,
    names: Mapping[str, str],
    y: str,
    *,
    scale: float = 1,
    mark: float | None,
    note: str | None = None,
) -> Picture | None:
    """One plot of the columns that the history has; None where it has none of them.

    The note is by default on the epoch of the best weights, which is marked.
    """
    lines = [
        Line(
            label=name,
            y_by_x={row["epoch"]: scale * row[key] for row in history if key in row},
            style=style,
        )
        for style, (key, name) in enumerate(names.items())
        if any(key in row for row in history)
    ]
    if not lines:
        return None
    about = f"{title} over {counted(len(history), 'epoch')}"
    if note is None:
        note = "" if mark is None else f"Dashed: epoch {mark:.0f}, whose weights were kept."
    return Picture(title=title, svg=plots.curves(lines, y=y, about=about, mark=mark), note=note)
