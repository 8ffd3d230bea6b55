"""`python -m benchmarks.transfer_sets`: how well a student learns its teacher, by the size of the transfer set.

KL(teacher ‖ student) on held-out images after as many steps on 500 images as on 54,000 (Li et al. 2014,
Interspeech). Runs that are done are kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.study import RESULTS, arguments, mean_and_sd, result_of, trained
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe

SIZES = (500, 5000, 54000)


def main() -> None:
    args = arguments(__doc__, "transfer-sets", shown=108000, teacher_epochs=6, seeds=3)
    data = str(Path(os.environ.get("DISTILL_DATA", "../shared/data")) / "mnist.tar.gz")
    common: dict[str, Any] = {"data": data, "threads": args.threads, "lr": 0.1}
    teacher = args.work / "teacher"
    values: dict[str, Any] = {"model": "mlp_512x2", "dropout": 0.3, "augment": ["shift:2"]}
    trained(TeacherRecipe, teacher, **common, **values, batch_size=128, epochs=args.teacher_epochs)
    lines = []
    for size in SIZES:
        found = []
        for seed in range(args.seeds):
            out = args.work / f"{size}-{seed}"
            values = {"model": "mlp_64x1", "objective": [{"name": "kd", "temperature": 4.0}]}
            values |= {
                "limit": size,
                "epochs": args.shown // size,
                "batch_size": 64,
                "augment": ["none"],
            }
            trained(StudentRecipe, out, **common, **values, teachers=[str(teacher)], seed=seed)
            found.append(result_of(out))
        kl = mean_and_sd([each["val_teacher_kl"] for each in found], digits=4)
        errors = mean_and_sd([each["test_errors"] for each in found], digits=0)
        lines.append(f"| {size:,} | {args.shown // size:,} | {kl} | {errors} |")
        print(lines[-1], flush=True)
    wrong = result_of(teacher)["test_errors"]
    page = [
        "# How large a transfer set",
        "",
        f"`mlp_64x1` on so many training images of MNIST (`--limit`), from the soft labels alone (T 4) of `mlp_512x2`, which "
        f"learnt all labels shifted and makes {wrong} errors; {args.shown:,} images shown in every row, in batches of 64, as "
        "they are. KL(teacher ‖ student) in nats at temperature 1 on the 6,000 held-out images (`val_teacher_kl` of "
        "result.json), of the epoch that their accuracy chose; errors of 10,000 test images. Mean ± sd over "
        f"{args.seeds} seeds; of a size they see the same images. Made by `python -m benchmarks.transfer_sets`.",
        "",
        "| images | epochs | held-out KL | test errors |",
        "|---|---|---|---|",
        *lines,
    ]
    (RESULTS / "transfer_sets.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
