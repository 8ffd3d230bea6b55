"""Steps from tables on the device: those of the host to the bit, and the same operations at every step.

fp32 on the CPU, as a GPU would take them; whether they can be recorded as a CUDA graph is asked of
a recording that is played again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_cli.adapters.category_structure import MovingCentres
from distill_cli.adapters.d2l import DimensionMemory
from distill_cli.adapters.pseudo_label import AnswerMemory
from distill_cli.data.dataset import Dataset
from distill_cli.models import InputSpec, create_network, save_model
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import Step
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.pipeline.inputs.data import OpenedOnce
from distill_cli.pipeline.labels.dump import dump
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.base import Recipe
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.teachers.mixture import unrecordable, variant_of
from distill_cli.training.device_steps import DeviceSteps, Settings
from distill_cli.training.events import Silent, Sink
from distill_cli.training.loop import Trainer
from distill_cli.types import UNLABELLED, Need, Terms
from tests.cli.test_large import photographs
from tests.training.recordings import Recording, record

COMMON: dict[str, Any] = {
    "model": "mlp_16x1",
    # Draws of torch's generator, which a recording must go on with.
    "model_args": {"drop_rate": 0.2},
    "batch_size": 144,
    "epochs": 4,
    "warmup_epochs": 1.5,
    "seed": 3,
    "lr": 0.05,
    "device": "cpu",
    "precision": "fp32",
}
DATA: dict[str, Any] = {"data": "digits", "augment": ["shift:1"]}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"accumulate": 2},
    "averaged": {"ema": 0.9},
    "clipped": {"clip_grad": 0.5},
    "mixed": {"augment": ["mixup:1", "cutmix:1"]},
    "adamw": {"opt": "adamw", "lr": 0.001},
}
# Objectives at settings that keep more in memory, or do more, than their defaults.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "freematch": [{"name": "pseudo-label", "adaptive": True, "fairness": 0.1, "ramp": [0.1, 0.5]}],
    "soft pseudo-label": [{"name": "pseudo-label", "threshold": 0.0, "hard": False}],
    "consistency, kl": [{"name": "consistency", "form": "kl", "ramp": 0.5}],
}
TAUGHT = [name for name, cls in OBJECTIVES.items() if cls.info.needs & {Need.TEACHER}]
STEPS = 30
OPENING = OpenedOnce()
GROUPS, NOISE = Path("groups.yaml"), Path("noise.csv")


def opening(recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
    """The data of a recipe, digits as two groups of classes."""
    dataset = OPENING(recipe, sink, glance=glance)
    return replace(dataset, group_K=torch.arange(len(dataset.class_names)) % 2)


def half_labelled(recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
    """The same, every second image without its label."""
    dataset = opening(recipe, sink, glance=glance)
    label_N = dataset.train.label_N.clone()
    label_N[::2] = UNLABELLED
    return replace(dataset, train=replace(dataset.train, label_N=label_N))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, `t0` and `t1`, that are trained on nothing, and a cache of each, `c0` and `c1`."""
    root = tmp_path_factory.mktemp("steps")
    view = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.4,))
    for number in range(2):
        torch.manual_seed(number)
        names = tuple(str(digit) for digit in range(10))
        teacher = create_network("mlp_32x1", class_names=names, view=view)
        save_model(teacher, root / f"t{number}")
        options: dict[str, Any] = {"augment": ["shift:1"], "views": 2, "force": True}
        asked = CacheRecipe(
            teachers=[str(root / f"t{number}")],
            out=str(root / f"c{number}"),
            data="digits",
            device="cpu",
            **options,
        )
        dump(asked, sink=Silent(), progress=lambda done, total: None)
    torch.manual_seed(2)
    several = create_network("mlp_32x1", class_names=names, view=view)
    several.targets = "sigmoid"
    save_model(several, root / "t2")
    return root


def trainer(folder: Path, tmp_path: Path, **options: Any) -> Trainer:
    """A run that is about to take its first step."""
    number = len(list(tmp_path.iterdir()))
    names = options.pop("teachers", None)
    kind: type[TeacherRecipe] = TeacherRecipe if names is None else StudentRecipe
    if names is not None:
        options |= {"teachers": [_named(folder, name) for name in names], "force": True}
        if names[0].startswith("c"):
            options = {key: value for key, value in options.items() if key not in DATA}
    out = tmp_path / str(number)
    out.mkdir()
    opened = half_labelled if "pseudo-label" in str(options.get("objective")) else opening
    asked = kind(out=str(out), **options)
    made = trainer_of(prepare(asked, sink=Silent(), overwrite=True, opening=opened), Silent())
    if opened is half_labelled:
        made.truth_N = opening(asked, Silent()).train.label_N
    made.start(resume=False)
    made.network.train()
    torch.manual_seed(5)
    return made


