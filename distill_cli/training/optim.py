"""Optimisers, from timm, with this project's defaults."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from distill_cli.errors import UsageError, nearest, reason

# Peak rate at a batch of 256 and weight decay, by optimiser family.
SGD_RATE, SGD_DECAY = 0.1, 5e-4
ADAMW_RATE, ADAMW_DECAY = 1e-3, 0.05
REFERENCE_BATCH = 256
SGD_NAMES = {"sgd", "momentum", "nesterov", "sgdw", "sgdp"}
# torch's own optimisers that update all parameters in one kernel, and where.
FUSED_NAMES = {"sgd", "momentum", "nesterov", "adam", "adamw"}
FUSED_DEVICES = {"cpu", "cuda"}

_TRANSFORMER = re.compile(r"vit|deit|swin|beit|eva|cait|xcit|mixer|former|convnext|pit_|tnt_|clip")


def default_optimizer(architecture: str) -> str:
    """AdamW for vision transformers and their kin, SGD with Nesterov momentum otherwise."""
    return "adamw" if _TRANSFORMER.search(architecture) else "sgd"


def default_rate(name: str, batch_size: int) -> float:
    """The optimiser's peak rate, scaled linearly with the batch."""
    base = SGD_RATE if name in SGD_NAMES else ADAMW_RATE
    return base * batch_size / REFERENCE_BATCH


def default_decay(name: str) -> float:
    """The optimiser's weight decay."""
    return SGD_DECAY if name in SGD_NAMES else ADAMW_DECAY


def check_name(name: str, *, key: str = "opt") -> None:
    """Refuses an optimiser that timm does not have.

    Args:
        name: The optimiser.
        key: The option that names it.

    Raises:
        UsageError: With the nearest name.
    """
    import timm.optim

    known = ["auto", *(str(known) for known in timm.optim.list_optimizers())]
    if name not in known:
        raise UsageError(f"{key}: unknown optimiser '{name}'. {nearest(name, known)}")
    if name != "auto" and timm.optim.get_optimizer_info(name).second_order:
        raise UsageError(f"{key}: '{name}' needs second derivatives, which no training here makes")


def create_optimizer(
    network: nn.Module,
    name: str,
    *,
    rate: float,
    weight_decay: float,
    momentum: float,
    layer_decay: float | None = None,
    adapter_parameters: Iterable[nn.Parameter] = (),
    key: str = "opt",
) -> torch.optim.Optimizer:
    """timm's optimiser of this name.

    Biases, norms and what the network itself names (`no_weight_decay`: position embeddings, class
    tokens) are not decayed. Where torch has a fused kernel of the optimiser, that is used.

    Args:
        network: The plain network, which knows its layers.
        name: Name of the optimiser in timm.
        rate: Peak learning rate.
        weight_decay: Weight decay of the decayed parameters.
        momentum: Momentum of SGD and its kin.
        layer_decay: Factor of the rate from each layer to the one before; None for equal rates.
        adapter_parameters: Parameters of adapters, which take the peak rate.
        key: The option that names the optimiser.

    Raises:
        UsageError: timm knows no such optimiser, or it cannot be used here.
    """
    import timm.optim

    check_name(name, key=key)
    options: dict[str, Any] = {"lr": rate, "weight_decay": weight_decay, "momentum": momentum}
    device = next(network.parameters()).device.type
    if name in FUSED_NAMES and device in FUSED_DEVICES:
        options["fused"] = True
    usual = timm.optim.get_optimizer_info(name).defaults or {}
    if momentum == 0 and usual.get("nesterov"):
        # torch refuses Nesterov's look ahead where nothing is carried on to look ahead with.
        options["nesterov"] = False
    try:
        optimizer = timm.optim.create_optimizer_v2(
            network, opt=name, layer_decay=layer_decay, **options
        )
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        # Some need a library or a device that is not here, and say so in their own ways.
        raise UsageError(f"{key}: '{name}' cannot be used here: {reason(error)}") from None
    assert isinstance(optimizer, torch.optim.Optimizer)
    others = list(adapter_parameters)
    for decay, group in (
        (weight_decay, [parameter for parameter in others if parameter.ndim > 1]),
        (0.0, [parameter for parameter in others if parameter.ndim <= 1]),
    ):
        if group:
            optimizer.add_param_group({"params": group, "lr": rate, "weight_decay": decay})
    return optimizer


def materialise(optimizer: torch.optim.Optimizer) -> None:
    """Makes the state of torch's SGD and Adam before their first step, as zeros, which it starts from.

    The fused SGD takes its first momentum without filling it where a scaler skips that step, and a
    recorded step must find its state where the next one will.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if isinstance(optimizer, torch.optim.Adam) and group["fused"]:
                # Only then may a step be recorded.
                group["capturable"] = parameter.device.type == "cuda"
            if state or not parameter.requires_grad:
                continue
            if isinstance(optimizer, torch.optim.SGD):
                if group["momentum"] and not group["dampening"]:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
            elif isinstance(optimizer, torch.optim.Adam) and group["fused"]:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                if group["amsgrad"]:
                    state["max_exp_avg_sq"] = torch.zeros_like(parameter)


def restore(optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    """Loads a kept state, and checks what `load_state_dict` does not: what a step would stumble over.

    Raises:
        ValueError: An option is missing or of another kind, or a state that is made before the first
            step differs from the kept one in shape or kind.
    """
    options = [
        {name: group[name] for name in optimizer.defaults if name in group}
        for group in optimizer.param_groups
    ]
    forms = {
        parameter: {name: _form(value) for name, value in state.items()}
        for parameter, state in optimizer.state.items()
        if all(isinstance(value, torch.Tensor | int | float) for value in state.values())
    }
    optimizer.load_state_dict(values)
    for before, group in zip(options, optimizer.param_groups, strict=True):
        for name, value in before.items():
            if name not in group or not _alike(group[name], value):
                raise ValueError(f"option {name} is missing or damaged")
    for parameter, state in optimizer.state.items():
        # Where none was kept, it is made anew.
        for name, form in forms.get(parameter, {}).items() if state else ():
            value = state.get(name)
            # SGD takes a momentum of None for one that is not begun.
            if name not in state or (value is not None and _form(value) != form):
                raise ValueError(f"{name} is missing or damaged")


def _form(value: object) -> tuple[torch.Size, bool]:
    """The shape of a tensor or number, and whether it is complex."""
    tensor = torch.as_tensor(value)
    return tensor.shape, tensor.is_complex()


def _alike(value: object, before: object) -> bool:
    """Whether an option is a number, or a row of numbers, where it was one."""
    if isinstance(before, tuple | list):
        row = value if isinstance(value, tuple | list) else ()
        # Most are shares, as betas are: beyond 1, roots of what is negative are taken.
        return len(row) == len(before) and all(
            _alike(one, other) and (0 <= one <= 1 or not 0 <= other <= 1)
            for one, other in zip(row, before, strict=True)
        )
    if isinstance(before, bool) or not isinstance(before, int | float):
        return True
    return isinstance(value, int | float | torch.Tensor) and _form(value) == _form(before)


def uncapturable(optimizer: torch.optim.Optimizer) -> str | None:
    """Why no CUDA graph can hold a step of this optimiser; None where one can."""
    kind = type(optimizer)
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return f"optimiser {kind.__name__} counts its steps on the host"
    return None
