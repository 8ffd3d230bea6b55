"""Rows for images that are read from files: several views of a read, and JPEGs decoded at a scale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import bare, ours
from benchmarks.cases import Case
from benchmarks.inputs import large_images, photographs
from distill_cli.models import load_model

CROPS: dict[str, Any] = {"size": 224, "augment": ["rrc", "flip"]}


def by_hand(run: ours.Run, folder: Path, workers: int) -> bare.Folder:
    """ImageFolder and DataLoader with the same network, precision, batch and workers."""
    plan = run.plan
    torch.manual_seed(0)
    net = load_model(ours.network(plan.run / "bare", str(plan.recipe.model), plan)).net
    return bare.Folder(
        net.to(plan.runtime.device).to(memory_format=plan.runtime.memory_format),
        folder,
        plan.recipe.batch_size,
        workers,
        plan.runtime.device,
        plan.runtime.autocast,
        len(plan.dataset.fit_rows),
    )


def reads(root: Path) -> Iterator[Case]:
    """A network so small that one worker decides the rate."""
    common: dict[str, Any] = {"model": "mlp_8x1", "batch_size": 32, "workers": 1, **CROPS}
    rows: tuple[tuple[int, int, int, int, float | None], ...] = (
        (240, 1024, 768, 224, 2.0),
        (640, 500, 375, 160, None),
        (640, 500, 375, 224, None),
    )
    for count, width, height, side, least in rows:
        folder = photographs(root, count, width, height)
        one, four = (
            ours.training(
                root / f"{width}-{side}-{views}",
                data=str(folder),
                views_per_read=views,
                **{**common, "size": side},
            )
            for views in (1, 4)
        )
        about = f"mlp_8x1, {width} × {height} JPEGs at {side} pixels, one worker"
        yield Case(name=f"{about}, --views-per-read 4 over 1", ours=four, other=one, least=least)
    yield Case(
        name=f"{about}, over ImageFolder and DataLoader",
        ours=one,
        other=by_hand(one, folder, 1),
        least=0.95,
    )
    folder = photographs(root, 96, 2000, 1500)
    full, scaled = (
        ours.training(root / way, data=str(folder), decoding=way, **common)
        for way in ("full", "scaled")
    )
    name = "mlp_8x1, 2000 × 1500 JPEGs at 224 pixels, one worker, decoding: scaled over full"
    yield Case(name=name, ours=scaled, other=full)


def reads_on_gpu(root: Path) -> Iterator[Case]:
    """A network that keeps a GPU busy, and as many workers as processors."""
    workers = min(16, os.cpu_count() or 1)
    common: dict[str, Any] = {"model": "resnet50", "batch_size": 128, "workers": workers, **CROPS}
    folder = large_images(root, 12_800)
    one = ours.training(root / "one", data=str(folder), **common)
    four = ours.training(root / "four", data=str(folder), views_per_read=4, **common)
    about = f"resnet50, 256-pixel JPEGs, {workers} workers"
    yield Case(
        name=f"{about}, over ImageFolder and DataLoader",
        ours=one,
        other=by_hand(one, folder, workers),
        least=0.95,
    )
    yield Case(name=f"{about}, --views-per-read 4 over 1", ours=four, other=one, least=2)
