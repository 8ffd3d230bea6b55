"""distill itself, a turn at a time: the loop and the dump that its commands run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distill_cli.models import InputSpec, create_network, save_model
from distill_cli.pipeline.labels.dump import dump
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.training.events import Silent

MANY = 10_000


class Run:
    """A training; a turn is one epoch of training steps, at the rate that result.json would say."""

    def __init__(self, kind: type[TeacherRecipe], out: Path, **options: Any) -> None:
        recipe = kind(out=str(out), epochs=MANY, warmup_epochs=0, lr=0.01, **options)
        self.plan: PreparedRun = prepare(recipe, sink=Silent())
        out.mkdir(parents=True)
        self.trainer = trainer_of(self.plan, Silent())
        self.trainer.start(resume=False)

    def __call__(self) -> float:
        trainer = self.trainer
        deque(trainer.epoch_steps(), maxlen=0)
        images = trainer.loader.steps * trainer.loader.batch_size
        rate = images / trainer.state.epoch_seconds
        trainer.state.next_epoch(rate, 0.0)
        return rate


def training(out: Path, **options: Any) -> Run:
    return Run(TeacherRecipe, out, **options)


def student(out: Path, teachers: Sequence[Path | str], **options: Any) -> Run:
    names = [str(path) for path in teachers]
    return Run(StudentRecipe, out, teachers=names, force=True, **options)  # type: ignore[arg-type]


def network(folder: Path, name: str, plan: PreparedRun, seed: int = 0) -> Path:
    """An untrained teacher: what it says costs the same."""
    torch.manual_seed(seed)
    data = plan.dataset
    view = InputSpec(
        channels=data.channels,
        height=data.height,
        width=data.width,
        mean=data.mean,
        std=data.std,
    )
    save_model(create_network(name, class_names=data.class_names, view=view), folder)
    return folder


def cache(out: Path, teacher: Path, *, views: int = 1, **options: Any) -> Path:
    recipe = CacheRecipe(teachers=[str(teacher)], views=views, out=str(out), force=True, **options)
    dump(recipe, sink=Silent(), progress=lambda done, total: None)
    return out


class Dump:
    """A dump, made anew each turn; its rate is what the command prints."""

    def __init__(self, out: Path, teacher: Path, *, views: int, **options: Any) -> None:
        self.recipe = CacheRecipe(
            teachers=[str(teacher)], views=views, out=str(out), force=True, **options
        )

    def __call__(self) -> float:
        [made] = dump(self.recipe, sink=Silent(), progress=lambda done, total: None, overwrite=True)
        assert made.views_per_second is not None
        return made.views_per_second
