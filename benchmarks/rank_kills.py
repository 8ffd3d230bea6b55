"""`python -m benchmarks.rank_kills`: a random one of four ranks killed at a random moment of a run.

The command starts its ranks anew (`--max-restarts`) and ends by itself; what it leaves is compared to
the bit with what an unbroken run of four ranks leaves.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "rank_kills.md"
DISTILL = [sys.executable, "-m", "distill_cli"]
RUN = ("teacher", "train", "--data", "digits", "--model", "mlp_32x2", "--dropout", "0.2")
OPTIONS = ("--augment", "shift:1", "-b", "64", "--precision", "fp32", "--device", "cpu", "--quiet")
COMPARED = ("model/model.safetensors", "summary.csv")
RANKS = 4


def ranks_of(launcher: int) -> list[int]:
    """The processes of the ranks, by rank: those below the launcher that lead a session of their own."""
    parents, leaders = {}, []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            pid = int(stat.parent.name)
            parents[pid] = int(parent)
            if int(session) == pid and state not in "ZX":
                leaders.append(pid)

    def below(pid: int) -> bool:
        while pid in parents and pid != launcher:
            pid = parents[pid]
        return pid == launcher

    return sorted(pid for pid in leaders if pid != launcher and below(pid))


def digests(run: Path) -> list[str]:
    rows = []
    for name in COMPARED:
        content = (run / name).read_bytes()
        if name.endswith(".csv"):
            # Its last columns are seconds and images a second, which no two runs share.
            lines = content.decode().splitlines()
            kept = [n for n, key in enumerate(lines[0].split(",")) if key not in TIMES]
            content = "\n".join(
                ",".join(line.split(",")[n] for n in kept) for line in lines
            ).encode()
        rows.append(hashlib.sha256(content).hexdigest())
    return rows


TIMES = ("images_per_second", "seconds", "epoch_seconds")


def start(out: Path, epochs: int, restarts: int) -> tuple[subprocess.Popen[str], float]:
    """A run that has its ranks, and when they came."""
    command = [*DISTILL, *RUN, *OPTIONS, "--epochs", str(epochs), "--out", str(out)]
    command += ["--ranks", str(RANKS), "--checkpoint-every", "1s"]
    command += ["--max-restarts", str(restarts)] if restarts else []
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **streams, text=True)  # type: ignore[call-overload]
    while len(ranks_of(process.pid)) < RANKS:
        assert process.poll() is None, "it ended before its ranks came"
        time.sleep(0.02)
    return process, time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(args.seed)
    rows, equal, restarts = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        whole, out = Path(name) / "whole", Path(name) / "killed"
        process, began = start(whole, args.epochs, 0)
        assert process.wait() == 0, process.stderr
        length, expected = time.monotonic() - began, digests(whole)
        span = length
        print(f"unbroken: {length:.1f} s with its ranks", flush=True)
        while sum(row[2] for row in rows) < args.kills:
            shutil.rmtree(out, ignore_errors=True)
            process, began = start(out, args.epochs, 3)
            moment, rank = draw.uniform(0, span), draw.randrange(RANKS)
            time.sleep(max(0.0, began + moment - time.monotonic()))
            running = ranks_of(process.pid)
            hit = len(running) == RANKS
            if hit:
                os.kill(running[rank], signal.SIGKILL)
            _, err = process.communicate()
            same = process.returncode == 0 and digests(out) == expected
            anew = err.count("the ranks are started anew")
            equal, restarts = equal + same, restarts + anew
            rows.append(
                (moment, rank, hit, anew, time.monotonic() - began, process.returncode, same)
            )
            print(
                f"{len(rows)}: rank {rank} at {moment:.1f} s, hit {hit}, anew {anew}, same {same}"
            )
            if not same:
                print(err)
            sys.stdout.flush()
            # Where it ends sooner than the unbroken one, moments are drawn from what it takes.
            span = span if hit else min(span, rows[-1][4])
    RESULTS.write_text(page(args, length, rows), encoding="utf-8")
    print(f"{equal} of {len(rows)} end in the bits of the unbroken run")
    return 0 if equal == len(rows) else 1


def page(
    args: argparse.Namespace,
    length: float,
    rows: list[tuple[float, int, bool, int, float, int, bool]],
) -> str:
    """The results in Markdown."""
    hit = [row for row in rows if row[2]]
    equal, seconds = sum(row[6] for row in hit), statistics.median(row[4] for row in hit)
    lines = [
        "# Kills of ranks",
        "",
        f"`python -m benchmarks.rank_kills --kills {args.kills} --epochs {args.epochs} --seed {args.seed}`: "
        f"a run of {RANKS} ranks on one machine, one of which is killed (SIGKILL) at a moment drawn from "
        "the time that an unbroken run has its ranks, reading data and the end included. The command has "
        "`--max-restarts 3`, and nobody touches it again. Weights and figures of all epochs are compared "
        "with those of the unbroken run to the bit.",
        "",
        f"**{equal} of {len(hit)} end in the same bits.** The unbroken run had its ranks for "
        f"{length:.1f} s; with a kill it was {seconds:.1f} s (median).",
        "",
        "| moment, s | rank | killed | started anew | seconds in all | exit code | same bits |",
        "|---|---|---|---|---|---|---|",
    ]
    for moment, rank, was_hit, anew, total, code, same in rows:
        killed = "yes" if was_hit else "it was over"
        end = "yes" if same else "**no**"
        lines.append(
            f"| {moment:.2f} | {rank} | {killed} | {anew} | {total:.1f} | {code} | {end} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
