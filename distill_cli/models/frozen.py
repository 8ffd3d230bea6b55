"""Parts of a network that do not learn: their weights stay, and so does all that they remember."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from distill_cli.errors import UsageError, nearest
from distill_cli.models.heads import classifier_of
from distill_cli.models.network import Network

# Everything but the classifier.
BACKBONE = "backbone"


class Frozen(NamedTuple):
    """The numbers of parameters that do not learn, and of all."""

    params: int
    of: int


def freeze(network: Network, names: Sequence[str]) -> Frozen:
    """Has parts of a network stay as they are, in training too.

    Their parameters get no gradient, and their modules stay in eval mode: batch norm normalises by its
    statistics and leaves them alone, dropout passes everything on. So a frozen part is one fixed function
    of an image.

    Args:
        network: The network, before it has an optimiser.
        names: Names of modules or parameters of the plain network, or `backbone`.

    Raises:
        UsageError: There is no such part, or nothing is left to learn.
    """
    net = network.net
    modules: dict[int, nn.Module] = {}
    weights: dict[int, nn.Parameter] = {}
    for name in names:
        part_modules, part_weights = _part(net, name)
        modules |= {id(module): module for module in part_modules}
        weights |= {id(weight): weight for weight in part_weights}
    of = list(net.parameters())
    if all(id(weight) in weights for weight in of):
        raise UsageError(f"--freeze {','.join(names)}: nothing would be left to learn")
    for weight in weights.values():
        weight.requires_grad_(False)
    network.frozen = tuple(modules.values())
    network.train(network.training)
    return Frozen(
        params=sum(weight.numel() for weight in weights.values()),
        of=sum(weight.numel() for weight in of),
    )


def _part(net: nn.Module, name: str) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """The modules and the parameters of a part of a network, by its name."""
    if name == BACKBONE:
        classifier = classifier_of(net)
        head = {id(weight) for weight in classifier.parameters()}
        # Modules that hold the classifier go on with it, as the dropout before it does that they call.
        holding = {
            id(module)
            for module in net.modules()
            if any(inner is classifier for inner in module.modules())
        }
        spared = holding | {id(module) for module in classifier.modules()}
        return (
            [module for module in net.modules() if id(module) not in spared],
            [weight for weight in net.parameters() if id(weight) not in head],
        )
    modules, weights = dict(net.named_modules()), dict(net.named_parameters())
    if name in modules and name:
        return list(modules[name].modules()), list(modules[name].parameters())
    # A weight on few levels stands behind what is used.
    behind = f"{name.removesuffix('.weight')}.parametrizations.weight.original"
    for weight in (name, behind):
        if weight in weights:
            return [], [weights[weight]]
    # The largest parts first: of those that are equally near, these are named.
    largest = [known for known, _ in net.named_children()]
    known = dict.fromkeys([BACKBONE, *largest, *filter(None, modules), *weights])
    raise UsageError(f"--freeze: the network has no part '{name}'. {nearest(name, list(known))}")
