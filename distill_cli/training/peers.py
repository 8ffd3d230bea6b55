"""Networks that are trained along with a student: each by an optimiser and a loss of its own.

The student learns from what they answer in the step under way, which is constant to it; with `mutual` each
of them learns from the student and the others likewise. Apprentice, scheme A (Mishra & Marr 2018, arXiv
1711.05852, equation 1); deep mutual learning (Zhang et al. 2018, arXiv 1706.00384).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from distill_cli.models import Network
from distill_cli.models.taps import signals_of
from distill_cli.objectives.compose import Composition
from distill_cli.runtime import Runtime
from distill_cli.teachers.own import PeerTeacher
from distill_cli.teachers.signals import DenseSignals, EnsembleSignals, mean_of_logits
from distill_cli.training.exchange import Exchange
from distill_cli.training.state import HeldOut, counting
from distill_cli.types import Batch, Progress, StudentSignals, TeacherSignals

# Figures that choose an epoch: as many as the longest rank of held-out figures has.
RANK = 2


class Peer(nn.Module):
    """One network that is trained along. Its state is its weights, and which epoch was its best.

    Args:
        name: Its name, which is its folder's below `peers/`.
        network: It, on its device.
        teacher: What it is to the student.
        composition: What it learns by.
        optimizer: Of its weights.
    """

    best_rank: Tensor
    best_accuracy: Tensor
    best_epoch: Tensor
    epoch: Tensor

    def __init__(
        self,
        name: str,
        network: Network,
        teacher: PeerTeacher,
        composition: Composition,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        super().__init__()
        self.name, self.network, self.teacher = name, network, teacher
        self.composition, self.optimizer = composition, optimizer
        self.register_buffer("best_rank", torch.zeros(RANK, dtype=torch.float64))
        self.register_buffer("best_accuracy", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("best_epoch", torch.tensor(-1))
        self.register_buffer("epoch", torch.tensor(0))
        self._logits_BK: Tensor | None = None

    def answer(self, part: Batch) -> None:
        """Its training forward of the student's images; the student is told what it answers."""
        if not self.network.training:
            self.network.train()
        self._logits_BK = signals_of(self.network, part.images_BCHW).logits_BK
        assert self._logits_BK is not None, "a whole forward has logits"
        self.teacher.hear(self._logits_BK)

    def take(self) -> Tensor:
        """Its logits of the step under way, once."""
        logits_BK, self._logits_BK = self._logits_BK, None
        assert logits_BK is not None, "its forward comes first"
        return logits_BK

    def is_best(self, held_out: HeldOut) -> bool:
        """Whether the figures of the epoch that has just ended are its best; remembers them if so."""
        epoch, count = int(self.epoch), len(held_out.rank)
        self.epoch += 1
        best = self.best_rank.tolist()[:count] if int(self.best_epoch) >= 0 else []
        if (chosen := counting(held_out, best)) is None:
            return False
        self.best_rank[:count] = torch.tensor(chosen, dtype=torch.float64)
        self.best_accuracy.fill_(held_out.rank[0] if held_out.rank else 0.0)
        self.best_epoch.fill_(epoch)
        return True


@dataclass(frozen=True, kw_only=True)
class Peers:
    """All networks that are trained along.

    Attributes:
        all: Each of them; none in most runs.
        mutual: Whether they learn from the student, and from each other.
        of_logits: Whether they learn from logits, of which others are averaged then.
    """

    all: tuple[Peer, ...] = ()
    mutual: bool = False
    of_logits: bool = False

    def answer(self, part: Batch, runtime: Runtime, exchange: Exchange) -> None:
        """Their forwards, one by one, as the student's is made."""
        for peer in self.all:
            with runtime.autocast(), exchange.forward((len(part.index_B),)):
                peer.answer(part)

    def loss(
        self, student: StudentSignals, part: Batch, progress: Progress, exchange: Exchange
    ) -> Tensor:
        """The sum of their losses, of which each one's weights alone get a gradient.

        Args:
            student: Its signals of all ranks' samples.
            part: These samples.
            progress: Where training stands.
            exchange: Gathers what they answered.
        """
        logits = [exchange.of_all(peer.take(), part) for peer in self.all]
        constant = [DenseSignals(one.detach()) for one in logits]
        losses = []
        for number, (peer, logits_BK) in enumerate(zip(self.all, logits, strict=True)):
            teacher: TeacherSignals | None = None
            if self.mutual:
                assert student.logits_BK is not None, "refused where hints end the forward"
                others = [DenseSignals(student.logits_BK.detach()), *constant]
                del others[number + 1]
                teacher = self._joined(others)
            own = StudentSignals(logits=logits_BK)
            losses.append(peer.composition(own, teacher, part, progress, NOTHING).total)
        return torch.stack(losses).sum()

    def _joined(self, others: list[DenseSignals]) -> TeacherSignals:
        """What several say together: the mean of their probabilities, whose KL has the mean's gradient."""
        if len(others) == 1:
            return others[0]
        equal = (1 / len(others),) * len(others)
        if self.of_logits:
            return mean_of_logits(others, equal)
        return EnsembleSignals(tuple(others), equal)


# Their objectives have no adapters.
NOTHING = nn.ModuleDict()
ALONE = Peers()


class Schedules:
    """The schedules of several optimisers, set together."""

    def __init__(self, *schedules: Scheduler) -> None:
        self.schedules = schedules

    def step_update(self, step: int) -> None:
        """Sets the rates of a step, from 0."""
        for schedule in self.schedules:
            schedule.step_update(step)
