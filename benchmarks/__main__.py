"""`python -m benchmarks [CASE…]`: a table of ratios, kept in benchmarks/results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES as ANYWHERE
from benchmarks.cases import Case, machine
from benchmarks.cpu import on_cpu
from benchmarks.gpu import CASES as ON_GPU
from benchmarks.pairs import interleaved
from benchmarks.reads import reads, reads_on_gpu

GPU = {**ON_GPU, "reads-gpu": reads_on_gpu}
CASES = {**ANYWHERE, "reads": reads, "cpu": on_cpu} | (GPU if torch.cuda.is_available() else {})
RESULTS = Path(__file__).parent / "results"


def measured(case: Case, pairs: int) -> dict[str, Any]:
    ratio = interleaved(case.ours, case.other, pairs)
    low, high = ratio.quartiles
    return {
        "case": case.name,
        "ratio": round(ratio.median, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "at_least": case.least,
        "predicted": None if case.predict is None else round(case.predict(), 3),
        **({} if case.compiling is None else {"compiling": round(case.compiling(), 1)}),
        "ours": round(ratio.ours, 1),
        "other": round(ratio.other, 1),
        "pairs": pairs,
    }


def is_met(row: dict[str, Any]) -> bool:
    return row["at_least"] is None or row["ratio"] >= row["at_least"]


def wanted(row: dict[str, Any]) -> str:
    if "compiling" in row:
        return f"(compiling: {row['compiling']:.0f} s)"
    if row["at_least"] is None:
        said = row["predicted"]
        return "—" if said is None else f"(arithmetic: {said:.2f})"
    return f"{row['at_least']:.2f}{'' if is_met(row) else ', below'}"


def cells(row: dict[str, Any]) -> list[str]:
    low, high = row["quartiles"]
    figures = [f"{row['ratio']:.3f}", f"{low:.3f}–{high:.3f}", wanted(row)]
    return [row["case"], *figures, f"{row['ours']:,.0f}", f"{row['other']:,.0f}", str(row["pairs"])]


COLUMNS = ("case", "ratio", "quartiles", "at least", "images/s", "other", "pairs")


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(*COLUMNS)
    for row in rows:
        shown.add_row(*cells(row))
    return shown


def markdown(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"# {about['name']}",
        "",
        f"{about['device']}, {about['threads']} threads of {about['processors']} processors "
        f"({about['cpu_capability']}), precision {about['precision']}. {versions}.",
        "",
        "Medians of interleaved pairs of turns, and the quartiles of the pairs: what a shared "
        "machine adds falls on both sides. images/s are medians. Made by `make bench`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)]) + "\n"


def save(rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Keeps the rows; those of other cases that were measured before under this name stay."""
    path = RESULTS / f"{about['name']}.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    fresh = {row["case"]: row for row in rows}
    kept = [fresh.pop(row["case"], row) for row in known]
    rows = [*kept, *fresh.values()]
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")
    path.with_suffix(".md").write_text(markdown(rows, about))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--name", help="of the machine, for the file of results")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    if args.pairs < 2 or not CASES.keys() >= set(args.cases):
        parser.error(f"two pairs at least, of {', '.join(CASES)}")
    about = machine()
    about["name"] = args.name or f"{platform.machine()}-{about['device'].replace(':', '-')}"
    console, rows = Console(stderr=True), []
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DISTILL_CACHE"] = f"{folder}/cache"
            for case in CASES[name](Path(folder)):
                rows.append(measured(case, args.pairs))
                console.print(table(rows[-1:]))
                if not args.no_save:
                    save(rows, about)
    console.print(table(rows))
    return int(not all(is_met(row) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
