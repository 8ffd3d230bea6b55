"""The parts of a network's weights on this rank, as an optimiser moves them.

Optimisers that treat each value by itself move a part as they move the whole, by their fused kernels,
which know no sharded tensors: they are given this rank's part of each weight as a plain tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_cli.ranks import Ranks
from distill_cli.sharding import is_sharded, laid_as, local
from distill_cli.training.optim import restore

# torch's optimisers that treat each value by itself.
BY_VALUE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class ShardedWeights:
    """The weights of a network that lie in parts.

    Args:
        network: The network.
        ranks: The ranks that hold them.
    """

    def __init__(self, network: nn.Module, ranks: Ranks) -> None:
        self.network, self.ranks = network, ranks
        in_parts: list[nn.Parameter] = list(filter(is_sharded, network.parameters()))
        self.pairs = [
            (weight, nn.Parameter(local(weight).detach(), requires_grad=weight.requires_grad))
            for weight in in_parts
        ]

    def own(self, optimizer: torch.optim.Optimizer, before: Sequence[nn.Parameter]) -> None:
        """Has a new optimiser, of the parameters of the network before it was sharded, move the parts."""
        parts = {id(weight): part for weight, part in self.pairs}
        now = zip(before, self.network.parameters(), strict=True)
        parts |= {id(then): parts.get(id(weight), weight) for then, weight in now}
        for group in optimizer.param_groups:
            group["params"] = [parts.get(id(weight), weight) for weight in group["params"]]

    def take_gradients(self) -> list[Tensor]:
        """Hands the gradients over to the parts; each is this rank's part of the sum over the ranks."""
        for weight, part in self.pairs:
            part.grad = None if weight.grad is None else local(weight.grad)
            weight.grad = None
        return [part.grad for _, part in self.pairs if part.grad is not None]

    @torch.no_grad()
    def clip(self, bound: float, mode: str) -> None:
        """Bounds the gradients of the network: each value, or the norm of all of them on all ranks."""
        parts = [part for _, part in self.pairs]
        others = [weight for weight in self.network.parameters() if not is_sharded(weight)]
        if mode == "value":
            nn.utils.clip_grad_value_([*parts, *others], bound)
            return
        device = parts[0].device
        norms = [_norm(some, device) for some in (parts, others)]
        square = norms[0].square()
        self.ranks.add(square)
        nn.utils.clip_grads_with_norm_(
            [*parts, *others], bound, (square + norms[1].square()).sqrt()
        )


def _norm(parameters: list[nn.Parameter], device: torch.device) -> Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=device)


class ShardedState:
    """The state of an optimiser of parts, as tensors that lie in parts: a `Stateful`.

    Args:
        optimizer: The optimiser.
        weights: Those that it moves parts of.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, weights: ShardedWeights) -> None:
        self.optimizer = optimizer
        self.wholes = {id(part): weight for weight, part in weights.pairs}

    def state_dict(self) -> dict[str, Any]:
        """Its state."""
        return self._mapped(self.optimizer.state_dict(), _as_part)

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """The inverse, checked."""
        restore(self.optimizer, self._mapped(state_dict, lambda value, _: local(value)))

    def like(self, number: int) -> nn.Parameter | None:
        """The weight in parts that a parameter of this number is of; None for another."""
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        return self.wholes.get(id(parameters[number])) if number < len(parameters) else None

    def _mapped(
        self, values: dict[str, Any], change: Callable[[Tensor, nn.Parameter], Tensor]
    ) -> dict[str, Any]:
        """A state dict with the tensors of parts changed."""
        state = {
            number: {
                name: change(value, weight)
                if isinstance(value, Tensor) and (weight := self.like(number)) is not None
                else value
                for name, value in kept.items()
            }
            for number, kept in values["state"].items()
        }
        return {**values, "state": state}


def _as_part(value: Tensor, weight: nn.Parameter) -> Tensor:
    """A tensor of a part's shape as a part of one of the weight's; a count as it is."""
    if value.shape != local(weight).shape:
        return value
    return laid_as(weight, lambda _: value)
