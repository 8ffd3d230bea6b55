"""How weights move: parts of a batch, averages, bounds, layers, precisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_cli import runtime
from distill_cli.models.heads import GatedClassifier
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.kd import KnowledgeDistillation
from distill_cli.objectives.label_smoothing import LabelSmoothing
from distill_cli.teachers.signals import DenseSignals
from distill_cli.training import optim
from distill_cli.training.optimisation import Optimisation, moving_average
from distill_cli.training.tally import Tally
from distill_cli.types import Batch, Mixing, Progress, StudentSignals
from tests.conftest import Outcome
from tests.saved import weights

Distill = Callable[..., Outcome]
HERE = runtime.decide("cpu")


def batch(size: int, seed: int, *, mixed: bool) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    target_B = torch.randint(-1, 5, (size,), generator=generator)
    mixing = None
    if mixed:
        share_B = torch.rand(size, generator=generator, dtype=torch.float64)
        mixing = Mixing(share_B=share_B, target_B=torch.randint(0, 5, (size,), generator=generator))
    return Batch(
        images_BCHW=torch.randn(size, 1, 2, 3, generator=generator, dtype=torch.float64),
        target_B=target_B,
        index_B=torch.arange(size),
        view_B=torch.zeros(size, dtype=torch.int64),
        step=0,
        mixing=mixing,
    )


@given(st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_parts_of_a_batch_sum_to_its_loss_and_gradient(
    size: int, parts: int, mixed: bool, seed: int
) -> None:
    """Unlabelled samples are spread unevenly over the parts; fp64, no batch norm."""
    torch.manual_seed(seed)
    net, teacher = (nn.Linear(6, 5, dtype=torch.float64) for _ in range(2))
    composition = Composition(
        tuple(
            Weighted(objective=objective, weight=Weight(start=weight))
            for objective, weight in (
                (LabelSmoothing(epsilon=0.1), 0.3),
                (KnowledgeDistillation(), 0.7),
            )
        )
    )
    whole = batch(size, seed, mixed=mixed)
    progress = Progress(epoch=0, step=0, total_steps=1)
    losses, gradients = [], []
    for count in (1, parts):
        net.zero_grad()
        total = 0.0
        for part in whole.split(count):
            flat = part.images_BCHW.flatten(1)
            with torch.no_grad():
                said = DenseSignals(teacher(flat))
            loss = composition(StudentSignals(logits=net(flat)), said, part, progress)
            loss.total.backward()
            total += float(loss.total)
        losses.append(total)
        gradients.append(net.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)


@given(st.integers(1, 50), st.integers(1, 60))
def test_a_batch_splits_into_all_its_samples(size: int, parts: int) -> None:
    whole = batch(size, 0, mixed=True)
    pieces = list(whole.split(parts))
    assert len(pieces) <= parts
    assert torch.equal(torch.cat([piece.index_B for piece in pieces]), whole.index_B)
    assert torch.equal(torch.cat([piece.mixing.share_B for piece in pieces]), whole.mixing.share_B)
    assert all(piece.samples == size for piece in pieces)
    assert all(int(piece.labelled) == int(whole.labelled) for piece in pieces)


@given(st.integers(1, 20), st.integers(0, 99))
def test_mixed_labels_equal_the_loss_against_the_mixed_target(size: int, seed: int) -> None:
    mixed = batch(size, seed, mixed=True)
    labelled = mixed.target_B >= 0
    logits = torch.randn(size, 5, generator=torch.Generator().manual_seed(seed)).double()
    part = Weighted(objective=CrossEntropy(), weight=Weight(start=1.0))
    loss = Composition((part,))(
        StudentSignals(logits=logits), None, mixed, Progress(epoch=0, step=0, total_steps=1)
    )
    share = mixed.mixing.share_B[:, None]
    soft = share * F.one_hot(mixed.target_B.clamp(min=0), 5)
    soft = soft + (1 - share) * F.one_hot(mixed.mixing.target_B, 5)
    expected = -(soft * logits.log_softmax(-1)).sum(-1)[labelled]
    wanted = float(expected.mean()) if labelled.any() else 0.0
    assert float(loss.total) == pytest.approx(wanted, abs=1e-9)


def updates(net: nn.Module, **options: object) -> Optimisation:
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    return Optimisation(
        optimizer=optimizer, schedule=None, runtime=HERE, scaler=HERE.scaler(), **options
    )


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_gradients_are_bounded(mode: str) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    (net(torch.full((1, 3), 100.0)).sum() * 100).backward()
    head = net[1].weight.grad.clone()
    updates(net, clip_grad=0.5, clip_mode=mode).clip(net)
    grads = torch.cat([p.grad.flatten() for p in net.parameters()])
    if mode == "norm":
        assert float(grads.norm()) == pytest.approx(0.5, rel=1e-4)
    elif mode == "value":
        assert float(grads.abs().max()) == pytest.approx(0.5)
    else:
        ratio = net[0].weight.grad.norm(dim=1) / net[0].weight.norm(dim=1)
        assert (ratio <= 0.5 * 1.001).all()
        assert torch.equal(net[1].weight.grad, head), "the classifier is left out"


def test_gates_are_of_the_classifier_that_agc_leaves_out() -> None:
    net = nn.Sequential(nn.Linear(3, 2), GatedClassifier(nn.Linear(2, 2)))
    (net(torch.full((1, 3), 100.0)) * torch.tensor([100.0, -70.0])).sum().backward()
    before = {
        name: each.grad.clone() for name, each in net.named_parameters() if each.grad is not None
    }
    updates(net, clip_grad=0.01, clip_mode="agc").clip(net)
    for name, each in net.named_parameters():
        if each.grad is not None:
            assert torch.equal(each.grad, before[name]) == name.startswith("1."), name


def test_without_a_bound_gradients_are_left_alone() -> None:
    net = nn.Linear(3, 2)
    (net(torch.ones(1, 3)).sum() * 100).backward()
    updates(net).clip(net)
    assert float(net.weight.grad.max()) == 100


def test_the_average_is_the_recursion(distill: Distill, here: Path) -> None:
    net = nn.Linear(2, 2, bias=False)
    average = moving_average(net, 0.9)
    expected = net.weight.detach().clone()
    for step in range(60):
        with torch.no_grad():
            net.weight.normal_()
        average.update(net, step=step + 1)
        decay = 0.0 if step == 0 else min(0.9, 1 - (1 + step) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * net.weight.detach()
        assert torch.allclose(average.module.weight, expected, atol=1e-6)


def test_layer_decay_and_no_decay_groups_are_timms() -> None:
    import timm

    net = timm.create_model("test_vit", num_classes=3)
    optimizer = optim.create_optimizer(
        net, "adamw", rate=1.0, weight_decay=0.1, momentum=0.9, layer_decay=0.5
    )
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert max(scales) == 1
    assert min(scales) < 0.2
    by_id = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert by_id[id(net.head.weight)] == (1, 0.1)
    assert by_id[id(net.pos_embed)][1] == 0, "the network itself exempts it"
    assert by_id[id(net.head.bias)][1] == 0
    assert by_id[id(net.patch_embed.proj.weight)][0] == min(scales)


def test_fused_kernels_are_taken_where_they_are() -> None:
    net = nn.Linear(2, 2)
    for name in ("sgd", "adamw"):
        made = optim.create_optimizer(net, name, rate=0.1, weight_decay=0.1, momentum=0.9)
        assert made.defaults["fused"] is True
    optim.create_optimizer(net, "lamb", rate=0.1, weight_decay=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("has", "expected"),
    [({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_auto_precision_is_decided_by_capability(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    here = runtime.decide("cpu", precision="auto")
    assert here.precision == expected
    wide = torch.channels_last if expected == "bf16" else torch.contiguous_format
    assert here.memory_format == wide


def test_autocast_is_for_the_forward_only() -> None:
    here = runtime.decide("cpu", precision="bf16")
    net = nn.Linear(4, 2)
    with here.autocast():
        assert net(torch.zeros(1, 4)).dtype == torch.bfloat16
    assert net.weight.dtype == torch.float32
    assert net(torch.zeros(1, 4)).dtype == torch.float32


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=130),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_a_tally_is_the_sum_of_what_was_noted(sizes: list[int], stop: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tally, hits, losses = Tally(), 0.0, 0.0
    for number, size in enumerate(sizes):
        logits, target = torch.randn(size, 3, generator=generator), torch.arange(size) % 3
        loss = torch.rand((), generator=generator)
        shown = Batch(
            images_BCHW=torch.zeros(size, 1, 2, 2),
            target_B=target,
            index_B=torch.arange(size),
            view_B=torch.zeros(size, dtype=torch.int64),
            step=number,
        )
        tally.note(logits, shown, {"loss": loss})
        hits += float((logits.argmax(-1) == target).double().mean())
        losses += float(loss)
        if number % stop == 0:
            restored = Tally()
            restored.load_state_dict(tally.state_dict())
            tally = restored
    assert tally.read() == pytest.approx({"top1": hits, "loss": losses}, abs=1e-5)


RUN = (
    *("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--epochs", 2, "-b", 128),
    "--quiet",
)


def flat(run: Path) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in weights(run).values()])


# bf16 rounds the gradient of each part to 2⁻⁹ of itself.
@pytest.mark.parametrize(
    ("precision", "share"), [("fp32", 1e-5), pytest.param("bf16", 0.03, marks=pytest.mark.slow)]
)
def test_accumulation_changes_nothing_but_memory(
    distill: Distill, here: Path, precision: str, share: float
) -> None:
    """Of the way that the weights went, as good as nothing is owed to the parts of a batch."""
    run = (*RUN, "--precision", precision, "--out")
    assert distill(*run, "start", "--lr", 1e-12).code == 0
    for parts in (1, 3, 128):
        assert distill(*run, f"r{parts}", "--accumulate", parts).code == 0
    way = (flat(here / "r1") - flat(here / "start")).norm()
    assert way > 1
    for parts in (3, 128):
        apart = (flat(here / "r1") - flat(here / f"r{parts}")).norm() / way
        assert apart < share


def test_the_average_is_what_is_saved(distill: Distill, here: Path) -> None:
    assert distill(*RUN, "--out", "plain").code == 0
    assert distill(*RUN, "--ema", 0.99, "--out", "averaged").code == 0
    kept = torch.load(here / "averaged/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "parts"
    ]
    plain = torch.load(here / "plain/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "parts"
    ]
    for name, value in plain["network"].items():
        assert torch.equal(value, kept["network"][name]), "averaging does not change training"
    saved = weights(here / "averaged")
    assert any(
        not torch.equal(value, kept["network"][f"net.{name}"]) for name, value in saved.items()
    )
    assert all(torch.equal(value, kept["ema"][f"net.{name}"]) for name, value in saved.items())


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
def test_low_precision_learns_as_well(distill: Distill, here: Path, precision: str) -> None:
    import json

    common = ("teacher", "train", "--data", "digits", "--model", "mlp_64x1", "--epochs", 15)
    errors = []
    for name in ("fp32", precision):
        outcome = distill(*common, "--precision", name, "--lr", 0.2, "--out", name, "--quiet")
        assert outcome.code == 0, outcome.err
        errors.append(json.loads((here / name / "result.json").read_text())["test_errors"])
    assert all(value.dtype == torch.float32 for value in weights(here / precision).values())
    assert abs(errors[0] - errors[1]) <= 12
    again = distill(*common, "--precision", precision, "--lr", 0.2, "--out", "again", "--quiet")
    assert again.code == 0
    for name, value in weights(here / precision).items():
        assert torch.equal(value, weights(here / "again")[name])


@pytest.mark.slow
def test_channels_last_weights_are_saved_plain(distill: Distill, here: Path) -> None:
    outcome = distill(
        *("teacher", "train", "--data", "digits", "--model", "cifar_resnet8", "--epochs", 1),
        *("--precision", "bf16", "--ema", 0.9, "--out", "r", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    assert all(value.is_contiguous() for value in weights(here / "r").values())
    assert distill("evaluate", "r", "--json").code == 0


def test_deterministic_runs(distill: Distill, here: Path) -> None:
    try:
        assert distill(*RUN, "--set", "deterministic=true", "--out", "r").code == 0
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_a_compiled_network_trains_and_saves_as_plain(distill: Distill, here: Path) -> None:
    assert distill(*RUN, "--compile", "--ema", 0.9, "--out", "compiled").code == 0
    assert distill(*RUN, "--ema", 0.9, "--out", "plain").code == 0
    for name, value in weights(here / "plain").items():
        assert torch.allclose(value, weights(here / "compiled")[name], atol=1e-4)
