"""Whether the steps of a run are recorded: asked on a machine that has no GPU of NVIDIA's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from distill_cli.pipeline.run import graphs
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.schema import TeacherRecipe
from distill_cli.training.events import Silent
from distill_cli.training.graphs import room_on
from tests.conftest import Outcome, on_host

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1, "--quiet")


@on_host
def test_on_a_cpu_there_are_none(here: Path, distill: Distill) -> None:
    outcome = distill(*TRAIN, "--graphs", "on", "--out", "r")
    assert outcome.code == 2
    assert "--graphs on: CUDA graphs need a GPU of NVIDIA's, not cpu" in outcome.err
    assert not (here / "r").exists()
    for graphs_option in ("auto", "off"):
        out = f"r-{graphs_option}"
        assert distill(*TRAIN, "--graphs", graphs_option, "--out", out).code == 0
    # They change nothing that is trained: a run goes on with others.
    resumed = distill(
        "teacher", "train", "--resume", "--graphs", "off", "--out", "r-auto", "--quiet"
    )
    assert resumed.code == 0, resumed.err
    assert yaml.safe_load((here / "r-auto/recipe.yaml").read_text())["graphs"] == "off"


@pytest.mark.parametrize(("opt", "named"), [("lamb", "Lamb"), ("lion", "Lion")])
def test_an_optimiser_that_counts_on_the_host_is_named(here: Path, opt: str, named: str) -> None:
    asked = TeacherRecipe(data="digits", model="mlp_8x1", opt=opt, out="r", device="cpu", epochs=1)
    prepared = prepare(asked, sink=Silent())
    reason = graphs._reason(prepared, trainer_of(prepared, Silent()).optimisation)
    assert reason == f"optimiser {named} counts its steps on the host"


def test_half_of_the_free_memory_is_room_for_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert room_on(torch.device("cuda")) == 500
    assert room_on(torch.device("cpu")) == float("inf")
