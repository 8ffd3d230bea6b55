"""Networks whose weights lie in parts on several ranks (FSDP2), each gathered while it computes.

Zhao et al. 2023, arXiv 2304.11277; torch's `fully_shard`.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from distill_cli.models.heads import classifier_of
from distill_cli.models.network import Network
from distill_cli.models.taps import blocks_of

# A block with a smaller share of the weights is not worth a gathering of its own.
WORTH_IT = 1 / 256


def shard(network: Network, device: torch.device) -> Network:
    """Has the weights of a network lie in parts on the ranks, in place; it says nothing to them.

    Gradients become their sums over the ranks: each has its own share of that of the whole batch.
    Scalars and the classifier's bias stay whole on each, and their gradients are not summed: there is
    nothing to cut, or `classifier/bias` is looked at between two forwards. One block is gathered at a
    time; what lies in none, as the classifier does, for the whole step.

    Args:
        network: It lies whole on the CPU, its weights in the order of their dimensions.
        device: Device that it computes on; one block after another is moved there.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    group = dist.group.WORLD
    assert group is not None, "there are several ranks"
    mesh = DeviceMesh.from_group(group, device.type)
    net = network.net
    spared = {one for one in net.parameters() if not one.ndim}
    if isinstance(bias := getattr(classifier_of(net), "bias", None), nn.Parameter):
        spared.add(bias)
    for module in (*_units(network), net):
        fully_shard(module, mesh=mesh, ignored_params=spared)
    for module in net.modules():
        if isinstance(module, FSDPModule):
            # gloo knows sums alone.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return network.to(device)


def _units(network: Network) -> list[nn.Module]:
    """The blocks that are gathered one at a time: none shares a weight with another module."""
    shared = Counter(
        id(parameter)
        for module in network.net.modules()
        for parameter in module.parameters(recurse=False)
    )
    whole = sum(parameter.numel() for parameter in network.net.parameters())
    units = []
    for module in blocks_of(network):
        own = list(module.parameters())
        alone = all(shared[id(parameter)] == 1 for parameter in own)
        if alone and sum(parameter.numel() for parameter in own) >= WORTH_IT * whole:
            units.append(module)
    return units
