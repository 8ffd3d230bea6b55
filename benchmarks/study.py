"""Shared by the accuracy studies: runs that are kept, and figures over seeds."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.inputs import small_images
from distill_cli.pipeline.inputs.data import OpenData, open_data
from distill_cli.pipeline.run.train import train
from distill_cli.recipe.base import TrainRecipe
from distill_cli.training.events import Silent

RESULTS = Path(__file__).parent / "results"


def arguments(
    description: str | None, work: str, *, rows: Sequence[str] = (), **defaults: int | str
) -> argparse.Namespace:
    """The options of a study: where it works, how large it is, and which of its rows are run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=Path("runs") / work)
    parser.add_argument("--threads", type=int)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    if rows:
        told = "a row to run, once or several times; the others stay as the page has them"
        parser.add_argument("--only", action="append", choices=rows, metavar="ROW", help=told)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ["DISTILL_CACHE"] = str(args.work / "decoded")
    return args


def cifar10(work: Path, per_class: int) -> Path:
    """CIFAR-10 with so many training images of each class, all test images; made once.

    Raises:
        SystemExit: It is not there. What speed is measured on in its place teaches nothing.
    """
    folder = Path(os.environ.get("DISTILL_DATA", "../shared/data"))
    if not any(folder.glob("cifar10.tar*")):
        raise SystemExit(f"cifar10.tar is not in {folder}: say where it is with DISTILL_DATA")
    data = work / f"cifar10-{per_class}.tar"
    return data if data.exists() else small_images(work, "cifar10", per_class, 1000)


def kept_rows(page: Path) -> list[dict[str, str]]:
    """The rows of each table of a page, by their first cells."""
    tables = page.read_text().split("\n|---")[1:]
    return [
        {line.split("|")[1].strip(): line for line in table.split("\n\n")[0].splitlines()[1:]}
        for table in tables
    ]


def trained(
    kind: type[TrainRecipe], out: Path, *, opening: OpenData = open_data, **values: Any
) -> None:
    """A run, unless it is there already."""
    if not (out / "result.json").exists():
        recipe = kind(command=kind.COMMAND, out=str(out), **values)
        train(recipe, sink=Silent(), overwrite=out.exists(), opening=opening)


def result_of(run: Path) -> dict[str, Any]:
    """The figures of a run."""
    return dict(json.loads((run / "result.json").read_text()))


@dataclass(frozen=True)
class Wanted:
    """A run of a study.

    Attributes:
        kind: The class of its recipe.
        out: Its folder.
        values: The recipe's keys.
    """

    kind: type[TrainRecipe]
    out: Path
    values: dict[str, Any]

    def train(self) -> None:
        trained(self.kind, self.out, **self.values)


def train_all(runs: Iterable[Wanted], workers: int) -> None:
    """Trains runs that do not need each other, so many at a time, each process taking one after another."""
    if workers == 1:
        for run in runs:
            run.train()
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(run.train) for run in runs]:
            done.result()


def mean_and_sd(
    values: Sequence[float | None], *, scale: float = 1.0, unit: str = "", digits: int = 2
) -> str:
    """As `60.36 ± 0.30 %`; empty where a value is not known."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}{unit}"


def on_cifar10(args: argparse.Namespace) -> dict[str, Any]:
    """The keys that every run of the studies of few bits and of peers has."""
    return {
        **{"data": str(cifar10(args.work, args.per_class)), "size": args.side},
        **{"augment": f"crop:{args.side // 8},flip", "epochs": args.epochs},
        **{"batch_size": args.batch, "lr": args.batch / 1280, "threads": args.threads},
        **{"compile": False},
    }


def conditions(args: argparse.Namespace) -> str:
    """What such a study trained on, for its page."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    return (
        f"{10 * args.per_class:,} training images of CIFAR-10 (a tenth held out) at {args.side} × {args.side} pixels, "
        f"{args.epochs} epochs, batch {args.batch}, SGD at {args.batch / 1280:g}, crops and mirrors, {precision} on "
        f"{'an ' + device if 'NVIDIA' in device else 'a ' + device}"
    )
