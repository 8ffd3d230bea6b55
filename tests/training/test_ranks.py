"""Any number of ranks follows the curve of one process: the same gradients up to rounding.

Each rank is a forked child, on the CPU. In fp64 every cast to fp32 on the way is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.objectives import OBJECTIVES, compose
from distill_cli.training import exchange
from distill_cli.training.exchange import Exchange
from distill_cli.training.loop import Trainer
from distill_cli.training.shared_draws import SharedDraws
from distill_cli.training.sync_norm import synced_norm
from distill_cli.types import UNLABELLED, Share
from tests.ranks import started
from tests.training.test_device_steps import (
    COMMON,
    DATA,
    SETTINGS,
    STEPS,
    TEACHERS,
    WAYS,
    assert_same,
    host_steps,
    objective_of,
    state_of,
    tabled,
    taken,
    trainer,
    with_files,
)
from tests.training.test_device_steps import folder as folder

# Batch norm over all ranks.
NETWORK: dict[str, Any] = {"model": "cifar_resnet8", "model_args": {}, "sync_bn": True}
CASES: dict[str, dict[str, Any]] = {
    **{f"objective {name}": objective_of(name) for name in (*OBJECTIVES, *SETTINGS)},
    **{f"way {name}": way for name, way in WAYS.items()},
    **{f"teacher {name}": {"objective": "kd", **kind} for name, kind in TEACHERS.items()},
    "batch norm": NETWORK,
    "attention": {
        "model": "vit_tiny_patch16_224",
        "model_args": {"img_size": 8, "patch_size": 4, "depth": 2, "drop_path_rate": 0.2},
        "dropout": 0.1,
    },
    "batch norm in parts": {**NETWORK, "accumulate": 2},
}
ORDINARY = [
    *(
        f"objective {name}"
        for name in ("kd", "rkd", "similarity", "category-structure", "freematch")
    ),
    *(f"objective {name}" for name in ("hint", "d2l", "dropmax", "dist")),
    *("batch norm in parts", "attention", "way mixed"),
]
Results = list[dict[str, dict[str, dict[str, Tensor]]]]
Plant = Callable[[pytest.MonkeyPatch], object]


def made(folder: Path, tmp_path: Path, name: str) -> Trainer:
    """The run of a case, of whose first batch the first half has no label: of two ranks, one has none."""
    options = with_files(folder, {**COMMON, **DATA, **CASES[name]})
    run = trainer(folder, tmp_path, **options)
    loader = run.loader
    if not loader.views.spec.mixes and loader.order_name == "shuffled":
        rows, _ = loader.order(0)
        loader.target_N = hidden(loader.target_N, rows[: loader.batch_size // 2])
        if loader.target_NK is not None:
            loader.target_NK = hidden(loader.target_NK, rows[: loader.batch_size // 2])
        loader.__post_init__()
    return run


def hidden(target_N: Tensor, rows: Tensor) -> Tensor:
    """Targets without the labels of some rows."""
    return target_N.index_fill(0, rows, UNLABELLED)


def widen(run: Trainer) -> None:
    """Has everything that is trained be in fp64."""
    run.network.double()
    run.adapters.double()
    if run.optimisation.ema is not None:
        run.optimisation.ema.module.double()
    for optimizer in run.optimisation.optimizers:
        optimizer.state.clear()
    run.optimisation.materialise()


def two_steps(run: Trainer) -> dict[str, dict[str, Tensor]]:
    """The gradients of the first, and all that training has changed after the second."""
    host_steps(run, 1)
    parameters = [*run.network.named_parameters(), *run.adapters.named_parameters()]
    gradients = {name: one.grad.clone() for name, one in parameters if one.grad is not None}
    host_steps(run, 1)
    return {"gradients": gradients, "state": state_of(run)}


def losses(run: Trainer) -> dict[str, dict[str, Tensor]]:
    """The mean loss of each 20 of 200 steps."""
    sums = []
    for _ in range(10):
        run.state.tally.clear()
        host_steps(run, 20)
        sums.append(run.state.tally.read()["loss"])
    return {"gradients": {"loss": torch.tensor(sums, dtype=torch.float64)}, "state": {}}


def by_ranks(
    folder: Path,
    tmp_path: Path,
    ranks: int,
    names: Sequence[str],
    *,
    wide: bool,
    does: Callable[[Trainer], dict[str, dict[str, Tensor]]] = two_steps,
    plant: Plant = lambda patch: None,
) -> Results:
    """What each rank has of each case.

    Args:
        folder: Teachers.
        tmp_path: An empty folder.
        ranks: Their number.
        names: The cases.
        wide: In fp64.
        does: What is done and kept of a run.
        plant: Plants a fault.
    """
    tmp_path.mkdir()

    def rank_does() -> None:
        torch.set_num_threads(1)
        number, results = os.environ["RANK"], {}
        for name in names:
            own = tmp_path / number / name
            own.mkdir(parents=True)
            run = made(folder, own, name)
            with pytest.MonkeyPatch.context() as patch:
                if wide:
                    widen(run)
                    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
                plant(patch)
                torch.manual_seed(7)
                results[name] = does(run)
        torch.save(results, tmp_path / f"{number}.pt")

    for child in started(ranks, rank_does):
        ended = child.end()
        assert ended.code == 0, ended.err.decode()
    return [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]


def differences(one: Results, several: Results, *, equal: bool = True) -> dict[str, float]:
    """The largest relative difference of a case's gradients, by parameter; all ranks are `equal`."""
    worst = {}
    for name, result in one[0].items():
        errors = [
            float((value - several[0][name]["gradients"][key]).norm())
            / max(float(value.norm()), 1e-30)
            for key, value in result["gradients"].items()
            # What is 0 but for rounding, as a bias before batch norm has, has no relative difference.
            if float(value.norm()) > 1e-12
        ]
        assert errors, name
        worst[name] = max(errors)
        for other in several[1:] if equal else ():
            for part in ("gradients", "state"):
                for key, value in several[0][name][part].items():
                    assert torch.equal(value, other[name][part][key]), (name, key)
    return worst


