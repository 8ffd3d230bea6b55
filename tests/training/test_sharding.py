"""Weights in parts on two ranks: what two ranks with whole weights train, and half of it on each.

Each rank is a forked child, on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

# Children have imported what this process has.
import torch
import torch.distributed.fsdp
from torch import Tensor

from distill_cli.data import open_splits
from distill_cli.errors import DivergedError, UsageError
from distill_cli.models import InputSpec, Network, create_network, save_model
from distill_cli.models.sharded import shard
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.sharded import check_shard, sharded
from distill_cli.ranks import Ranks, join
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.schema import HintRecipe, StudentRecipe, TeacherRecipe
from distill_cli.runtime import Precision, Runtime, Shard
from distill_cli.sharding import is_sharded, local, whole
from distill_cli.training.events import Silent
from distill_cli.training.loop import Trainer
from tests.ranks import started
from tests.training.test_device_steps import COMMON, DATA, host_steps, trainer

STEPS = 50
TAUGHT: dict[str, Any] = {"teachers": ["t0"], "objective": "kd"}
CONVOLUTIONS: dict[str, Any] = {"model": "cifar_resnet8", "model_args": {}, "lr": 0.02}
# What is trained, and which networks lie in parts.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "student and teacher": ("both", {**TAUGHT, "clip_grad": 0.5}),
}
SLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher": ("teachers", {**TAUGHT, "mode": "ensemble", "teachers": ["t0", "t1"]}),
    "clipped by value": ("student", {"clip_grad": 0.01, "clip_mode": "value"}),
    "adamw, accumulated": ("student", {"opt": "adamw", "lr": 0.001, "accumulate": 2}),
    "convolutions": ("both", {**TAUGHT, **CONVOLUTIONS}),
    "convolutions, one batch norm": ("student", {**CONVOLUTIONS, "sync_bn": True}),
    # An adapter that is trained, gates of the classifier, and its bias, which is looked at.
    "hints": ("both", {**TAUGHT, **CONVOLUTIONS, "objective": "kd,hint", "teachers": ["t0"]}),
    # Its draws of classes follow the gates: at a larger rate rounding grows from step to step.
    "gates": ("student", {**CONVOLUTIONS, "objective": "dropmax", "lr": 0.001}),
    "norms": ("both", {**TAUGHT, **CONVOLUTIONS, "objective": "feature-norm-kd"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, `t0` and `t1`, that are trained on nothing."""
    # Children have read what this process has.
    open_splits._digits()
    root = tmp_path_factory.mktemp("teachers")
    for number in range(2):
        torch.manual_seed(number)
        names = tuple(str(digit) for digit in range(10))
        view = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.4,))
        save_model(create_network("mlp_32x1", class_names=names, view=view), root / f"t{number}")
    return root


def weights(run: Trainer) -> dict[str, Tensor]:
    """Everything that training changes in the network and the adapters, whole."""
    state = {**run.network.state_dict(), **run.adapters.state_dict()}
    return {
        name: whole(value).clone() for name, value in state.items() if isinstance(value, Tensor)
    }


def held(tensors: list[Tensor]) -> tuple[int, int]:
    """Bytes of tensors on this rank, and of all of them."""
    return (
        sum(local(one).numel() * one.element_size() for one in tensors),
        sum(one.numel() * one.element_size() for one in tensors),
    )


def trained(folder: Path, root: Path, cases: dict[str, Any]) -> Callable[[], None]:
    """What a rank does: each case in whole weights and in parts, kept."""

    def does() -> None:
        torch.set_num_threads(1)
        found: dict[str, Any] = {}
        for name, (networks, options) in cases.items():
            runs, states = [], []
            for kind in ("none", networks):
                own = root / os.environ["RANK"] / name / kind
                own.mkdir(parents=True)
                run = trainer(folder, own, **{**COMMON, **DATA, **options, "shard": kind})
                host_steps(run, STEPS)
                runs.append(weights(run))
                # Those of adapters, which are small, lie whole on every rank.
                adapters = {id(one) for one in run.adapters.parameters()}
                state = run.optimisation.optimizer.state.items()
                of_network = [values for one, values in state if id(one) not in adapters]
                states.append(
                    sum(v.nbytes for values in of_network for v in values.values() if v.ndim)
                )
            found[name] = {
                "weights": runs,
                "parameters": held(list(run.network.parameters())),
                "states": states,
            }
            if networks != "teachers":
                check_fault(run, everywhere=bool(options.get("sync_bn")))
        torch.save(found, root / f"{os.environ['RANK']}.pt")

    return does


def check_fault(run: Trainer, *, everywhere: bool) -> None:
    """A NaN in what rank 1 sees moves no weight of any rank, and all name it."""
    before = weights(run)
    batch = next(run.loader.epoch(run.state.epoch, first=run.state.step))
    if os.environ["RANK"] == "1":
        batch.images_BCHW[0] = float("nan")
    # One batch norm over both shows it to rank 0 too.
    on = "ranks 0, 1" if everywhere else "rank 1"
    with pytest.raises(DivergedError, match=f"on {on} of 2, and no weight has moved"):
        run.train_step(batch)
    after = weights(run)
    # Batch norm has counted the batch that it saw.
    of_norms = ("running_mean", "running_var", "num_batches_tracked")
    kept = {name: value for name, value in before.items() if not name.endswith(of_norms)}
    assert all(torch.equal(value, after[name]) for name, value in kept.items())