def _named(folder: Path, name: str) -> str:
    """A teacher in the folder, or the student itself."""
    return name if name in ("self", "ema") else str(folder / name)


def objective_of(name: str) -> dict[str, Any]:
    """How a run of this objective, or of one of `SETTINGS`, is asked for, with what it needs."""
    if name in SETTINGS:
        return {"objective": [{"name": "ce"}, *SETTINGS[name]], "teachers": ["t0"]}
    options: dict[str, Any] = {"objective": name}
    if name in TAUGHT and name != "label-mix":
        options["teachers"] = ["t0"]
    if name in ("bce", "sigmoid-kd"):
        options |= {"targets": "sigmoid", **({"teachers": ["t2"]} if name == "sigmoid-kd" else {})}
    special: dict[str, dict[str, Any]] = {
        "kd": {"alpha": 0.9, "alpha_end": 0.1, "schedule": "cosine"},
        "selective": {"objective": "kd,selective"},
        "grouped-smoothing": {"groups": str(GROUPS)},
        "forward": {"noise_matrix": str(NOISE)},
        # A teacher that knows nothing is sure of nothing.
        "pseudo-label": {
            "objective": [{"name": "ce"}, {"name": "pseudo-label", "threshold": 0.15}]
        },
        "category-structure": {
            "objective": [
                {"name": "kd"},
                {"name": "category-structure", "form": "release", "centres": "moving"},
            ]
        },
    }
    return {**options, **special.get(name, {})}


def state_of(run: Trainer) -> dict[str, Tensor]:
    """Everything that training changes, and the figures of the epoch."""
    state = dict(run.network.state_dict())
    for name, value in run.adapters.state_dict().items():
        if isinstance(value, Tensor):
            state[f"adapter {name}"] = value
    for number, optimizer in enumerate(run.optimisation.optimizers):
        for row, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer {number} {row} {name}": value for name, value in values.items()}
    if run.optimisation.ema is not None:
        for name, value in run.optimisation.ema.module.state_dict().items():
            state[f"average {name}"] = value
    if run.state.pseudo_labels.counts is not None:
        state["pseudo-labels"] = run.state.pseudo_labels.counts
    figures = run.state.tally.read()
    return {**state, "figures": torch.tensor(list(figures.values()), dtype=torch.float64)}


def assert_same(one: Trainer, other: Trainer) -> None:
    states = state_of(one), state_of(other)
    assert states[0].keys() == states[1].keys()
    differing = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert differing == []


def host_steps(run: Trainer, count: int) -> None:
    """Steps of batches that the host makes."""
    taken(run, run._steps_on_host, count)


def taken(run: Trainer, steps: Callable[[int, int], Iterator[int]], count: int) -> None:
    while count:
        for _ in steps(run.state.epoch, run.state.step):
            run.state.step += 1
            count -= 1
            if not count:
                return
        run.state.next_epoch(1.0, 1.0)


def tabled(run: Trainer, room: float | None = None) -> DeviceSteps:
    """The same from tables, with so many bytes for rows of caches."""
    return DeviceSteps(run.loader, run.update, run.epochs, run.state, room=room)


class Played(DeviceSteps):
    """Takes the first steps one operation at a time, and plays a recording of each variant after."""

    recordings: dict[int, Recording]
    taken = 0

    def _take(self, step: int) -> None:
        variant = variant_of(self.update.teacher, step)
        self.taken += 1
        if self.taken <= 3:
            self.body(step)
        elif variant not in self.recordings:
            recording = record(lambda: self.body(step))
            assert recording.waiting() == []
            self.recordings[variant] = recording
        else:
            self.recordings[variant].play()


def played(run: Trainer, room: float | None = None) -> Played:
    """The same from a recording."""
    steps = Played(run.loader, run.update, run.epochs, run.state, room=room)
    steps.recordings = {}
    return steps