@pytest.mark.parametrize(
    ("ranks", "wide"),
    [
        (2, True),
        *(
            pytest.param(ranks, wide, marks=pytest.mark.slow)
            for ranks, wide in ((3, True), (4, True), (2, False), (3, False), (4, False))
        ),
    ],
)
def test_gradients_of_everything(folder: Path, tmp_path: Path, ranks: int, wide: bool) -> None:
    """Every objective, way of stepping and kind of teacher; dropout, mixed and unlabelled images too."""
    # Two ranks in the ordinary suite: whatever looks at the other rows of a batch, or keeps something from one
    # to the next. What takes each row by itself, teachers and ways are in the slow cases.
    named = list(CASES) if (ranks, wide) != (2, True) else ORDINARY
    one = by_ranks(folder, tmp_path / "1", 1, named, wide=wide)
    several = by_ranks(folder, tmp_path / str(ranks), ranks, named, wide=wide)
    worst = differences(one, several)
    bound = 1e-10 if wide else 1e-5
    assert {name: error for name, error in worst.items() if error > bound} == {}


@pytest.mark.parametrize(
    ("ranks", "name"),
    [
        pytest.param(2, "objective kd", marks=pytest.mark.slow),
        *(
            pytest.param(ranks, name, marks=pytest.mark.slow)
            for ranks in (3, 4)
            for name in ("objective kd", "objective category-structure", "batch norm")
        ),
    ],
)
def test_losses_over_200_steps(folder: Path, tmp_path: Path, ranks: int, name: str) -> None:
    one, several = (
        by_ranks(folder, tmp_path / str(count), count, [name], wide=True, does=losses)
        for count in (1, ranks)
    )
    assert differences(one, several)[name] < 1e-8


def local_count(patch: pytest.MonkeyPatch) -> None:
    plain, ranks = compose.mean_over, int(os.environ["WORLD_SIZE"])
    patch.setattr(compose, "mean_over", lambda term, batch: plain(term, batch) * ranks)


def local_loss(patch: pytest.MonkeyPatch) -> None:
    """Each rank's of its own rows, divided by the whole count."""
    ranks = int(os.environ["WORLD_SIZE"])
    patch.setattr(Exchange, "joined", lambda self, student, teacher, part: (student, teacher, part))
    if ranks > 1:
        plain = compose.mean_over
        patch.setattr(compose, "mean_over", lambda term, batch: plain(term, batch) / ranks)


def own_draws(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharedDraws, "of", lambda self, samples: nullcontext())


