"""`python -m benchmarks [CASE…]`: a table of ratios, kept in benchmarks/results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, Case, machine
from benchmarks.pairs import interleaved

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
        "ours": round(ratio.ours, 1),
        "other": round(ratio.other, 1),
        "pairs": pairs,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table("case", "ratio", "quartiles", "at least", "images/s", "other")
    for row in rows:
        wanted = row["at_least"] or f"(arithmetic: {row['predicted']})"
        low, high = row["quartiles"]
        shown.add_row(
            row["case"],
            f"{row['ratio']:.3f}",
            f"{low:.3f}–{high:.3f}",
            str(wanted),
            f"{row['ours']:,.0f}",
            f"{row['other']:,.0f}",
        )
    return shown


def markdown(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"# {about['name']}",
        "",
        f"{about['device']}, {about['threads']} threads of {about['processors']} processors "
        f"({about['cpu_capability']}), precision {about['precision']}. {versions}.",
        "",
        f"Median of {rows[0]['pairs']} interleaved pairs, quartiles of the pairs beside it; "
        "images/s are medians. Made by `make bench`.",
        "",
        "| case | ratio | quartiles | at least | images/s | other |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        wanted = row["at_least"] or f"(arithmetic: {row['predicted']})"
        low, high = row["quartiles"]
        lines.append(
            f"| {row['case']} | **{row['ratio']:.3f}** | {low:.3f}–{high:.3f} | {wanted} | "
            f"{row['ours']:,.0f} | {row['other']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--name", help="of the machine, for the file of results")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    about = machine()
    about["name"] = args.name or f"{platform.machine()}-{about['device'].replace(':', '-')}"
    console, rows = Console(stderr=True), []
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DISTILL_CACHE"] = f"{folder}/cache"
            for case in CASES[name](Path(folder)):
                rows.append(measured(case, args.pairs))
                console.print(table(rows[-1:]))
    console.print(table(rows))
    if not args.no_save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{about['name']}.md").write_text(markdown(rows, about))
        (RESULTS / f"{about['name']}.json").write_text(
            json.dumps({"machine": about, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