def with_files(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the files of classes that they name, which are written."""
    groups = "round: ['0', '6', '8', '9']\nstraight: ['1', '4', '7']\n"
    rows = (",".join("0.91" if i == j else "0.01" for j in range(10)) for i in range(10))
    for name, text in ((GROUPS, groups), (NOISE, "\n".join([",".join("0123456789"), *rows]))):
        # Whole or absent: ranks write the same files, and one may read what another begins anew.
        part = folder / f"{name}-{os.getpid()}"
        part.write_text(text)
        part.replace(folder / name)
    files = {"groups": GROUPS, "noise_matrix": NOISE}
    return {**options, **{key: str(folder / files[key]) for key in files if key in options}}


def check(folder: Path, tmp_path: Path, **options: Any) -> None:
    """A recording that is played over the end of an epoch and of the warm-up equals steps as they come."""
    options = with_files(folder, {**COMMON, **DATA, **options})
    runs = [trainer(folder, tmp_path, **options) for _ in range(2)]
    for run, steps in zip(runs, (tabled(runs[0]), played(runs[1])), strict=True):
        torch.manual_seed(7)
        taken(run, steps.epoch, STEPS)
        assert run.state.epoch == STEPS // run.loader.steps, "it goes over the end of an epoch"
    assert_same(*runs)


@pytest.mark.parametrize("name", [*OBJECTIVES, *SETTINGS])
def test_every_objective_can_be_recorded(folder: Path, tmp_path: Path, name: str) -> None:
    check(folder, tmp_path, **objective_of(name))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_stepping_can_be_recorded(folder: Path, tmp_path: Path, way: str) -> None:
    check(folder, tmp_path, **WAYS[way])
    taught = {"teachers": ["t0"], "objective": "kd"}
    check(folder, tmp_path, **taught, **WAYS[way])


TEACHERS: dict[str, dict[str, Any]] = {
    "one cache": {"teachers": ["c0"]},
    "caches in a mixture": {"teachers": ["c0", "c1"], "mode": "ensemble"},
    "a cache a batch": {"teachers": ["c0", "c1"], "mode": "random"},
    "a cache an image": {"teachers": ["c0", "c1"], "mode": "random", "random_per": "sample"},
    "a copy of the data a cache": {"teachers": ["c0", "c1"], "mode": "relabel"},
    "networks in a mixture": {"teachers": ["t0", "t1"], "mode": "ensemble"},
    "a network a batch": {"teachers": ["t0", "t1"], "mode": "random"},
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_every_kind_of_teacher_can_be_recorded(folder: Path, tmp_path: Path, kind: str) -> None:
    check(folder, tmp_path, objective="kd", **TEACHERS[kind])


@pytest.mark.parametrize("way", [*WAYS, "network"])
def test_they_are_the_steps_of_the_host(folder: Path, tmp_path: Path, way: str) -> None:
    """To the bit, but for the average, which the host's moves by one rounding less."""
    options = {**COMMON, **DATA, **WAYS.get(way, {"model": "cifar_resnet8", "model_args": {}})}
    host, device = (trainer(folder, tmp_path, **options) for _ in range(2))
    for run, steps in ((host, host._steps_on_host), (device, tabled(device).epoch)):
        torch.manual_seed(7)
        taken(run, steps, STEPS)
    if way != "averaged":
        assert_same(host, device)
        return
    for name, value in state_of(host).items():
        torch.testing.assert_close(value, state_of(device)[name], atol=1e-5, rtol=1e-5)


def from_files(root: Path) -> dict[str, Any]:
    """A run on images that are read from files, several views of a read."""
    data = root.parent / f"{root.name}-photographs"
    if not data.exists():
        photographs(data, count=24)
    return {
        **{"data": str(data), "size": 136, "workers": 0, "views_per_read": 2},
        **{"batch_size": 5, "model": "mlp_4x1", "augment": ["rrc", "flip"]},
    }


def test_images_that_are_read_are_those_of_the_host(folder: Path, tmp_path: Path) -> None:
    """Four steps an epoch, each from one place in memory, which every step's are copied to."""
    options = {**COMMON, **from_files(tmp_path)}
    host, device = (trainer(folder, tmp_path, **options) for _ in range(2))
    assert host.loader.steps == 4
    steps, places = tabled(device), set()
    for run, made in ((host, host._steps_on_host), (device, steps.epoch)):
        for _ in range(3):
            torch.manual_seed(7)
            taken(run, made, 3)
            if steps._pictures is not None:
                places.update(one.data_ptr() for one in steps._pictures if one is not None)
    assert_same(host, device)
    assert len(places) == 1


def test_the_operations_of_a_step_and_their_numbers_are_the_same_at_every_step(
    folder: Path, tmp_path: Path
) -> None:
    """At the second step, in the middle of the warm-up, and in the third epoch."""
    fading = [
        {"name": "disturb-label"},
        {"name": "kd", "weight": 0.9, "weight_end": 0.1, "schedule": "linear"},
    ]
    options = {**COMMON, **DATA, "objective": fading, "ema": 0.9, "clip_grad": 1.0}
    run = trainer(folder, tmp_path, **options, teachers=["t0"])
    steps, texts = tabled(run), []
    for epoch, first in ((0, 0), (0, 1), (1, 2), (2, 5)):
        steps.table.load(epoch, first)
        steps.settings.load(epoch)
        number = epoch * run.loader.steps + first
        texts.append(record(lambda number=number: steps.body(number)).text())
    # The first makes gradients and figures that are not there before.
    assert texts[1] == texts[2] == texts[3]


def test_memory_that_a_step_changes_stays_where_it_is(folder: Path, tmp_path: Path) -> None:
    """Over the end of an epoch, and an epoch that is undone."""
    undone = {"objective": [{"name": "d2l", "turn_epoch": 1, "samples": 144, "batch": 144}]}
    run = trainer(folder, tmp_path, **{**COMMON, **DATA, **undone, "ema": 0.9})
    steps = tabled(run)
    run._steps = steps.epoch
    places: list[dict[str, int]] = []
    for _ in range(2):
        deque(run.epoch_steps(), maxlen=0)
        assert run.state.tally.sums is not None
        held = {**state_of(run), "figures": run.state.tally.sums, "rates": steps.settings.now_R}
        memory = run.adapters["d2l"]
        assert isinstance(memory, DimensionMemory)
        held["alpha"] = memory.alpha_on(torch.device("cpu"))
        places.append({name: value.data_ptr() for name, value in held.items()})
        run._end_epoch()
    assert memory.turn == 1
    assert 0 < float(held["alpha"]) < 1, "the second epoch trusts labels less"
    assert places[0] == places[1]


def rates_of_the_host(self: Settings, epoch: int) -> None:
    self.optimisation.settings(epoch * self.steps)


def rebound(
    self: MovingCentres, mean_KD: Tensor, present_K: Tensor, plain: Any = MovingCentres.forward
) -> tuple[Tensor, Tensor]:
    centre_KD, seen_K = self.centre_KD.clone(), self.seen_K.clone()
    self.centre_KD, self.seen_K = centre_KD, seen_K
    answer: tuple[Tensor, Tensor] = plain(self, mean_KD, present_K)
    return answer


def rebound_memory(
    self: AnswerMemory, probs_BK: Tensor, unlabelled_B: Tensor, plain: Any = AnswerMemory.update
) -> None:
    self.mean_K, self.certainty = self.mean_K.clone(), self.certainty.clone()
    plain(self, probs_BK, unlabelled_B)


def looking(self: CrossEntropy, step: Step, plain: Any = CrossEntropy.__call__) -> Terms:
    assert step.student.logits_BK.sum().item() < 1e9
    terms: Terms = plain(self, step)
    return terms


def masked(self: CrossEntropy, step: Step, plain: Any = CrossEntropy.__call__) -> Terms:
    logits_BK = step.student.logits_BK
    assert len(logits_BK[step.batch.target_B > 4]) >= 0
    terms: Terms = plain(self, step)
    return terms


@pytest.mark.parametrize(
    ("owner", "method", "fault", "name"),
    [
        (Settings, "load", rates_of_the_host, "ce"),
        (MovingCentres, "forward", rebound, "category-structure"),
        (AnswerMemory, "update", rebound_memory, "freematch"),
        (CrossEntropy, "__call__", looking, "ce"),
        (CrossEntropy, "__call__", masked, "ce"),
    ],
    ids=[
        *("a rate of the host", "a buffer that is rebound", "a memory that is rebound"),
        *("a look at a value", "a mask as index"),
    ],
)
def test_a_planted_fault_is_found(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    fault: Any,
    name: str,
) -> None:
    monkeypatch.setattr(owner, method, fault)
    with pytest.raises(AssertionError):
        check(folder, tmp_path, **objective_of(name))


def test_images_that_ask_networks_of_their_own_are_not_recorded(
    folder: Path, tmp_path: Path
) -> None:
    live = {"teachers": ["t0", "t1"], "mode": "random", "random_per": "sample"}
    run = trainer(folder, tmp_path, **COMMON, **DATA, objective="kd", **live)
    reason = unrecordable(run.update.teacher)
    assert reason is not None
    assert "a network of its own" in reason
