"""`python -m benchmarks.mutual`: networks that teach each other, beside a trained teacher.

Zhang et al. 2018 (arXiv 1706.00384). Online and offline at equal steps of the student, on CIFAR-10. The epoch is
chosen on held-out images; test is looked at once for each network. Runs that are done are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.study import (
    RESULTS,
    Wanted,
    arguments,
    conditions,
    mean_and_sd,
    on_cifar10,
    result_of,
    train_all,
)
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe

SMALL, LARGE = "cifar_resnet8", "cifar_resnet20"
BOTH = {"objective": [{"name": "ce"}, {"name": "kd", "temperature": 1.0, "weight": 1.0}]}


def runs_of(root: Path, common: dict[str, Any]) -> list[list[Wanted]]:
    """The runs of one seed, in what order they can be made."""

    def alone(name: str, model: str) -> Wanted:
        return Wanted(TeacherRecipe, root / name, {**common, "model": model})

    def mutual(name: str, *teachers: str) -> Wanted:
        keys = {**common, "model": SMALL, "teachers": [*teachers], "mutual": True}
        return Wanted(StudentRecipe, root / name, keys)

    def taught(teacher: str) -> Wanted:
        # With the seed of its teacher the student would start as that one did.
        keys = {**common, **BOTH, "model": SMALL, "seed": common["seed"] + 100}
        keys["teachers"] = [str(root / teacher)]
        return Wanted(StudentRecipe, root / f"taught-{teacher}", keys)

    two, three = ([f"peer:n{number}={SMALL}" for number in range(1, count)] for count in (2, 3))
    online = [mutual("mutual-3", *three), mutual("mutual-large", f"peer:{LARGE}")]
    online.append(mutual("mutual-2", *two))
    return [
        [*online, alone("large", LARGE), alone("small", SMALL)],
        [taught("small"), taught("large")],
    ]


def accuracies(root: Path) -> dict[str, float]:
    """The rows of the table, of one seed."""
    found = {name: result_of(root / name)["test_top1"] for name in ("small", "large")}
    rows = {f"{SMALL} alone": found["small"], f"{LARGE} alone": found["large"]}
    for teacher, text in (("small", f"trained {SMALL}"), ("large", f"trained {LARGE}")):
        rows[f"offline: {SMALL}, of a {text}"] = result_of(root / f"taught-{teacher}")["test_top1"]
    for count in (2, 3):
        run = result_of(root / f"mutual-{count}")
        rows[f"online: {count} × {SMALL}, the student"] = run["test_top1"]
        all_of_them = [run["test_top1"], *(peer["test_top1"] for peer in run["peers"])]
        rows[f"online: {count} × {SMALL}, mean of all"] = sum(all_of_them) / count
    run = result_of(root / "mutual-large")
    rows[f"online: {SMALL} with a {LARGE}, the student"] = run["test_top1"]
    rows[f"online: {SMALL} with a {LARGE}, that one"] = run["peers"][0]["test_top1"]
    return rows


def main() -> None:
    args = arguments(
        __doc__, "mutual", seeds=3, epochs=12, per_class=250, side=16, batch=32, workers=1
    )
    roots = [args.work / str(seed) for seed in range(args.seeds)]
    ordered = [runs_of(root, {**on_cifar10(args), "seed": seed}) for seed, root in enumerate(roots)]
    for phase in zip(*ordered, strict=True):
        train_all([run for runs in phase for run in runs], args.workers)
    rows: dict[str, list[float]] = {}
    for root in roots:
        for name, accuracy in accuracies(root).items():
            rows.setdefault(name, []).append(accuracy)
    page = [
        "# Networks that teach each other",
        "",
        f"{conditions(args)}. Every network sees as many images; a teacher of the offline rows saw as many before. CE "
        "and the KL from the others, weight 1 each, at T = 1. All networks take one step at once (the paper's algorithm "
        "1 goes in turn). Test accuracy on the 10,000 test images in per cent, mean ± sd over "
        f"{args.seeds} seeds. Nothing was tuned. Made by `python -m benchmarks.mutual`.",
        "",
        "| | test accuracy, % |",
        "|---|---|",
        *(f"| {name} | {mean_and_sd(values, scale=100)} |" for name, values in rows.items()),
    ]
    (RESULTS / "mutual.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
