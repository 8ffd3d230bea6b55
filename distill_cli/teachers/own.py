"""The student as a teacher of its own: as it stands, or its moving average.

Both speak of the weights of the step that is under way, so that nothing of them can be stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from distill_cli.models import Network
from distill_cli.runtime import Runtime
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch, Need, Targets, TeacherSignals

Mode = Literal["train", "eval"]
# What `--teachers` takes beside folders: the student, and its average.
SELF, AVERAGE = "self", "ema"


class OwnTeacher(ABC):
    """The base of both.

    Args:
        name: `self` or `ema`.
        class_names: The data's.
        targets: The student's.
    """

    offers = frozenset({Need.LOGITS})

    def __init__(self, name: str, class_names: tuple[str, ...], targets: Targets) -> None:
        self.name, self.class_names, self.targets = name, class_names, targets
        self.fingerprint = name

    @abstractmethod
    def signals(self, batch: Batch) -> TeacherSignals:
        """Its logits on what the batch shows to the teacher; no gradient flows."""


class SelfTeacher(OwnTeacher):
    """The student in its own training forward, dropout and batch norm included; its logits are constant.

    What the teacher alone is shown goes through the network behind the student's images, in one batch
    (FixMatch, arXiv 2001.07685, and USB do so). `training/forward.py` tells it what was answered.
    """

    def __init__(self, class_names: tuple[str, ...], targets: Targets) -> None:
        super().__init__(SELF, class_names, targets)
        self._logits_TK: Tensor | None = None

    def hear(self, logits_TK: Tensor) -> None:
        """Takes the logits of the step under way."""
        self._logits_TK = logits_TK.detach()

    def signals(self, batch: Batch) -> TeacherSignals:
        """The logits that it was told of this very batch."""
        assert self._logits_TK is not None, "the student's forward comes first"
        logits_TK, self._logits_TK = self._logits_TK, None
        return DenseSignals(batch.spread(logits_TK))


class NetworkTeacher(OwnTeacher):
    """The student, or its average, asked in eval mode; its buffers stay as they are.

    Args:
        name: `self` or `ema`.
        class_names: The data's.
        targets: The student's.
        runtime: Precision of its forward, which is that of training.
    """

    def __init__(
        self, name: str, class_names: tuple[str, ...], targets: Targets, runtime: Runtime
    ) -> None:
        super().__init__(name, class_names, targets)
        self.runtime = runtime
        self.fingerprint = f"{name} in eval mode"
        self._network: Network | None = None

    def bind(self, network: Network) -> None:
        """Sets the network that is asked: it moves while it teaches."""
        self._network = network

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks the network as it stands."""
        network = self._network
        assert network is not None, "bound by whoever trains it"
        training = network.training
        network.eval()
        with torch.no_grad(), self.runtime.autocast():
            logits_TK: Tensor = network(batch.for_teacher)
        network.train(training)
        return DenseSignals(batch.spread(logits_TK.float()))


class PeerTeacher(OwnTeacher):
    """A network that is trained along, in its own training forward; its logits are constant to the student.

    Args:
        name: `peer:NAME`.
        fingerprint: Its model, by which a run that goes on knows it.
        class_names: The data's.
        targets: The student's.
    """

    def __init__(
        self, name: str, fingerprint: str, class_names: tuple[str, ...], targets: Targets
    ) -> None:
        super().__init__(name, class_names, targets)
        self.fingerprint = fingerprint
        self._logits_BK: Tensor | None = None

    def hear(self, logits_BK: Tensor) -> None:
        """Takes the logits of the step under way."""
        self._logits_BK = logits_BK.detach()

    def signals(self, batch: Batch) -> TeacherSignals:
        """The logits that it was told of this very batch."""
        assert self._logits_BK is not None, "its forward comes first"
        logits_BK, self._logits_BK = self._logits_BK, None
        return DenseSignals(logits_BK)


def own_teacher(
    name: str, class_names: tuple[str, ...], targets: Targets, runtime: Runtime, mode: Mode
) -> SelfTeacher | NetworkTeacher:
    """The teacher of this name; `mode` is of `self`."""
    if name == SELF and mode == "train":
        return SelfTeacher(class_names, targets)
    return NetworkTeacher(name, class_names, targets, runtime)
