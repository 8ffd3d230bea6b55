"""`python -m benchmarks.kills`: a dump killed at random moments, rerun, and compared to the byte."""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "kills.md"
DISTILL = [sys.executable, "-m", "distill_cli"]
TEACHER = ("teacher", "train", "--data", "digits", "--model", "mlp_256x2", "--epochs", "5")
DUMP = ("cache-soft-labels", "--views", "60", "--shard-length", "256", "--codec", "topk:3")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    equal, moments = 0, []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        subprocess.run([*DISTILL, *TEACHER, "--out", root / "t", "--quiet"], check=True)
        dump = [*DISTILL, *DUMP, "--teachers", str(root / "t"), "--quiet", "--out"]
        start = time.monotonic()
        process = subprocess.Popen([*dump, root / "whole"], stdout=subprocess.DEVNULL)
        began = since_plan(process, root / "whole")
        assert process.wait() == 0
        length, whole = time.monotonic() - began, contents(root / "whole")
        print(f"unbroken: {time.monotonic() - start:.1f} s, {length:.1f} s of them the dump")
        for number in range(args.kills):
            out = root / "killed"
            shutil.rmtree(out, ignore_errors=True)
            process = subprocess.Popen([*dump, out], stdout=subprocess.DEVNULL)
            since_plan(process, out)
            time.sleep(draw.uniform(0, length))
            process.send_signal(signal.SIGKILL)
            finished = process.wait() == 0
            left = len(contents(out))
            subprocess.run([*dump, out], check=True, stdout=subprocess.DEVNULL)
            same = contents(out) == whole
            equal += same
            moments.append((left, finished))
            print(
                f"{number + 1}: {left} of {len(whole)} files there, {'same' if same else 'OTHER'}"
            )
    cut = sum(not finished for _, finished in moments)
    text = (
        "# Kills\n\n"
        f"A dump of 60 views of the digits into {len(whole)} files, killed (−9) {args.kills} times "
        f"at random moments between its first file and its end ({cut} before the end, with "
        f"{min(left for left, _ in moments)} to {max(left for left, _ in moments)} files there), "
        f"each followed by the same command: **{equal} of {args.kills}** caches are byte-identical "
        "to the unbroken one. Made by `python -m benchmarks.kills`.\n"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text)
    return int(equal < args.kills)


def since_plan(process: subprocess.Popen[bytes], folder: Path) -> float:
    """When the dump committed its plan: its own start takes seconds of imports."""
    while not (folder / "plan.json").exists():
        assert process.poll() is None, "the dump ended early"
        time.sleep(0.002)
    return time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
