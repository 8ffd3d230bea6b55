"""`python -m benchmarks.ranks`: two ranks beside one process, and the curves of one to four ranks."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.inputs import small_images
from distill_cli.runtime import versions

RESULTS = Path(__file__).parent / "results" / "ranks.md"
CURVES = RESULTS.with_suffix(".svg")
TRAIN = [sys.executable, "-m", "distill_cli", "teacher", "train", "--quiet", "--precision", "fp32"]
# What is timed: networks, and the global batch.
CASES = (("cifar_resnet20", 128), ("cifar_resnet20", 512), ("mlp_800x2", 128))
COUNTS = (1, 2, 3, 4)


def run(out: Path, *options: object) -> Path:
    """Trains in a process of its own; the run folder."""
    subprocess.run([*TRAIN, *map(str, options), "--out", str(out)], check=True)
    return out


def rate(run: Path) -> float:
    """Training images a second: the median over epochs after the first, training steps only."""
    figures: dict[str, float] = json.loads((run / "result.json").read_text())
    return figures["images_per_second"]


def throughput(root: Path, pairs: int) -> list[str]:
    """Rows of two ranks with one thread each, over one process with two threads, in turn."""
    data = small_images(root, "cifar10", 600)
    rows = []
    for model, batch in CASES:
        common = (
            "--data",
            data,
            "--model",
            model,
            "-b",
            batch,
            "--epochs",
            3,
            "--augment",
            "light",
        )
        rates: dict[str, list[float]] = {"one": [], "two": []}
        for number in range(pairs):
            for name, how in (
                ("one", ("--threads", 2)),
                ("two", ("--threads", 1, "--ranks", 2)),
            ):
                rates[name].append(
                    rate(run(root / f"{model}-{batch}-{name}-{number}", *common, *how))
                )
        ratios = [two / one for one, two in zip(rates["one"], rates["two"], strict=True)]
        one, two = (statistics.median(rates[name]) for name in ("one", "two"))
        rows.append(
            f"| {model}, batch {batch} | {one:,.0f} | {two:,.0f} | "
            f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
        print(rows[-1])
    return rows


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def curves(root: Path, epochs: int) -> list[str]:
    """Draws the training loss by epoch of one to four ranks, and says how far they lie apart."""
    common = (
        *("--data", "digits", "--model", "cifar_resnet8", "-b", 144, "--dropout", 0.1),
        *("--augment", "shift:1", "--epochs", epochs, "--threads", 1, "--sync-bn"),
    )
    of = {
        count: losses(
            run(root / f"curve-{count}", *common, *(("--ranks", count) if count > 1 else ()))
        )
        for count in COUNTS
    }
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for count, values in of.items():
        axes[0].plot(
            range(1, epochs + 1), values, label=f"{count} rank{'s' * (count > 1)}", alpha=0.7
        )
        if count > 1:
            apart = [abs(a - b) / abs(b) for a, b in zip(values, of[1], strict=True)]
            axes[1].semilogy(range(1, epochs + 1), [max(a, 1e-9) for a in apart], label=f"{count}")
    axes[0].set(xlabel="epoch", ylabel="training loss, fp32")
    axes[1].set(xlabel="epoch", ylabel="relative difference to 1 rank")
    for one in axes:
        one.legend(fontsize="small")
        one.grid(alpha=0.3)
    figure.savefig(CURVES, metadata={"Date": None})
    return [
        f"{count} ranks: the training loss of the last epoch {of[count][-1]:.6f} "
        f"({of[1][-1]:.6f} of one), at most "
        f"{max(abs(a - b) / abs(b) for a, b in zip(of[count], of[1], strict=True)):.1e} apart."
        for count in COUNTS[1:]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12, help="of the curves")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        drawn = curves(Path(name), args.epochs)
        print("\n".join(drawn))
        rows = throughput(Path(name), args.pairs)
    torch = versions()["torch"]
    RESULTS.write_text(
        "# Ranks\n\n"
        "Made by `python -m benchmarks.ranks` on two cores of an x86-64 machine that others used too, "
        f"torch {torch}, gloo on the loopback.\n\n"
        "## Two ranks of one thread over one process of two threads\n\n"
        f"Training images a second, fp32, batches global, medians of {args.pairs} pairs in turn; the "
        "ratio with its least and its greatest.\n\n"
        "| case | one process | two ranks | ratio |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "## The curves of one to four ranks\n\n"
        "cifar_resnet8 on digits with dropout, shifts and `--sync-bn`, fp32: the same draws and views; "
        "sums of gradients in another order.\n\n![curves](ranks.svg)\n\n" + "\n".join(drawn) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
