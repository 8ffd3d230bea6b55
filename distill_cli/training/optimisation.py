"""Optimisation of a student's weights; the loop alone moves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from timm.utils.clip_grad import dispatch_clip_grad
from torch import Tensor, nn

from distill_cli.models import Network
from distill_cli.models.heads import classifier_of
from distill_cli.runtime import Runtime
from distill_cli.training.checkpoint import Stateful
from distill_cli.training.optim import materialise
from distill_cli.training.peers import Peer, Schedules
from distill_cli.training.rollback import Rollback
from distill_cli.training.sharded import ShardedState, ShardedWeights

ClipMode = Literal["norm", "value", "agc"]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """All that stands between a gradient and the weights.

    Attributes:
        optimizer: Optimiser of the student's parameters, and of adapters that share it.
        adapter_optimizers: Optimisers of adapters that have one of their own, by name.
        schedule: Sets its learning rate of a step: `step_update(step)`.
        runtime: Device and precision of the forward.
        scaler: Scaler of the loss, for fp16.
        accumulate: Parts in which a batch goes forward and backward before its one step.
        clip_grad: Bound of the gradient; None for none.
        clip_mode: Bound on its norm, each value, or each unit's norm against its weights' (AGC,
            Brock et al. 2021, arXiv 2102.06171).
        ema: Moving average of the weights, which then is what is evaluated and saved.
        rollback: The end of the epoch before; None where no epoch is ever undone.
        weights: The student's, where they lie in parts on several ranks; else None.
        peers: Networks that are trained along, each with its optimiser.
    """

    optimizer: torch.optim.Optimizer
    schedule: Scheduler | Schedules
    runtime: Runtime
    scaler: torch.amp.GradScaler
    accumulate: int = 1
    clip_grad: float | None = None
    clip_mode: ClipMode = "norm"
    ema: ModelEmaV3 | None = None
    rollback: Rollback | None = None
    adapter_optimizers: Mapping[str, torch.optim.Optimizer] = field(default_factory=dict)
    weights: ShardedWeights | None = None
    peers: tuple[Peer, ...] = ()

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Every optimiser that takes a step."""
        along = (peer.optimizer for peer in self.peers)
        return (self.optimizer, *self.adapter_optimizers.values(), *along)

    @property
    def parts(self) -> dict[str, Stateful]:
        """The parts that a checkpoint keeps, by name."""
        parts: dict[str, Stateful] = {**self.of_student}
        parts |= {
            f"optimizer of {name}": optimizer for name, optimizer in self.adapter_optimizers.items()
        }
        for peer in self.peers:
            parts[f"peer {peer.name}"] = peer
            parts[f"optimizer of peer {peer.name}"] = peer.optimizer
        return parts if self.rollback is None else {**parts, "rollback": self.rollback}

    @property
    def of_student(self) -> dict[str, Stateful]:
        """The parts that move the student, or follow it: without the optimisers of adapters."""
        optimizer: Stateful = self.optimizer
        if self.weights is not None:
            optimizer = ShardedState(self.optimizer, self.weights)
        parts: dict[str, Stateful] = {"optimizer": optimizer, "scaler": self.scaler}
        return parts if self.ema is None else {**parts, "ema": self.ema.module}

    @property
    def rate(self) -> float:
        """The learning rate as it stands; under layer decay that of the last layer."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def clip(self, net: nn.Module) -> None:
        """Bounds the gradients of each network by itself, of their true size."""
        if self.clip_grad is not None and self.weights is not None:
            self.weights.clip(self.clip_grad, self.clip_mode)
        elif self.clip_grad is not None:
            self._clip(net, self.optimizer, self.clip_grad)
        if self.clip_grad is not None:
            for peer in self.peers:
                self._clip(peer.network.net, peer.optimizer, self.clip_grad)

    def _clip(self, net: nn.Module, optimizer: torch.optim.Optimizer, bound: float) -> None:
        """Bounds the gradients of a network; AGC leaves the classifier out, as its paper."""
        self.scaler.unscale_(optimizer)
        head = classifier_of(net).parameters() if self.clip_mode == "agc" else ()
        spared = {id(parameter) for parameter in head}
        parameters = [p for p in net.parameters() if id(p) not in spared]
        dispatch_clip_grad(parameters, bound, mode=self.clip_mode)

    def materialise(self) -> None:
        """Makes what the optimisers remember before their first step, and after a checkpoint."""
        for optimizer in self.optimizers:
            materialise(optimizer)

    def begin(self) -> None:
        """Before the first epoch: makes what it starts from, and what undoing it would return to."""
        self.materialise()
        if self.rollback is not None:
            self.rollback.keep()

    def end_epoch(self, *, undo: bool) -> None:
        """Undoes the epoch that has just ended, if asked to; keeps what the next one starts from."""
        if self.rollback is not None:
            if undo:
                self.rollback.go_back()
            self.rollback.keep()

    def average(self, network: Network, step: int) -> None:
        """Moves the average towards the weights after step `step`, from 0."""
        if self.ema is not None:
            self.ema.update(network, step=step + 1)

    @torch.no_grad()
    def average_by(self, network: Network, share: Tensor) -> None:
        """The same by a share of the weights, 1 less the decay, that lies on the device."""
        if self.ema is None:
            return
        averages = list(self.ema.module.state_dict().values())
        values = list(network.state_dict().values())
        floating = [average.is_floating_point() for average in averages]
        moved = list(compress(averages, floating))
        difference = torch._foreach_sub(list(compress(values, floating)), moved)
        torch._foreach_mul_(difference, share)
        torch._foreach_add_(moved, difference)
        for average, value, moves in zip(averages, values, floating, strict=True):
            if not moves:
                average.copy_(value)

    def settings(self, step: int) -> list[float]:
        """What step `step` sets: the rate of each group, and the average's share of the weights."""
        self.schedule.step_update(step)
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return [*rates, 1.0 if self.ema is None else 1.0 - self.ema.get_decay(step + 1)]

    def averaged(self, network: Network) -> Network:
        """The network that counts: the average where there is one."""
        if self.ema is None:
            return network
        assert isinstance(self.ema.module, Network)
        return self.ema.module


def moving_average(network: Network, decay: float) -> ModelEmaV3:
    """timm's moving average of weights and buffers.

    The decay of step t is min(decay, 1 − t^(−2/3)), so that short runs do not average in the
    weights that they started from.
    """
    return ModelEmaV3(network, decay=decay, use_warmup=True)