def own_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(exchange, "SyncedNorm", lambda ranks: nullcontext())


def all_adapters(patch: pytest.MonkeyPatch) -> None:
    """Gradients of adapters are counted on every rank."""
    plain = Exchange.reduce

    def multiplied(self: Exchange, optimizers: Any) -> None:
        plain(self, optimizers)
        for parameter in self.adapters.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.ranks.count

    patch.setattr(Exchange, "reduce", multiplied)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("objective ce", local_count),
        ("objective similarity", local_loss),
        ("objective ce", own_draws),
        pytest.param("objective dist", local_loss, marks=pytest.mark.slow),
        pytest.param("batch norm", own_norm, marks=pytest.mark.slow),
        pytest.param("objective hint", all_adapters, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_fault_is_seen(folder: Path, tmp_path: Path, name: str, fault: Plant) -> None:
    one = by_ranks(folder, tmp_path / "1", 1, [name], wide=True)
    several = by_ranks(folder, tmp_path / "2", 2, [name], wide=True, plant=fault)
    assert differences(one, several, equal=False)[name] > 1e-3


@pytest.mark.slow
def test_tables_on_the_device_are_shared_out_too(folder: Path, tmp_path: Path) -> None:
    """A rank's steps from tables are those that its host makes, to the bit."""
    tmp_path.joinpath("ranks").mkdir()

    def rank_does() -> None:
        torch.set_num_threads(1)
        own = tmp_path / "ranks" / os.environ["RANK"]
        own.mkdir()
        for number, options in enumerate(({}, WAYS["mixed"], WAYS["accumulated"], NETWORK)):
            inner = own / str(number)
            inner.mkdir()
            runs = [trainer(folder, inner, **{**COMMON, **DATA, **options}) for _ in range(2)]
            for run, steps in zip(
                runs, (runs[0]._steps_on_host, tabled(runs[1]).epoch), strict=True
            ):
                torch.manual_seed(7)
                taken(run, steps, STEPS // 2)
            assert_same(*runs)

    for child in started(2, rank_does):
        ended = child.end()
        assert ended.code == 0, ended.err.decode()


def test_shares_of_a_batch() -> None:
    """Joined by rank, the shares of a part are the part."""
    column = torch.arange(24)
    for ranks, parts in ((2, 1), (3, 2), (4, 3), (1, 4)):
        shares = [Share(rank=rank, ranks=ranks, parts=parts).of(column) for rank in range(ranks)]
        joined = torch.cat([share.view(parts if ranks > 1 else 1, -1) for share in shares], dim=1)
        assert torch.equal(joined.flatten(), column)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 5)])
def test_synced_norm_is_batch_norm_of_all_rows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """In fp64 to 1e-12, running statistics and all gradients too; inputs far from zero."""

    def rank_does() -> None:
        from distill_cli.ranks import join

        torch.set_num_threads(1)
        ranks = join(torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        whole = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 100
        weight, bias = torch.rand(2, shape[1], generator=generator, dtype=torch.float64)
        upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
        rows = slice(ranks.number * 3, ranks.number * 3 + 3)
        answers = []
        for part, own in ((slice(None), False), (rows, True)):
            inputs = [one.clone().requires_grad_() for one in (whole[part], weight, bias)]
            running = torch.zeros(shape[1]).double(), torch.ones(shape[1]).double()
            if own:
                out = synced_norm(
                    inputs[0],
                    *running,
                    *inputs[1:],
                    training=True,
                    momentum=0.1,
                    eps=1e-5,
                    ranks=ranks,
                )
            else:
                out = F.batch_norm(inputs[0], *running, *inputs[1:], training=True)
            out.backward(upstream[part])
            answers.append((out.detach(), *running, *(one.grad for one in inputs)))
        (out, mean, var, x, w, b), (own_out, own_mean, own_var, own_x, own_w, own_b) = answers
        for gradient in (own_w, own_b):
            ranks.add(gradient)
        pairs = [(out[rows], own_out), (mean, own_mean), (var, own_var), (x[rows], own_x)]
        for expected, value in (*pairs, (w, own_w), (b, own_b)):
            assert float((expected - value).abs().max()) < 1e-12 * max(
                1, float(expected.abs().max())
            )

    for child in started(2, rank_does):
        ended = child.end()
        assert ended.code == 0, ended.err.decode()
