"""What ranks exchange in a step: rows before the loss, and sums of gradients behind it.

Every rank runs the networks on its share of a batch, gathers the signals of all, and computes the
loss of the whole batch as a single process does: means over labelled rows, terms that compare samples,
and the state of adapters come out on every rank alike. What differs is each rank's part of the
gradient of the student's weights. Shapes: R ranks, P parameters.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.errors import DivergedError
from distill_cli.models import Network
from distill_cli.ranks import Ranks
from distill_cli.training.sharded import ShardedWeights
from distill_cli.training.shared_draws import SharedDraws
from distill_cli.training.sync_norm import SyncedNorm
from distill_cli.types import Batch, Features, StudentSignals, TeacherSignals

# The wishes that ranks agree on, each a count of the ranks that have it: to stop by a signal or because the
# time is up, and to keep the state.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WISHES = len(SIGNALS) + 2


@dataclass(frozen=True)
class GatheredSignals:
    """Signals of a teacher of the samples of all ranks, each gathered when it is asked for.

    Attributes:
        own: Signals of this rank's samples.
        ranks: The ranks.
    """

    own: TeacherSignals
    ranks: Ranks
    _known: dict[float, Tensor] = field(default_factory=dict)

    @cached_property
    def logits_BK(self) -> Tensor | None:
        """Logits of all samples; None where the teacher has none."""
        logits_BK = self.own.logits_BK
        return None if logits_BK is None else self.ranks.gather(logits_BK)

    @cached_property
    def features(self) -> Features:
        """Outputs of layers, of all samples."""
        return _of_all(self.own.features, self.ranks)

    def log_probs(self, temperature: float) -> Tensor:
        """Log-probabilities of all samples."""
        if temperature not in self._known:
            self._known[temperature] = self.ranks.gather(self.own.log_probs(temperature))
        return self._known[temperature]


def _of_all(features: Features, ranks: Ranks) -> dict[str, Tensor]:
    return {name: ranks.gather(map_BCHW) for name, map_BCHW in features.items()}


@dataclass(kw_only=True)
class Wishes:
    """What the ranks have agreed on as of the last look, equal on all of them.

    Attributes:
        signal_number: A signal that one of them got, which asks to stop; None where none did.
        time_up: Whether the time of the command is up.
        keep: Whether the state is to be kept now, by the clock of one of them.
    """

    signal_number: int | None = None
    time_up: bool = False
    keep: bool = False


class Exchange:
    """The exchange of one rank; of a process by itself, which exchanges nothing.

    Args:
        ranks: The ranks.
        network: The student.
        adapters: Modules that objectives learn beside it.
        sync_norm: Whether batch norm is over the samples of all ranks.
        scaled: Whether gradients may overflow without a fault: a scaler skips such a step.
        looks: Whether every step looks at what the ranks agree on, which waits for the device; else
            the loop does so now and then.
        weights: The student's that lie in parts: their gradients are summed as they are made.
        beside: Networks that are trained along.
    """

    def __init__(
        self,
        ranks: Ranks,
        network: Network,
        adapters: nn.ModuleDict,
        *,
        sync_norm: bool = False,
        scaled: bool = False,
        looks: bool = True,
        weights: ShardedWeights | None = None,
        beside: Sequence[Network] = (),
    ) -> None:
        self.weights, self.networks = weights, (network, *beside)
        self.ranks, self.network, self.adapters = ranks, network, adapters
        self.sync_norm, self.scaled, self.looks = sync_norm, scaled, looks
        self.agreed = Wishes()
        self.draws = SharedDraws(ranks)
        device = network.mean.device
        self._wishes, self._asked = torch.zeros(WISHES, device=device), Wishes()
        # Whether outputs of each rank were not finite so far, then its gradients; then the wishes.
        self._news = torch.zeros(2 * ranks.count + WISHES, device=device)
        self._faults = self._news[: 2 * ranks.count]

    @contextmanager
    def forward(self, runs: Sequence[int]) -> Iterator[None]:
        """The context of the student's forward of this rank's share of the part of a batch.

        Args:
            runs: Its samples, run by run: those of a run follow each other on all ranks.
        """
        if self.ranks.alone:
            yield
            return
        contexts: list[AbstractContextManager[object]] = [self.draws.of(runs)]
        if self.sync_norm:
            contexts.append(SyncedNorm(self.ranks))
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            yield

    def joined(
        self, student: StudentSignals, teacher: TeacherSignals | None, part: Batch
    ) -> tuple[StudentSignals, TeacherSignals | None, Batch]:
        """Signals and labels of the samples of all ranks, of those of this one."""
        if part.of_all is None:
            return student, teacher, part
        outputs = [
            *([] if student.logits is None else [student.logits]),
            *student.features.values(),
        ]
        for output in outputs:
            self._faults[self.ranks.number] += (~output.detach().isfinite()).any()
        logits = None if student.logits is None else self.ranks.gather(student.logits)
        features = _of_all(student.features, self.ranks)
        gathered = None if teacher is None else GatheredSignals(teacher, self.ranks)
        return StudentSignals(logits=logits, features=features), gathered, part.of_all

    def of_all(self, logits_BK: Tensor, part: Batch) -> Tensor:
        """Logits of the samples of all ranks, of those of this one; `part` is of all."""
        alone = len(logits_BK) == len(part.index_B)
        if not alone:
            self._faults[self.ranks.number] += (~logits_BK.detach().isfinite()).any()
        return logits_BK if alone else self.ranks.gather(logits_BK)

    def ask(self, wishes: Wishes) -> None:
        """Tells the others with the next step what this rank wants."""
        # A copy to a device is made only where something is new.
        if wishes != self._asked:
            self._asked = wishes
            wanted = [wishes.signal_number == number for number in SIGNALS]
            values = [*wanted, wishes.time_up, wishes.keep]
            self._wishes.copy_(torch.tensor(values, dtype=torch.float32))

    @torch.no_grad()
    def reduce(self, optimizers: tuple[torch.optim.Optimizer, ...]) -> None:
        """Replaces gradients by their sums over the ranks, and looks whether they are numbers.

        They are summed in one flat buffer, whose layout depends on the parameters alone: sums in
        another order would have other bits after a resume. Gradients of adapters, which are those of
        the whole batch on every rank, count once; those of weights in parts are summed already, and a
        rank that finds a fault in its part of the sum notes it. Without a batch norm over all ranks, its
        running statistics become their mean, so that every rank goes on with the same ones.

        Raises:
            DivergedError: Some rank's are NaN or infinite; no weight has moved.
        """
        if self.ranks.alone:
            return
        number, count = self.ranks.number, self.ranks.count
        in_parts = [] if self.weights is None else self.weights.take_gradients()
        own = [p for net in self.networks for p in net.parameters() if p.grad is not None]
        shared = [p for p in self.adapters.parameters() if p.grad is not None]
        gradients = [parameter.grad for parameter in (*own, *shared) if parameter.grad is not None]
        counted = [
            gradient if place < len(own) or number == 0 else torch.zeros_like(gradient)
            for place, gradient in enumerate(gradients)
        ]
        empty = self._news.new_zeros(0)
        flat_P = torch.cat([gradient.flatten() for gradient in counted] or [empty])
        statistics = [] if self.sync_norm else _running_statistics(self.networks)
        news = self._news
        if not self.scaled:
            for gradient in (flat_P, *in_parts):
                self._faults[count + number] += (~gradient.isfinite()).any()
        news[2 * count :] = self._wishes
        parts = [flat_P, *(one.flatten() / count for one in statistics), news]
        total = torch.cat([part.to(flat_P.dtype) for part in parts])
        self.ranks.add(total)
        targets = [*gradients, *statistics, news]
        sums = total.split([target.numel() for target in targets])
        for target, values in zip(targets, sums, strict=True):
            target.copy_(values.view_as(target))
        # A fault stays until the host looks; every rank knows of it, and would count it anew.
        self._faults.clamp_(max=1)
        if self.looks or not self._skipped_by(optimizers):
            self.look()

    def _skipped_by(self, optimizers: tuple[torch.optim.Optimizer, ...]) -> bool:
        """Has no weight move after a fault, without waiting for the device; whether that can be."""
        if self.scaled:
            # The scaler skips what is not finite.
            return True
        if not all(getattr(one, "_step_supports_amp_scaling", False) for one in optimizers):
            return False
        found = self._faults.sum().clamp(max=1).view(1)
        for optimizer in optimizers:
            optimizer.found_inf = found  # type: ignore[attr-defined]
        return True

    def look(self) -> None:
        """Takes note of what the ranks agree on; waits for the device.

        Raises:
            DivergedError: Outputs or gradients of a rank were NaN or infinite.
        """
        if self.ranks.alone:
            return
        count = self.ranks.count
        news = self._news.tolist()
        outputs, gradients = news[:count], news[count : 2 * count]
        # Whoever gathers a NaN has it in its own gradients too.
        faulty = _places(outputs) or _places(gradients)
        if faulty:
            named = ", ".join(map(str, faulty))
            error = DivergedError(
                f"the loss is no longer a number on rank{'s' if faulty[1:] else ''} {named} of {count}, "
                "and no weight has moved by it",
                hint="Lower --lr; the best model and the last checkpoint before it are kept",
            )
            error.rank = faulty[0]
            raise error
        *signals, time_up, keep = news[2 * count :]
        for signal_number, asked in zip(SIGNALS, signals, strict=True):
            if asked > 0:
                self.agreed.signal_number = int(signal_number)
        self.agreed.time_up = self.agreed.time_up or time_up > 0
        self.agreed.keep = keep > 0


def _places(flags: list[float]) -> list[int]:
    return [rank for rank, flag in enumerate(flags) if flag > 0]


def _running_statistics(networks: Sequence[nn.Module]) -> list[Tensor]:
    """Running means and variances of batch norm."""
    modules = [module for network in networks for module in network.modules()]
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    running = [(norm.running_mean, norm.running_var) for norm in norms if norm.training]
    return [one for pair in running for one in pair if one is not None]
