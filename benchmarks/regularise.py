"""`python -m benchmarks.regularise`: every way of regularising labels on one small network.

MNIST with few images, as it is and with 40 % of the training labels wrong. Each method's
hyper-parameters are chosen on held-out images (of the same noise) before test is looked at; as many
steps in every row. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.inputs import small_images
from benchmarks.study import RESULTS, arguments, kept_rows, mean_and_sd, result_of, trained
from distill_cli import __version__
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe

NOISE = 0.4
TUNED = (100, 101)  # seeds that only choose hyper-parameters
GROUPS = {"open": ["4", "7", "9"], "curved": ["3", "5", "8"], "round": ["0", "6"]}
CE: dict[str, Any] = {"name": "ce"}
Entries = list[dict[str, Any]]


def beside_ce(name: str, weight: float, hard: float = 1.0, **parameters: Any) -> Entries:
    return [{**CE, "weight": hard}, {"name": name, "weight": weight, **parameters}]


def alone(name: str, **parameters: Any) -> Entries:
    return [{"name": name, **parameters}]


def mix(**shares: float) -> Entries:
    none = {"relation": 0.0, "sample": 0.0, "rule": 0.0}
    return alone("label-mix", **{**none, "hard": 1 - sum(shares.values()), **shares})


# The settings that are tried of each method, the published one among them; those that need a
# teacher learn from a copy of the network that was trained on the same labels.
FREE: dict[str, list[Entries]] = {
    "ce": [[CE]],
    "label-smoothing": [alone("label-smoothing", epsilon=e) for e in (0.05, 0.1, 0.3)],
    "grouped-smoothing": [
        alone("grouped-smoothing", epsilon=e, group_epsilon=g)
        for e, g in ((0.05, 0.05), (0.0, 0.1), (0.1, 0.2))
    ],
    "tfkd-reg": [beside_ce("tfkd-reg", w, 1 - w) for w in (0.1, 0.5, 0.9)],
    "disturb-label": [alone("disturb-label", alpha=a) for a in (0.05, 0.1, 0.2)],
    "knowledge-refinery": [beside_ce("knowledge-refinery", w) for w in (0.1, 0.5, 1.0, 3.0)],
    "dropmax": [
        alone("dropmax", kl_weight=w, auxiliary_weight=w, entropy_weight=w)
        for w in (0.01, 0.1, 1.0)
    ],
    "category-structure, teacher-free": [
        beside_ce("category-structure", w, 0.9, form="teacher-free") for w in (0.1, 1.0, 5.0, 20.0)
    ],
    "d2l": [
        *(alone("d2l", initial_epochs=i, window=w, samples=1024) for i, w in ((1, 2), (2, 4))),
        *(alone("d2l", turn_epoch=turn, samples=1024) for turn in (2, 4, 8)),
    ],
    "label-mix, embeddings": [mix(relation=r) for r in (0.1, 0.3, 0.5)],
    "label-mix, own answer": [mix(sample=s) for s in (0.1, 0.3, 0.5)],
    "label-mix, rule": [mix(rule=r) for r in (0.1, 0.3, 0.5)],
    "selective, label-smoothing": [
        [{"name": "label-smoothing", "epsilon": e}, {"name": "selective", "margin": m}]
        for e, m in ((0.1, 0.5), (0.3, 0.5), (0.3, 0.9))
    ],
}
TAUGHT: dict[str, list[Entries]] = {
    "tfkd-self": [
        beside_ce("tfkd-self", w, 1 - w, temperature=t) for w, t in ((0.9, 20), (0.9, 4), (0.5, 4))
    ],
    "category-structure": [
        beside_ce("category-structure", w, 0.9, form=f)
        for w, f in ((0.2, "paper"), (1.0, "paper"), (2.0, "paper"), (1.0, "release"))
    ],
    "feature-norm-kd": [
        beside_ce("feature-norm-kd", w, form=f)
        for w, f in ((9.0, "paper"), (1.0, "paper"), (9.0, "release"))
    ],
    "label-mix, centroids": [mix(relation=r) for r in (0.1, 0.3, 0.5)],
    "label-mix, teacher": [
        [{**entry, "sample_from": "teacher"} for entry in mix(sample=s)] for s in (0.3, 0.6, 0.9)
    ],
    "kd": [beside_ce("kd", w, 1 - w, temperature=t) for w, t in ((0.9, 4), (0.9, 2), (0.5, 4))],
    "selective, kd": [
        [*beside_ce("kd", 0.9, 0.1, temperature=4), {"name": "selective", "margin": m}]
        for m in (0.3, 0.6, 0.9)
    ],
}
# Among these, only the run that relates the classes is a teacher.
RELATED = ("label-mix, centroids",)


def main() -> None:
    defaults = {"per_class": 500, "epochs": 20, "seeds": 5}
    rows = [*FREE, *TAUGHT]
    args = arguments(__doc__, "regularise", rows=rows, **defaults)
    (args.work / "groups.yaml").write_text(yaml.safe_dump(GROUPS))
    studies = []
    for noise in (0.0, NOISE):
        data = small_images(args.work, "mnist", args.per_class, 2000, noise=noise)
        studies.append(study := Study(args, data, args.work / f"noise-{noise:g}"))
        if not set(args.only or rows).isdisjoint(TAUGHT):
            study.run("ce", FREE["ce"], 0, TUNED[0])  # the copy that teaches
        for name in args.only or rows:
            settings = {**FREE, **TAUGHT}[name]
            best = study.chosen(name, settings)
            for seed in range(args.seeds):
                study.run(name, settings, best, seed)
            print(f"noise {noise:g}: {name}, setting {best + 1} of {len(settings)}", flush=True)
    (RESULTS / "regularise.md").write_text(report(args, studies))


FIGURES = {
    "test errors": ("test_errors", 1.0, "", 0),
    "NLL": ("test_nll", 1.0, "", 3),
    "NLL, scaled": ("test_nll_scaled", 1.0, "", 3),
    "ECE": ("test_ece", 100.0, " %", 1),
    "ECE, scaled": ("test_ece_scaled", 100.0, " %", 1),
}


def report(args: argparse.Namespace, studies: Sequence[Study]) -> str:
    """Both tables."""
    lines = [
        "# Label regularisation on one small network",
        "",
        f"`mlp_256x2` on MNIST with {10 * args.per_class:,} training images, a fifth of them held "
        f"out, {args.epochs} epochs of batches of 64 in every row, no augmentation; the epoch with "
        "the best held-out accuracy is kept, which is early stopping for all; 10,000 test images "
        f"looked at once. Hyper-parameters by held-out accuracy over {len(TUNED)} seeds of "
        "their own, among the settings in `benchmarks/regularise.py`; mean ± sd over "
        f"{args.seeds} further seeds. Scaled: after the temperature that is fitted on held-out "
        "images. Seconds of training: median, on a machine that did other things too. What needs a "
        "teacher learns from a copy of the network, trained with cross-entropy on the same labels. "
        "Made by `python -m benchmarks.regularise`.",
        "",
        "Where labels are wrong, so are those of the held-out images: what is chosen by them is "
        "chosen under noise, and the fitted temperature makes a network as unsure as they are, "
        "which test labels, all right, count as a calibration error.",
    ]
    known = kept_rows(RESULTS / "regularise.md") if args.only else [{}, {}]
    if args.only:
        lines += [
            "",
            f"Measured again with the defaults of {__version__} and the way it fits temperatures: "
            f"{', '.join(args.only)}. The other rows are of an earlier version, which had the same "
            "defaults for them and fitted a temperature always.",
        ]
    for noise, study, kept in zip((0.0, NOISE), studies, known, strict=True):
        given = "Labels as they are" if not noise else f"{noise:.0%} of the training labels wrong"
        lines += ["", f"## {given}", "", f"| method | chosen | {' | '.join(FIGURES)} | seconds |"]
        lines.append("|---" * (3 + len(FIGURES)) + "|")
        for name, settings in {**FREE, **TAUGHT}.items():
            if args.only and name not in args.only:
                lines.append(kept[name])
                continue
            best = study.chosen(name, settings)
            runs = [study.run(name, settings, best, seed) for seed in range(args.seeds)]
            cells = [
                mean_and_sd([run[key] for run in runs], scale=scale, unit=unit, digits=digits)
                for key, scale, unit, digits in FIGURES.values()
            ]
            cells.append(f"{statistics.median(run['seconds'] for run in runs):.1f}")
            lines.append(f"| {name} | {in_words(settings[best])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def in_words(entries: Entries) -> str:
    """A setting: each objective with its weight and what is not its default."""
    said = []
    for entry in entries:
        weight = f"{entry['weight']:g} · " if entry.get("weight", 1) != 1 else ""
        given = [
            f"{key} {value:g}" if isinstance(value, float | int) else f"{key} {value}"
            for key, value in entry.items()
            if key not in ("name", "weight", "samples") and value != 0
        ]
        said.append(f"{weight}{entry['name']}" + (f" ({', '.join(given)})" if given else ""))
    return " + ".join(said)


class Study:
    """The runs of one table."""

    def __init__(self, args: argparse.Namespace, data: Path, work: Path) -> None:
        self.work = work
        self.shared: dict[str, Any] = {
            **{"data": str(data), "model": "mlp_256x2", "augment": ["none"], "val_fraction": 0.2},
            **{"epochs": args.epochs, "batch_size": 64, "threads": args.threads},
        }
        self.groups = str(args.work / "groups.yaml")

    def folder(self, name: str, place: int, seed: int) -> Path:
        return self.work / f"{name.replace(', ', '-')}-{place}-{seed}"

    def run(self, name: str, settings: Sequence[Entries], place: int, seed: int) -> dict[str, Any]:
        out = self.folder(name, place, seed)
        entries = [dict(entry) for entry in settings[place]]
        copy = str(self.folder("ce", 0, TUNED[0]))
        if name in RELATED:
            entries[0]["model"] = copy
        values = {**self.shared, "objective": entries, "seed": seed}
        if any(e["name"] == "grouped-smoothing" or e.get("rule") for e in entries):
            values["groups"] = self.groups
        if name in TAUGHT and name not in RELATED:
            trained(StudentRecipe, out, **values, teachers=[copy])
        else:
            trained(TeacherRecipe, out, **values)
        return result_of(out)

    def chosen(self, name: str, settings: Sequence[Entries]) -> int:
        """The setting of the highest mean accuracy on held-out images."""
        means = [
            statistics.mean(self.run(name, settings, place, s)["val_top1"] for s in TUNED)
            for place in range(len(settings))
        ]
        return means.index(max(means))


if __name__ == "__main__":
    main()
