"""`python -m benchmarks.labels`: bytes a view, and how fast labels are gathered from warm pages.

Caches of made labels: neither size nor speed depends on what they say.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import machine
from benchmarks.memory import resident
from distill_cli.cache.folder import EVAL
from distill_cli.cache.plan import Plan
from distill_cli.cache.rows import Codec
from distill_cli.cache.statistics import measure
from distill_cli.cache.writer import CacheWriter
from distill_cli.cli.cache_info import described
from distill_cli.types import DatasetIdentity, ViewSpec

RESULTS = Path(__file__).parent / "results" / "labels.md"
DISTINCT = 512
# Classes, codec, views, bytes a view at most.
SIZES = (
    (10, "fp16", 1, 20.5),
    (1000, "topk:10", 1, 52.0),
    (21841, "topk:100", 1, None),
    (21841, "topk:100", 4, 412.0),
)


def made(folder: Path, *, samples: int, classes: int, codec: str, views: int) -> Plan:
    """A finished cache whose rows repeat; class names as ImageNet's folders are called."""
    length = max(8192, 256 * -(-samples // (16 * 256)))
    plan = Plan(
        dataset=DatasetIdentity(
            fingerprint="0" * 32,
            ids_digest="1" * 32,
            samples=samples,
            class_names=tuple(f"n{k:08d}" for k in range(classes)),
            split_seed=0,
            val_fraction=0.1,
        ),
        view_spec=ViewSpec(augment=("rrc", "flip"), channels=3, height=224, width=224, seed=0),
        views=views,
        teacher_fingerprint="2" * 32,
        architecture="vit_base_patch16_224",
        codec=codec,
        precision="fp32",
        device="cpu",
        teacher_batch=256,
        shard_length=length,
        versions=machine()["versions"],
        cpu_capability="AVX2",
        sample_ids=False,
    )
    writer = CacheWriter(folder, plan)
    how: Codec = writer.shards.codec
    generator = torch.Generator().manual_seed(0)
    logits_NK = 3 * torch.randn(DISTINCT, classes, generator=generator)
    encoded = how.encode(logits_NK)
    few = measure(logits_NK, encoded, how, torch.randint(0, classes, (DISTINCT,)))
    for shard in plan.shards():
        rows = torch.arange(shard.rows).remainder(DISTINCT)
        times = shard.rows // DISTINCT
        many = replace(
            few,
            rows=shard.rows,
            labelled=shard.rows,
            bin_views=tuple(count * times for count in few.bin_views),
            bin_count=tuple(count * times for count in few.bin_count),
        )
        tensors = {name: chosen(each, rows) for name, each in encoded.items()}
        metadata = {**writer.shards.identity(shard), "statistics": many.to_json()}
        writer._write(shard.file, tensors, metadata)
    writer.finish()
    return plan


def chosen(each: Tensor, rows: Tensor) -> Tensor:
    """index_select does not know uint16."""
    return torch.from_numpy(each.numpy()[rows.numpy()])


def sizes(folder: Path, samples: int) -> Iterator[tuple[str, float, float | None]]:
    for number, (classes, codec, views, most) in enumerate(SIZES):
        cache = folder / str(number)
        made(cache, samples=samples, classes=classes, codec=codec, views=views)
        assert not (cache / EVAL).exists()
        name = f"{classes:,} classes, `{codec}`, {samples:,} samples × {views} view"
        yield name + "s" * (views > 1), float(described(cache)["bytes_per_view"]), most


def gathered(cache: Path, batches: int) -> dict[str, float]:
    """In a process of its own: time to open, rows a second from warm pages, memory."""
    from distill_cli.cache.reader import CacheReader

    before = resident("VmRSS")
    start = time.perf_counter()
    reader = CacheReader(cache)
    opened = time.perf_counter() - start
    samples = reader.plan.dataset.samples
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(samples, generator=generator)
    view_B = torch.zeros(256, dtype=torch.int64)
    rates = []
    for index_B in order.split(256):
        reader.gather(index_B, torch.zeros_like(index_B))
    for _ in range(5):
        parts = list(torch.randperm(samples, generator=generator)[: 256 * batches].split(256))
        start = time.perf_counter()
        for index_B in parts:
            reader.gather(index_B, view_B)
        rates.append(256 * len(parts) / (time.perf_counter() - start))
    return {
        "open_seconds": opened,
        "rows_per_second": statistics.median(rates),
        "memory_mb": resident("VmRSS") - before,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the gathered cache")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(gathered(args.child, 1000)))
        return 0
    about = machine()
    lines = [
        "# Labels",
        "",
        f"{about['threads']} threads ({about['cpu_capability']}). Made by "
        "`python -m benchmarks.labels`.",
        "",
        "Plan, manifest and shard headers are counted, evaluation rows are not.",
        "",
        "| cache | bytes a view | at most |",
        "|---|---|---|",
    ]
    met = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for cache, found, most in sizes(folder, args.samples):
            met = met and found <= (most or math.inf)
            lines.append(f"| {cache} | {found:.2f} | {'—' if most is None else most} |")
        made(folder / "large", samples=args.rows, classes=1000, codec="topk:10", views=1)
        command = [sys.executable, "-m", "benchmarks.labels", "--child", str(folder / "large")]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(3)]
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    met = met and found["rows_per_second"] >= 1e6
    met = met and found["open_seconds"] < 0.2 and found["memory_mb"] <= 150
    lines += [
        "",
        f"Shuffled batches of 256 rows from {args.rows:,} samples × 1,000 classes, `topk:10`, from "
        "warm pages; medians of three processes.",
        "",
        "| | | wanted |",
        "|---|---|---|",
        f"| rows a second | {found['rows_per_second']:,.0f} | ≥ 1,000,000 |",
        f"| to open it | {1000 * found['open_seconds']:.0f} ms | < 200 ms |",
        f"| memory over that after the imports, every row touched | {found['memory_mb']:.0f} MB | "
        "≤ 150 MB |",
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
