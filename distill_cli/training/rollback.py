"""The end of the epoch before, kept in memory: what undoing an epoch returns to."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from distill_cli.training.checkpoint import Stateful
from distill_cli.training.optim import uncapturable


class Rollback:
    """A copy of what training has made of some parts; checkpoints have it too.

    Args:
        parts: The parts in which an epoch is undone, by name: the student, its optimiser, …
    """

    def __init__(self, parts: Mapping[str, Stateful]) -> None:
        self.parts = dict(parts)
        self.kept: dict[str, Any] = {}

    def keep(self) -> None:
        """Copies the parts as they stand."""
        self.kept = {name: deepcopy(part.state_dict()) for name, part in self.parts.items()}

    def go_back(self) -> None:
        """Puts the copy back; learning rates stay, since the schedule goes on."""
        for name, part in self.parts.items():
            if isinstance(part, Optimizer) and self._put_back(part, self.kept[name]["state"]):
                continue
            # Another copy: an optimiser takes the tensors that it is given, and changes them.
            values = deepcopy(self.kept[name])
            if isinstance(part, Optimizer):
                for kept, group in zip(values["param_groups"], part.param_groups, strict=True):
                    kept["lr"] = group["lr"]
            part.load_state_dict(values)

    @staticmethod
    def _put_back(optimizer: Optimizer, kept: Mapping[int, Any]) -> bool:
        """Writes kept tensors into an optimiser's own, which a recorded step goes on to use.

        Returns:
            False, with nothing written, where the optimiser counts on the host too, or the two do not
            hold tensors of the same names.
        """
        if uncapturable(optimizer) is not None:
            return False
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        now = {
            number: optimizer.state[parameter]
            for number, parameter in enumerate(parameters)
            if parameter in optimizer.state
        }
        pairs = [
            (value, kept.get(number, {}).get(name))
            for number, state in now.items()
            for name, value in state.items()
        ]
        if len(now) != len(kept) or not all(
            isinstance(one, Tensor) and isinstance(other, Tensor) for one, other in pairs
        ):
            return False
        for one, other in pairs:
            one.copy_(other)
        return True

    def state_dict(self) -> dict[str, Any]:
        """The copy."""
        return self.kept

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """The inverse."""
        self.kept = state_dict