def compare(folder: Path, root: Path, cases: dict[str, tuple[str, dict[str, Any]]]) -> None:
    for child in started(2, trained(folder, root, cases)):
        ended = child.end()
        assert ended.code == 0, ended.err.decode()
    ranks = [torch.load(root / f"{rank}.pt") for rank in range(2)]
    for name, (networks, _) in cases.items():
        plain, parts = ranks[0][name]["weights"]
        assert plain.keys() == parts.keys()
        for key, value in plain.items():
            error = float((value.double() - parts[key].double()).norm())
            assert error <= 1e-6 * float(value.double().norm()) + 1e-9, (name, key)
        for result in ranks:
            assert all(torch.equal(result[name]["weights"][1][key], parts[key]) for key in parts)
            here, everywhere = result[name]["parameters"]
            all_state, own_state = result[name]["states"]
            if networks == "teachers":
                assert (here, own_state) == (everywhere, all_state)
            else:
                assert 0.45 < here / everywhere < 0.55
                assert 0.45 < own_state / all_state < 0.55


@pytest.mark.slow
def test_two_ranks_in_parts_equal_two_in_whole(folder: Path, tmp_path: Path) -> None:
    compare(folder, tmp_path, CASES)


@pytest.mark.slow
def test_every_kind_of_network_and_adapter(folder: Path, tmp_path: Path) -> None:
    compare(folder, tmp_path, SLOW)


NETWORKS: dict[str, dict[str, Any]] = {
    "cifar_resnet20": {},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3},
    # Weights that are scalars, which nobody can cut.
    "test_nfnet": {"skipinit": True},
}


def network(name: str) -> Network:
    torch.manual_seed(0)
    names = tuple(str(digit) for digit in range(10))
    view = InputSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    return create_network(name, class_names=names, view=view, args=NETWORKS[name]).eval()


def gradients_in_parts() -> None:
    """What a rank does: gradients of each network, in parts and whole."""
    torch.set_num_threads(1)
    ranks = join(torch.device("cpu"))
    for name in NETWORKS:
        plain, parts = network(name), shard(network(name), torch.device("cpu"))
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        plain(images).square().mean().backward()
        # Its share of the mean over all.
        (parts(images[2 * ranks.number :][:2]).square().sum() / 40).backward()
        held_here = 0
        for (key, weight), whole_weight in zip(
            parts.named_parameters(), plain.parameters(), strict=True
        ):
            assert weight.grad is not None, key
            gradient = whole(weight.grad).clone()
            if not is_sharded(weight):
                ranks.add(gradient)
            torch.testing.assert_close(gradient, whole_weight.grad, atol=1e-6, rtol=1e-4)
            held_here += local(weight).numel()
        assert 0.45 < held_here / plain.num_params < 0.55, name
        kinds = {type(module).__name__ for module in parts.net.modules()}
        assert sum(kind.startswith("FSDP") for kind in kinds) > 1, "blocks are gathered one by one"


@pytest.mark.slow
def test_gradients_of_any_network() -> None:
    for child in started(2, gradients_in_parts):
        ended = child.end()
        assert ended.code == 0, ended.err.decode()


Asked = tuple[type[TrainRecipe], dict[str, Any], Shard, Precision, str]
REFUSED: dict[str, Asked] = {
    "ema": (TeacherRecipe, {"ema": 0.9}, "student", "fp32", "--ema do not go"),
    "agc": (TeacherRecipe, {"clip_mode": "agc"}, "student", "fp32", "clip_mode agc do not go"),
    "compile": (TeacherRecipe, {"compile": True}, "student", "fp32", "--compile do not go"),
    "fp16": (TeacherRecipe, {}, "student", "fp16", "choose bf16 or fp32"),
    "hints": (HintRecipe, {"teachers": ["t"]}, "both", "fp32", "--shard teachers goes"),
    "no teachers": (TeacherRecipe, {}, "teachers", "fp32", "nothing to share out"),
    "a teacher an image": (
        StudentRecipe,
        {"teachers": ["t", "u"], "mode": "random", "random_per": "sample"},
        "teachers",
        "fp32",
        "--random-per sample do not go",
    ),
    "a copy a teacher": (
        StudentRecipe,
        {"teachers": ["t", "u"], "mode": "relabel"},
        "teachers",
        "fp32",
        "--mode relabel do not go",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_beside_it(name: str) -> None:
    kind, options, shards, precision, words = REFUSED[name]
    recipe = kind(shard=shards, **options)
    runtime = Runtime(
        device=torch.device("cpu"),
        threads=1,
        deterministic=False,
        precision=precision,
        ranks=Ranks(0, 2),
        shard=shards,
    )
    with pytest.raises(UsageError, match=words):
        check_shard(recipe, options.get("teachers", []), runtime)
    check_shard(kind(**options), options.get("teachers", []), runtime)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opt": "lamb"}, "--opt lamb do not go together: it looks at whole weights"),
        ({"objective": "d2l"}, "objective 'd2l' do not go together: it undoes epochs"),
    ],
)
def test_refused_once_the_run_is_known(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    recipe = TeacherRecipe(out=str(tmp_path / "a"), **{**COMMON, **DATA, **options})
    prepared = prepare(recipe, sink=Silent())
    runtime = replace(prepared.runtime, ranks=Ranks(0, 2), shard="student")
    with pytest.raises(UsageError, match=words):
        sharded(replace(prepared, runtime=runtime))
