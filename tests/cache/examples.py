"""A small dump: what a plan looks like, and logits that are a function of (row, view)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_cli.cache.manifest import Manifest
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.writer import CacheWriter
from distill_cli.types import DatasetIdentity, ViewSpec, digest_of_ids


def ids(samples: int) -> list[str]:
    """Sample ids, sorted."""
    return [f"ant/{row:04d}.png" for row in range(samples)]


PLAN = Plan(
    dataset=DatasetIdentity(
        fingerprint="f" * 40,
        ids_digest=digest_of_ids(ids(37)),
        samples=37,
        class_names=("ant", "bee", "cat", "dog", "eel"),
        split_seed=0,
        val_fraction=0.1,
    ),
    view_spec=ViewSpec(augment=("crop:4", "flip"), channels=1, height=8, width=8, seed=3),
    views=2,
    teacher_fingerprint="t" * 40,
    architecture="mlp_8x1",
    codec="fp32",
    precision="fp32",
    device="cpu",
    teacher_batch=8,
    shard_length=10,
    versions={"torch": "2.0"},
    cpu_capability="AVX2",
)


def plan(*, samples: int = 37, classes: int = 5, **changes: Any) -> Plan:
    """A plan that differs from PLAN as said."""
    names = tuple(f"class {k}" for k in range(classes))
    dataset = replace(
        PLAN.dataset, samples=samples, class_names=names, ids_digest=digest_of_ids(ids(samples))
    )
    return replace(PLAN, dataset=dataset, **changes)


def logits(plan: Plan, view: int) -> Tensor:
    """logits_NK of every row in one view."""
    generator = torch.Generator().manual_seed(100 + view)
    shape = (plan.dataset.samples, len(plan.dataset.class_names))
    return 4 * torch.randn(shape, generator=generator)


def targets(plan: Plan) -> Tensor:
    """target_N; every seventh row is unlabelled."""
    row_N = torch.arange(plan.dataset.samples)
    target_N = (row_N * 7 + 3) % len(plan.dataset.class_names)
    return target_N.where(row_N % 7 != 6, -1)


def evaluation(plan: Plan) -> dict[str, tuple[Tensor, Tensor]]:
    """Labels of nine held-out and eleven test rows."""
    classes = len(plan.dataset.class_names)
    generator = torch.Generator().manual_seed(7)
    return {
        split: (torch.randn(rows, classes, generator=generator), torch.arange(rows) % classes)
        for split, rows in (("val", 9), ("test", 11))
    }


def commit(writer: CacheWriter, shard: ShardKey) -> None:
    rows = slice(shard.start, shard.stop)
    writer.commit(shard, logits(writer.plan, shard.view)[rows], targets(writer.plan)[rows])


def dump(folder: Path, plan: Plan = PLAN) -> Manifest:
    """A whole dump, or the rest of one."""
    writer = CacheWriter(folder, plan)
    for shard in writer.missing():
        commit(writer, shard)
    if not writer.has_eval:
        writer.write_eval(evaluation(plan))
    if not writer.has_ids:
        writer.write_ids(ids(plan.dataset.samples))
    return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
