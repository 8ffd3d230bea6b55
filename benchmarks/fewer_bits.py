"""`python -m benchmarks.fewer_bits`: Apprentice's schemes and LSQ on CIFAR-10.

Mishra & Marr 2018 (arXiv 1711.05852), Esser et al. 2020 (arXiv 1902.08153). Every student sees as many images:
of scheme C half of them in full precision. The epoch is chosen on held-out images; test is looked at once for
each run. Runs that are done are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from distill_cli.models.packed_folder import save_packed
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe

SMALL, LARGE = "cifar_resnet8", "cifar_resnet20"
# α = 1 is the teacher's own; β = γ = ½ and no tempering, as the paper has them.
SOFT: dict[str, Any] = {
    "objective": [
        {"name": "ce", "weight": 0.5},
        {"name": "kd", "temperature": 1.0, "weight": 0.5},
    ]
}
SCHEMES: dict[str, dict[str, Any]] = {
    "ternary": {"quantizer": "ternary"},
    "4 bits, wrpn": {"quantizer": "wrpn", "weight_bits": 4},
}
LSQ: dict[str, dict[str, Any]] = {
    f"{bits} bits, lsq": {"quantizer": "lsq", "weight_bits": bits} for bits in (2, 4, 8)
}
# Of the second half of scheme C, over that of the first.
LOWER_RATE = 0.1


def runs_of(
    root: Path, common: dict[str, Any], only: Sequence[str]
) -> tuple[dict[str, Path], list[list[Wanted]]]:
    """The runs of one seed by the row that they are for, and in what order they can be made."""
    teacher, half = root / "teacher", root / "full-half"
    epochs = int(common["epochs"])
    first = [
        Wanted(TeacherRecipe, teacher, {**common, "model": LARGE}),
        Wanted(TeacherRecipe, root / "full", {**common, "model": SMALL}),
        Wanted(TeacherRecipe, half, {**common, "model": SMALL, "epochs": epochs // 2}),
    ]
    taught = {**common, **SOFT, "teachers": [str(teacher)]}
    along = {**common, **SOFT, "teachers": [f"peer:{LARGE}"]}
    later = {**taught, "epochs": epochs - epochs // 2, "lr": common["lr"] * LOWER_RATE}
    second = [Wanted(StudentRecipe, root / "full-taught", {**taught, "model": SMALL})]
    rows = {
        "the teacher": teacher,
        "full precision, labels alone": root / "full",
        "full precision, B": root / "full-taught",
    }
    for text in only:
        bits = {**SCHEMES, **LSQ}[text]
        for way in ("plain", "A", "B", "C") if text in SCHEMES else ("plain", "B"):
            out = root / f"{text}, {way}".replace(", ", "-").replace(" ", "-")
            rows[f"{text}, {way}"] = out
            if way == "plain":
                first.append(Wanted(TeacherRecipe, out, {**common, **bits, "model": SMALL}))
            elif way == "A":
                first.insert(0, Wanted(StudentRecipe, out, {**along, **bits, "model": SMALL}))
            elif way == "B":
                second.append(Wanted(StudentRecipe, out, {**taught, **bits, "model": SMALL}))
            else:
                second.append(Wanted(StudentRecipe, out, {**later, **bits, "init": str(half)}))
    return rows, [first, second]


def bytes_on_disk(run: Path) -> int:
    """Bytes of the weights: of few bits packed, which are put beside the model; else as they are saved."""
    if result_of(run)["weight_bits"] is None:
        return (run / "model/model.safetensors").stat().st_size
    packed = run / "packed"
    if not packed.exists():
        save_packed(run, packed)
    return sum(path.stat().st_size for path in packed.rglob("*.safetensors"))


def main() -> None:
    rows_to_run = (*SCHEMES, *LSQ)
    sizes = {"seeds": 3, "epochs": 12, "per_class": 250, "side": 16, "batch": 32, "workers": 1}
    args = arguments(__doc__, "fewer-bits", rows=rows_to_run, page="fewer_bits", **sizes)
    rows: dict[str, list[Path]] = {}
    phases: list[list[Wanted]] = [[], []]
    for seed in range(args.seeds):
        common = {**on_cifar10(args), "seed": seed}
        found, ordered = runs_of(args.work / str(seed), common, args.only or rows_to_run)
        for name, run in found.items():
            rows.setdefault(name, []).append(run)
        for all_of_them, of_this_seed in zip(phases, ordered, strict=True):
            all_of_them.extend(of_this_seed)
    # Those that take longest first: two networks a step.
    phases[0].sort(key=lambda run: run.kind is TeacherRecipe)
    for runs in phases:
        train_all(runs, args.workers)
    lines = []
    for name, made in rows.items():
        accuracy = mean_and_sd([result_of(run)["test_top1"] for run in made], scale=100)
        lines.append(f"| {name} | {accuracy} | {bytes_on_disk(made[0]):,} |")
    page = [
        "# Students of few bits",
        "",
        f"`{SMALL}`, taught by `{LARGE}`: {conditions(args)}. Weights of few bits in all layers but the first and the "
        "last. plain: hard labels alone. A: the teacher is trained along; B: it is trained before; C: half of the "
        "epochs in full precision on hard labels, the other half on few levels, by the teacher, at a tenth of the rate. "
        "A to C: CE and the teacher's untempered answers, half each. Every student sees as many images. Test accuracy "
        f"on the 10,000 test images in per cent, mean ± sd over {args.seeds} seeds; bytes on disk of the packed "
        "weights (`distill export --format packed`), in full precision of model.safetensors. Nothing was tuned. Made by "
        "`python -m benchmarks.fewer_bits`.",
        "",
        "| | test accuracy, % | bytes |",
        "|---|---|---|",
        *lines,
    ]
    (RESULTS / f"{args.page}.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
