"""`python -m benchmarks.memory`: how much a training grows over its process after the imports.

Peak resident memory (VmHWM), less what is resident once everything is imported. On the fast path
it should stay within the uint8 images, the model and its optimiser, and 300 MB; on the large path
it should not grow with the number of images. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.inputs import large_images, small_images

RESULTS = Path(__file__).parent / "results"
ALLOWED_MB = 300
LARGE = (1_000, 20_000)


def resident(key: str, pid: str = "self") -> float:
    """A figure of /proc/PID/status in MB."""
    lines = Path("/proc", pid, "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(key))


def child(recipe: dict[str, Any]) -> None:
    """Imports everything, trains, and prints what it took."""
    import timm  # noqa: F401
    import torchvision  # noqa: F401

    from distill_cli.pipeline.run.train import train
    from distill_cli.recipe.schema import TeacherRecipe
    from distill_cli.training.events import Silent

    before = resident("VmRSS")
    finished = train(TeacherRecipe(**recipe), sink=Silent())
    weights = finished.result.model_bytes / 1e6
    print(
        json.dumps(
            {
                "imports_mb": round(before),
                "growth_mb": round(resident("VmHWM") - before),
                # Weights, gradients and momentum.
                "model_mb": round(3 * weights, 1),
            }
        )
    )


def measured(folder: Path, **recipe: Any) -> dict[str, Any]:
    """One training in a process of its own."""
    recipe = {"epochs": 1, "batch_size": 64, "out": str(folder / "run"), **recipe}
    command = [sys.executable, "-m", "benchmarks.memory", "--child", json.dumps(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    subprocess.run(["rm", "-rf", str(folder / "run")], check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return 0
    lines = [
        "| images | run | growth over imports | images + model | allowed |",
        "|---|---|---|---|---|",
    ]
    met = True

    def row(what: str, run: str, found: dict[str, Any], images_mb: float) -> None:
        nonlocal met
        needed = images_mb + found["model_mb"]
        met &= found["growth_mb"] <= needed + ALLOWED_MB
        cells = (f"{found['growth_mb']} MB", f"{needed:.0f} MB", f"{needed + ALLOWED_MB:.0f} MB")
        lines.append(f"| {what} | {run} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DISTILL_CACHE"] = f"{folder}/cache"
        cifar = small_images(folder, "cifar10", 5000, 1000)
        held = 60_000 * 3 * 32 * 32 / 1e6
        for run in ("first, decodes", "second, maps"):
            found = measured(folder, data=str(cifar), model="mlp_256x2")
            row("60,000 of 32 pixels, in memory", run, found, held)
        for count in LARGE:
            data = large_images(folder, count)
            for batch in (32, 64):
                found = measured(
                    folder,
                    data=str(data),
                    model="mlp_16x1",
                    size=224,
                    workers=2,
                    batch_size=batch,
                    augment=["rrc", "flip"],
                )
                row(f"{count:,} JPEGs of 256 pixels, from files", f"batch {batch}", found, 0.0)
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory.md").write_text(
        "# Memory\n\nPeak of the training process over the same process after its imports "
        f"(about {found['imports_mb']} MB); worker processes, which share its pages, not counted. "
        f"Made by `make bench`.\n\n{text}"
    )
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
