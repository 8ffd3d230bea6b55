"""`python -m benchmarks.mutual`: networks that teach each other, beside a trained teacher.

Zhang et al. 2018 (arXiv 1706.00384). Online and offline at equal steps of the student, on a part of CIFAR-10. The
epoch is chosen on held-out images; test is looked at once for each network. Runs that are done are kept.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.study import RESULTS, arguments, cifar10, mean_and_sd, trained
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe

PER_CLASS, SIDE = 250, 16
SAME = {"objective": [{"name": "ce"}, {"name": "kd", "temperature": 1.0, "weight": 1.0}]}


def main() -> None:
    args = arguments(__doc__, "mutual", seeds=3, epochs=12)
    data = str(cifar10(args.work, PER_CLASS))
    rows: dict[str, list[float]] = {}

    def note(name: str, accuracy: float) -> None:
        rows.setdefault(name, []).append(accuracy)

    for seed in range(args.seeds):
        root = args.work / str(seed)
        common: dict[str, Any] = {
            **{"data": data, "size": SIDE, "model": "cifar_resnet8", "augment": "crop:2,flip"},
            **{"epochs": args.epochs, "batch_size": 32, "lr": 0.05, "precision": "fp32"},
            **{"seed": seed, "threads": args.threads, "compile": False},
        }
        alone, large = root / "alone", root / "large"
        trained(TeacherRecipe, alone, **common)
        trained(TeacherRecipe, large, **{**common, "model": "cifar_resnet20"})
        note("alone, labels only", figures(alone)["test_top1"])
        for text, teacher in (
            ("of a trained network of its kind", alone),
            ("of a trained cifar_resnet20", large),
        ):
            out = root / f"taught-{teacher.name}"
            again = {**common, "seed": seed + 100}
            trained(StudentRecipe, out, teachers=[str(teacher)], **again, **SAME)
            note(f"offline: {text}", figures(out)["test_top1"])
        for count in (2, 3):
            names = [f"peer:n{n}=cifar_resnet8" for n in range(1, count)]
            out = root / f"mutual-{count}"
            trained(StudentRecipe, out, teachers=names, mutual=True, **common)
            found = figures(out)
            note(f"online: {count} networks, the student", found["test_top1"])
            others = [peer["test_top1"] for peer in found["peers"]]
            note(
                f"online: {count} networks, mean of all", sum([found["test_top1"], *others]) / count
            )
        out = root / "mutual-large"
        trained(StudentRecipe, out, teachers=["peer:cifar_resnet20"], mutual=True, **common)
        note("online: with a cifar_resnet20, the student", figures(out)["test_top1"])
        note("online: with a cifar_resnet20, that one", figures(out)["peers"][0]["test_top1"])
        note("the cifar_resnet20 alone", figures(large)["test_top1"])
        print(seed, {name: values[-1] for name, values in rows.items()}, flush=True)
    page = [
        "# Networks that teach each other",
        "",
        f"`cifar_resnet8` on {10 * PER_CLASS:,} images of CIFAR-10 at {SIDE} × {SIDE} pixels, {args.epochs} epochs, batch 32, "
        "crops and mirrors. Every network sees as many images; a teacher of the offline rows saw as many before. CE and "
        "the KL from the others, weight 1 each, at T = 1. All networks take one step at once (the paper's algorithm 1 "
        f"goes in turn). Test accuracy on the 10,000 test images in per cent, mean ± sd over {args.seeds} seeds. Made by "
        "`python -m benchmarks.mutual`.",
        "",
        "| | test accuracy, % |",
        "|---|---|",
        *(
            f"| {name} | {mean_and_sd(values, scale=100, digits=1)} |"
            for name, values in rows.items()
        ),
    ]
    (RESULTS / "mutual.md").write_text("\n".join(page) + "\n")


def figures(run: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


if __name__ == "__main__":
    main()
