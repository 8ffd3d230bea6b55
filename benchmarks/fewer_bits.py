"""`python -m benchmarks.fewer_bits`: Apprentice's schemes and LSQ on a part of CIFAR-10.

Mishra & Marr 2018 (arXiv 1711.05852), Esser et al. 2020 (arXiv 1902.08153). Every student sees as many images:
of scheme C half of them in full precision. The epoch is chosen on held-out images; test is looked at once for
each run. Runs that are done are kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.study import RESULTS, arguments, cifar10, mean_and_sd, trained
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe

PER_CLASS, SIDE = 250, 16
TERNARY: dict[str, Any] = {"quantizer": "ternary"}
FOUR: dict[str, Any] = {"quantizer": "wrpn", "weight_bits": 4}
# β = γ = ½ and no tempering, as the paper has them.
SOFT: dict[str, Any] = {
    "objective": [
        {"name": "ce", "weight": 0.5},
        {"name": "kd", "temperature": 1.0, "weight": 0.5},
    ]
}
LOW_RATE = 0.005


def scheme(
    way: str, root: Path, teacher: str, common: dict[str, Any], bits: dict[str, Any]
) -> Path:
    """A student of few bits by one of the schemes, or plain; the folder of its run."""
    name = f"{way}-{bits.get('quantizer', 'lsq')}-{bits.get('weight_bits', 2)}"
    out, epochs = root / name, int(common["epochs"])
    if way == "plain":
        trained(TeacherRecipe, out, **common, **bits)
    elif way == "A":
        trained(StudentRecipe, out, teachers=["peer:cifar_resnet20"], **common, **bits, **SOFT)
    elif way == "B":
        trained(StudentRecipe, out, teachers=[teacher], **common, **bits, **SOFT)
    else:
        half = {**common, "epochs": epochs // 2}
        full = root / "full-half"
        trained(TeacherRecipe, full, **half)
        low = {**half, "epochs": epochs - epochs // 2, "lr": LOW_RATE, "init": str(full)}
        low.pop("model")
        trained(StudentRecipe, out, teachers=[teacher], **low, **bits, **SOFT)
    return out


def rows_of(args: Any) -> dict[str, list[Path]]:
    """The runs of every row of the table."""
    data = str(cifar10(args.work, PER_CLASS))
    rows: dict[str, list[Path]] = {}
    for seed in range(args.seeds):
        root = args.work / str(seed)
        common: dict[str, Any] = {
            **{"data": data, "size": SIDE, "model": "cifar_resnet8", "augment": "crop:2,flip"},
            **{"epochs": args.epochs, "batch_size": 32, "lr": 0.05, "precision": "fp32"},
            **{"seed": seed, "threads": args.threads, "compile": False},
        }
        teacher = root / "teacher"
        trained(TeacherRecipe, teacher, **{**common, "model": "cifar_resnet20"})
        full = root / "full"
        trained(TeacherRecipe, full, **common)
        taught = root / "full-taught"
        trained(StudentRecipe, taught, teachers=[str(teacher)], **common, **SOFT)
        found = {"fp32, labels alone": full, "fp32, taught": taught, "the teacher": teacher}
        for text, bits in (("ternary", TERNARY), ("4 bits, wrpn", FOUR)):
            for way in ("plain", "A", "B", "C"):
                found[f"{text}, {way}"] = scheme(way, root, str(teacher), common, bits)
        for count in (2, 4, 8):
            for way in ("plain", "B"):
                bits = {"quantizer": "lsq", "weight_bits": count}
                found[f"{count} bits, lsq, {way}"] = scheme(way, root, str(teacher), common, bits)
        for name, run in found.items():
            rows.setdefault(name, []).append(run)
        print(seed, {name: result(run)["test_top1"] for name, run in found.items()}, flush=True)
    return rows


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def packed_bytes(run: Path) -> int:
    """Bytes of the packed export of a run, which is made beside it; of one in full precision, of its weights."""
    from distill_cli.pipeline.export import packed

    config = json.loads((run / "model/config.json").read_text())
    if "quantised" not in config["distill"]:
        return (run / "model/model.safetensors").stat().st_size
    return packed(run)


def main() -> None:
    args = arguments(__doc__, "fewer-bits", seeds=3, epochs=12)
    rows = rows_of(args)
    lines = []
    for name, runs in rows.items():
        accuracy = mean_and_sd([result(run)["test_top1"] for run in runs], scale=100, digits=1)
        lines.append(f"| {name} | {accuracy} | {packed_bytes(runs[0]):,} |")
    page = [
        "# Students of few bits",
        "",
        f"`cifar_resnet8` on {10 * PER_CLASS:,} images of CIFAR-10 at {SIDE} × {SIDE} pixels (two cores allow no more), "
        f"{args.epochs} epochs, batch 32, crops and mirrors; the teacher is `cifar_resnet20`, trained alike. Weights of "
        "few bits in all layers but the first and the last. plain: hard labels alone. A: the teacher is trained along; "
        "B: it is trained before; C: half of the epochs in full precision, half on few levels at a rate of "
        f"{LOW_RATE}. A to C: CE and the teacher's untempered answers, half each. Test accuracy on the 10,000 test "
        f"images in per cent, mean ± sd over {args.seeds} seeds; bytes on disk of the packed weights "
        "(`distill export --format packed`), for fp32 of model.safetensors. Made by `python -m benchmarks.fewer_bits`.",
        "",
        "| | test accuracy, % | bytes |",
        "|---|---|---|",
        *lines,
    ]
    (RESULTS / "fewer_bits.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
