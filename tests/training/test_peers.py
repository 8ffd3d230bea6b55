"""Networks that are trained along, against loops by hand: fp32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.peer_options import PeerSettings
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.training.events import Silent
from distill_cli.training.loop import Trainer
from tests.training.test_device_steps import taken

COMMON: dict[str, Any] = {
    "data": "digits",
    "model": "cifar_resnet8",
    "batch_size": 40,
    "epochs": 3,
    "warmup_epochs": 0,
    "sched": "constant",
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "seed": 4,
    "device": "cpu",
    "precision": "fp32",
}
STEPS = 4


def begun(tmp_path: Path, **options: Any) -> Trainer:
    """A run that is about to take its first step."""
    out = tmp_path / str(len(list(tmp_path.iterdir())))
    out.mkdir()
    recipe = StudentRecipe(out=str(out), **{**COMMON, **options})
    made = trainer_of(prepare(recipe, sink=Silent(), overwrite=True), Silent())
    made.start(resume=False)
    made.network.train()
    torch.manual_seed(5)
    return made


def networks(run: Trainer) -> list[torch.nn.Module]:
    """The student, then the others."""
    return [run.network, *(peer.network for peer in run.optimisation.peers)]


def by_hand(run: Trainer, losses_of: Any, rates: list[float]) -> None:
    """Steps of SGD with Nesterov momentum, of each network on its own loss."""
    nets = networks(run)
    parameters = [list(net.parameters()) for net in nets]
    velocity = [[torch.zeros_like(p) for p in own] for own in parameters]
    for net in nets:
        net.train()
    for batch in list(run.loader.epoch(0))[:STEPS]:
        logits = [net(batch.images_BCHW) for net in nets]
        losses = losses_of(logits, batch.target_B)
        # Each loss by itself, so that what is not isolated would show.
        gradients = [
            torch.autograd.grad(loss, own, retain_graph=True)
            for loss, own in zip(losses, parameters, strict=True)
        ]
        with torch.no_grad():
            for own, moved, grads, rate in zip(parameters, velocity, gradients, rates, strict=True):
                for parameter, moving, gradient in zip(own, moved, grads, strict=True):
                    moving.mul_(0.9).add_(gradient)
                    parameter.sub_(rate * (gradient + 0.9 * moving))


def kl(teacher: Tensor, logits: Tensor) -> Tensor:
    """KL(teacher ‖ student), mean over the batch; the teacher is constant."""
    return F.kl_div(logits.log_softmax(1), teacher.detach().softmax(1), reduction="batchmean")


def scheme_a(logits: list[Tensor], target: Tensor) -> list[Tensor]:
    """α·CE(y, p^T), and β·CE(y, p^A) + γ·CE(p^T, p^A): α = 1, β = γ = ½ (arXiv 1711.05852, equation 1)."""
    student, teacher = logits
    soft = -(teacher.detach().softmax(1) * student.log_softmax(1)).sum(1).mean()
    return [
        0.5 * F.cross_entropy(student, target) + 0.5 * soft,
        F.cross_entropy(teacher, target),
    ]


def mutual(logits: list[Tensor], target: Tensor) -> list[Tensor]:
    """CE plus the mean of the KLs from all others (arXiv 1706.00384, equations 4 and 7)."""
    losses = []
    for number, own in enumerate(logits):
        others = [one for place, one in enumerate(logits) if place != number]
        hard = F.cross_entropy(own, target)
        losses.append(hard + sum(kl(other, own) for other in others) / len(others))
    return losses


CASES = {
    "A": (
        {"teachers": ["peer:mlp_32x1"], "temperature": 1.0, "alpha": 0.5},
        scheme_a,
        [0.05, 0.05],
    ),
    "A, a rate of its own": (
        {
            "teachers": ["peer:t=cifar_resnet8"],
            "temperature": 1.0,
            "alpha": 0.5,
            "peer": {"t": PeerSettings(lr=0.02)},
        },
        scheme_a,
        [0.05, 0.02],
    ),
    "two": ({"teachers": ["peer:cifar_resnet8"], "mutual": True}, mutual, [0.05, 0.05]),
    "three": (
        {"teachers": ["peer:a=mlp_32x1", "peer:b=mlp_32x1"], "mutual": True},
        mutual,
        [0.05, 0.05, 0.05],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_a_loop_by_hand(tmp_path: Path, name: str) -> None:
    """The student, and every network beside it, with batch norm and its buffers."""
    options, losses_of, rates = CASES[name]
    ours, hand = begun(tmp_path, **options), begun(tmp_path, **options)
    taken(ours, ours._steps_on_host, STEPS)
    by_hand(hand, losses_of, rates)
    for one, other in zip(networks(ours), networks(hand), strict=True):
        for key, value in one.state_dict().items():
            torch.testing.assert_close(
                value,
                other.state_dict()[key],
                rtol=2e-4,
                atol=2e-5,
                msg=lambda text, k=key: f"{k}: {text}",
            )


def test_a_network_beside_it_learns_as_one_alone(tmp_path: Path) -> None:
    """Scheme A moves the teacher by its hard labels only: whatever the student is, to the bit."""
    runs = [
        begun(tmp_path, teachers=["peer:mlp_32x1"], model=model, temperature=1.0, alpha=alpha)
        for model, alpha in (("cifar_resnet8", 0.5), ("mlp_16x1", 0.99))
    ]
    for run in runs:
        taken(run, run._steps_on_host, STEPS)
    one, other = (run.optimisation.peers[0].network.state_dict() for run in runs)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_networks_of_one_kind_begin_at_different_weights(tmp_path: Path) -> None:
    run = begun(tmp_path, model="mlp_32x1", teachers=["peer:a=mlp_32x1", "peer:b=mlp_32x1"])
    first = [next(net.parameters()) for net in networks(run)]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_a_bound_is_of_each_network_by_itself(tmp_path: Path) -> None:
    run = begun(tmp_path, teachers=["peer:mlp_32x1"], clip_grad=1e-3)
    taken(run, run._steps_on_host, 1)
    for network in networks(run):
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        assert float(norm) == pytest.approx(1e-3, rel=1e-2)
