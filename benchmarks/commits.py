"""`python -m benchmarks.commits`: how fast a dump's labels are stored, the teachers' work aside.

50,000 samples × 2 views of made logits: checked, encoded, measured, hashed, written and flushed. The
seconds are those of the processor, of one thread: what else a shared machine does falls on none.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.cases import machine
from distill_cli.cache.plan import Plan
from distill_cli.cache.writer import CacheWriter
from distill_cli.types import DatasetIdentity, ViewSpec

RESULTS = Path(__file__).parent / "results" / "commits.md"
SAMPLES, VIEWS, TURNS = 50_000, 2, 3
# Classes, codec, samples.
CASES = (
    (10, "fp32", SAMPLES),
    (10, "fp16", SAMPLES),
    (10, "topk:3", SAMPLES),
    (100, "fp16", SAMPLES),
)


def plan_of(classes: int, codec: str, samples: int) -> Plan:
    """A dump's plan, with the shards that one of CIFAR-10 has."""
    return Plan(
        dataset=DatasetIdentity(
            fingerprint="0" * 32,
            ids_digest="1" * 32,
            samples=samples,
            class_names=tuple(f"class {k}" for k in range(classes)),
            split_seed=0,
            val_fraction=0.1,
        ),
        view_spec=ViewSpec(augment=("crop:4", "flip"), channels=3, height=32, width=32, seed=0),
        views=VIEWS,
        teacher_fingerprint="2" * 32,
        architecture="cifar_resnet56",
        codec=codec,
        precision="bf16",
        device="cpu",
        teacher_batch=4096,
        shard_length=8192,
        versions=machine()["versions"],
        cpu_capability="AVX2",
        sample_ids=False,
    )


def rate(folder: Path, classes: int, codec: str, samples: int) -> float:
    """Views a second of the processor, the median of some turns after one to warm up."""
    generator, plan = torch.Generator().manual_seed(0), plan_of(classes, codec, samples)
    logits_NK = 3 * torch.randn(samples, classes, generator=generator)
    target_N = torch.randint(0, classes, (samples,), generator=generator)
    rates = []
    for turn in range(TURNS + 1):
        writer = CacheWriter(folder / str(turn), plan)
        start = time.thread_time()
        for shard in plan.shards():
            rows = slice(shard.start, shard.stop)
            writer.commit(shard, logits_NK[rows], target_N[rows])
        rates.append(VIEWS * samples / (time.thread_time() - start))
    return statistics.median(rates[1:])


def main() -> int:
    torch.set_num_threads(1)
    about = machine()
    lines = [
        "# Commits",
        "",
        f"One thread ({about['cpu_capability']}), torch {about['versions']['torch']}. Made by "
        "`python -m benchmarks.commits`.",
        "",
        f"{SAMPLES:,} samples × {VIEWS} views, medians of {TURNS} turns: checked, encoded, measured, "
        "hashed, written, flushed. Seconds of the processor, which what else the machine does hardly moves.",
        "",
        "| classes | codec | views a second |",
        "|---|---|---|",
    ]
    for classes, codec, samples in CASES:
        with tempfile.TemporaryDirectory() as name:
            found = rate(Path(name), classes, codec, samples)
        lines.append(f"| {classes} | `{codec}` | {found:,.0f} |")
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
