"""Hints: a layer of the student predicts a layer of the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from distill_cli.adapters.regressor import Regressor
from distill_cli.losses.features import hint
from distill_cli.objectives.base import About, Pair, Setting, Usual
from distill_cli.types import Batch, Need, Progress, StudentSignals, TeacherSignals, Term, Terms


@dataclass(frozen=True, kw_only=True)
class Hint:
    """½‖u_h(x) − r(v_g(x))‖² a value of the hint layer u_h; r is a learnt regressor.

    Alone it is stage 1 of FitNets (`distill hint-init`); beside labels it trains jointly, which
    several public benchmarks call FitNet too.

    Attributes:
        pairs: Guided layer of the student and hint layer of the teacher; none for the
            middle ones.
    """

    about: ClassVar[About] = About(
        name="hint",
        summary="predict a middle layer of the teacher from one of the student",
        paper="Romero et al. 2015, arXiv 1412.6550",
        needs=frozenset({Need.TEACHER, Need.FEATURES}),
        targets=frozenset({"softmax", "sigmoid"}),
        usual=Usual(own=100.0),
        rule="middle",
    )

    pairs: tuple[Pair, ...] = ()

    def adapters(self, setting: Setting) -> nn.Module:
        """A regressor for each pair."""
        made = []
        for guided, hinted in self.pairs:
            own, other = setting.student[guided], setting.teacher[hinted]
            made.append(Regressor(own.size, other.size, rectified=other.rectified))
        return nn.ModuleList(made)

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
        adapters: nn.Module | None,
    ) -> Terms:
        """Term `hint`, the sum over the pairs."""
        assert teacher is not None, "needs are checked before the first step"
        assert isinstance(adapters, nn.ModuleList), "made by the trainer"
        losses = [
            hint(regressor(student.features[guided]), teacher.features[hinted])
            for regressor, (guided, hinted) in zip(adapters, self.pairs, strict=True)
        ]
        return {"hint": Term(loss_B=sum(losses[1:], losses[0]))}
