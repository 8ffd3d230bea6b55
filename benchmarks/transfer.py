"""`python -m benchmarks.transfer`: a hundred labels, with and without layers from elsewhere.

`recipes/mnist/transfer.yaml` under several seeds, each with labels of its own draw, beside the same networks
without MNIST. The epoch is chosen on held-out labels; test is looked at once for each run. Runs that are
done are kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study import RESULTS, arguments, mean_and_sd, result_of, trained
from distill_cli.pipeline.run.stages import run
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe
from distill_cli.training.events import Silent

RECIPE = Path(__file__).parent.parent / "recipes/mnist/transfer.yaml"
# Name of a row, folder below a seed's, and the network.
ROWS = (
    ("fresh layers", "alone", "cifar_resnet8"),
    ("MNIST's layers, which stay; a fresh head", "transfer/stages/head", "cifar_resnet8"),
    ("MNIST's layers, fine-tuned: **the teacher**", "transfer/stages/teacher", "cifar_resnet8"),
    ("the student's network on the labels alone", "hard", "mlp_32x1"),
    ("a student of the network with fresh layers", "of-alone", "mlp_32x1"),
    ("**the student of the teacher**", "transfer", "mlp_32x1"),
)


def main() -> None:
    args = arguments(__doc__, "transfer", seeds=5)
    os.environ.setdefault("DISTILL_DATA", "../shared/data")
    recipe = yaml.safe_load(RECIPE.read_text())
    shared = ("data", "size", "augment", "labels_per_class", "batch_size")
    common = {**{key: recipe[key] for key in shared}, "threads": args.threads}
    small = {key: value for key, value in recipe["stages"][-1].items() if key != "name"}
    of_student = {key: small[key] for key in ("model", "epochs", "lr")}
    for seed in range(args.seeds):
        root = args.work / str(seed)
        draw: dict[str, Any] = {"seed": seed, "label_seed": seed}
        whole = {**recipe, **draw, "threads": args.threads, "out": str(root / "transfer")}
        run(validate(StudentRecipe, whole), sink=Silent(), resume=(root / "transfer").exists())
        alone = {"model": "cifar_resnet8", "epochs": 60}
        trained(TeacherRecipe, root / "alone", **common, **draw, **alone)
        trained(TeacherRecipe, root / "hard", **common, **draw, **of_student)
        taught = {"teachers": [str(root / "alone")], "force": True}
        trained(StudentRecipe, root / "of-alone", **common, **draw, **of_student, **taught)
    lines = []
    for name, folder, model in ROWS:
        results = [result_of(args.work / str(seed) / folder) for seed in range(args.seeds)]
        errors = mean_and_sd([result["test_errors"] for result in results], digits=0)
        lines.append(f"| {name} | `{model}` | {errors} | {results[0]['params']:,} |")
    page = [
        "# A hundred labels, and layers from elsewhere",
        "",
        "The built-in digits (scikit-learn's, 8 × 8, shown at 16 × 16) with ten labels of each class, of which one is "
        "held out and chooses the epoch; layers of 4 epochs of 20,000 MNIST images at that size. "
        "`recipes/mnist/transfer.yaml` as it stands: a fresh head on layers that stay (`--freeze backbone`), then all "
        "layers at a tenth of the rate, then a student by `kd`, which learns from the images without labels too. "
        "The network with fresh layers has as many epochs as head and fine-tuning together. "
        f"Errors of 359 test images, mean ± sd over {args.seeds} seeds, each with labels of its own draw. Made by "
        "`python -m benchmarks.transfer`.",
        "",
        "| | network | test errors | parameters |",
        "|---|---|---|---|",
        *lines,
    ]
    (RESULTS / "transfer.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
