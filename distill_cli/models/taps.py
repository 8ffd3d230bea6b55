"""Taps: outputs of a network's layers, as maps, for any architecture.

A tap is a module by its name in the plain network. One forward with hooks finds the taps, so that
nothing needs to be known of the network; tokens become maps, channels-last maps channels-first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill_cli.errors import UsageError, nearest
from distill_cli.models.feature_maps import as_map, is_feature
from distill_cli.models.heads import classifier_of
from distill_cli.models.network import Network
from distill_cli.types import BIAS, OF_CLASSIFIER, PENULTIMATE, POSTERIOR, StudentSignals

# Modules that hold the blocks of a stage; the modules inside a block are no taps.
HOLDING = ("blocks", "layers", "stages")
# Modules that lead from one stage to the next, or around a block.
PASSING = ("downsample", "shortcut")
PROBED = 2


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A layer whose output can be tapped.

    Attributes:
        name: Name of its module in the plain network.
        channels: Channels of its map.
        height: Height of its map; 1 for vectors.
        width: Width of its map; 1 for vectors.
        depth: Share of the network's weight layers up to it.
        rectified: Whether its output is never negative on noise: it ends in a rectifier.
    """

    name: str
    channels: int
    height: int
    width: int
    depth: float
    rectified: bool

    @property
    def is_map(self) -> bool:
        """Whether it has more than one position."""
        return self.height * self.width > 1


class _Reached(Exception):  # noqa: N818 - no error: the way out of a forward that may stop
    """The last tap was passed."""


def taps_of(network: Network) -> list[Tap]:
    """The taps of a network, in the order of its forward; the last is `penultimate`.

    They are the outputs of its blocks and of the modules between these, where the output is one
    tensor with one row for each image and is computed once.
    """
    net = network.net
    names = [name for name, _ in _points(net)]
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    seen: list[tuple[str, Tensor, int]] = []
    passed: set[int] = set()
    hooks: list[tuple[nn.Module, Callable[..., None]]] = []
    for layer in layers:
        hooks.append((layer, lambda module, *_: passed.add(id(module))))
    for name in names:

        def note(_: nn.Module, __: Any, out: Any, name: str = name) -> None:
            if is_feature(out, PROBED):
                # Copied, since an in-place rectifier behind it would change it.
                seen.append((name, as_map(network, out.clone()), len(passed)))

        hooks.append((net.get_submodule(name), note))
    with eval_mode(network), _hooked(hooks):
        network(noise(network))
    taps = []
    for name, map_BCHW, before in seen:
        if sum(other == name for other, _, _ in seen) == 1:
            taps.append(_tap(name, map_BCHW, before / max(1, len(passed))))
    return [*taps, replace(shape_of(network, PENULTIMATE), depth=1.0)]


def blocks_of(network: Network) -> list[nn.Module]:
    """The innermost modules at which taps may be: those that hold no others of them.

    Only such as one forward calls once, and whose output is no view of another tensor.
    """
    net = network.net
    points = dict(_points(net))
    inner = [name for name in points if not any(other.startswith(f"{name}.") for other in points)]
    calls: list[nn.Module] = []

    def note(module: nn.Module, _: Any, out: Any) -> None:
        # Twice where it is a view, which counts as called more than once.
        calls.extend([module] * (2 if isinstance(out, Tensor) and out._is_view() else 1))

    with eval_mode(network), _hooked([(points[name], note) for name in inner]):
        network(noise(network))
    return [points[name] for name in inner if calls.count(points[name]) == 1]


def shape_of(network: Network, name: str) -> Tap:
    """The tap of any module by its name; its depth is unknown (0).

    Raises:
        UsageError: There is no such layer, or its output is no map of features.
    """
    with eval_mode(network):
        signals = signals_of(network, noise(network), (name,))
    return _tap(name, signals.features[name], 0.0)


def normalises(network: Network) -> bool:
    """Whether a network has normalisation layers, of torch or of any library."""
    kinds = {type(module).__name__.lower() for module in network.net.modules()}
    # timm calls the NFNet and its blocks norm-free.
    return any("norm" in kind.replace("normfree", "") for kind in kinds)


@contextmanager
def eval_mode(network: Network) -> Iterator[None]:
    """Puts a network into eval mode, without gradients, while the context lasts."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def noise(network: Network) -> Tensor:
    """Images of noise for a network, always the same."""
    generator = torch.Generator().manual_seed(0)
    noise_BCHW = torch.rand(PROBED, *network.input_size, generator=generator)
    return noise_BCHW.to(network.mean)


def _tap(name: str, map_BCHW: Tensor, depth: float) -> Tap:
    channels, height, width = map_BCHW.shape[1:]
    return Tap(
        name=name,
        channels=channels,
        height=height,
        width=width,
        depth=depth,
        rectified=bool(map_BCHW.min() >= 0),
    )


def signals_of(
    network: Network, images_BCHW: Tensor, taps: Sequence[str] = (), *, stop: bool = False
) -> StudentSignals:
    """Logits and the outputs of some layers, fp32.

    Args:
        network: The network; its mode and its graph are left as they are.
        images_BCHW: Images in [0, 1].
        taps: Names of layers, `penultimate`, or `classifier/PART`.
        stop: End the forward at the last tap: the layers behind it, their buffers too, stay
            untouched.
    """
    if not taps:
        return StudentSignals(logits=network(images_BCHW).float())
    kept: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        if not is_feature(value, len(images_BCHW)):
            raise _no_features(network, name)
        kept[name] = value
        if stop and len(kept) == len(taps):
            raise _Reached
        # Copied where the forward goes on, since an in-place rectifier would change it.
        kept[name] = value.clone()

    def enters(name: str, read: Callable[[Tensor], Tensor], _: nn.Module, args: Any) -> None:
        keep(name, read(args[0]))

    hooks, entering = [], []
    for name in taps:
        if name == PENULTIMATE:
            rows = partial(torch.flatten, start_dim=1)
            entering.append((classifier_of(network.net), partial(enters, name, rows)))
        elif name == POSTERIOR:
            # The forward of a gated classifier leaves it out.
            gates = _module(network, name)
            entering.append((classifier_of(network.net), partial(enters, name, gates)))
        elif name == BIAS:
            kept[name] = _bias(network, len(images_BCHW))
        else:
            hooks.append((_module(network, name), lambda _, __, out, name=name: keep(name, out)))
    logits: Tensor | None = None
    with _hooked(hooks, entering), suppress(_Reached):
        logits = network(images_BCHW).float()
    if unseen := [name for name in taps if name not in kept]:
        raise _no_features(network, unseen[0])
    features = {name: as_map(network, kept[name]).float() for name in taps}
    return StudentSignals(logits=logits, features=features)


def _no_features(network: Network, name: str) -> UsageError:
    return UsageError(
        f"layer '{name}' of {network.architecture} puts out no features",
        hint="`distill models taps` lists the layers that do",
    )


def _module(network: Network, name: str) -> nn.Module:
    """The module of this name.

    Raises:
        UsageError: There is no such module; the message names the nearest tap.
    """
    try:
        if name.startswith(OF_CLASSIFIER):
            return classifier_of(network.net).get_submodule(name.removeprefix(OF_CLASSIFIER))
        return network.net.get_submodule(name)
    except AttributeError:
        raise UsageError(
            f"{network.architecture} has no layer '{name}'. "
            f"{nearest(name, [point for point, _ in _points(network.net)])}"
        ) from None


def _bias(network: Network, images: int) -> Tensor:
    """The classifier's bias for every image, (B, K); 0 where it has none."""
    bias_K = getattr(classifier_of(network.net), "bias", None)
    if bias_K is None:
        bias_K = network.mean.new_zeros(len(network.class_names))
    return bias_K.flatten().expand(images, -1)


@contextmanager
def _hooked(
    hooks: Sequence[tuple[nn.Module, Callable[..., None]]],
    entering: Sequence[tuple[nn.Module, Callable[..., None]]] = (),
) -> Iterator[None]:
    """Calls functions behind, and before, the forward of modules while the context lasts."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    handles += [module.register_forward_pre_hook(hook) for module, hook in entering]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _points(
    net: nn.Module, prefix: str = "", head: nn.Module | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Modules that may be taps: children of the network and of the modules that hold blocks."""
    head = head or classifier_of(net)
    for name, child in net.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.Identity | nn.Dropout):
            continue
        # A list has no output, but its items have; the output of a head is logits.
        if not isinstance(child, nn.ModuleList) and all(m is not head for m in child.modules()):
            yield path, child
        if name not in PASSING and _holds_blocks(child):
            yield from _points(child, f"{path}.", head)


def _holds_blocks(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) or any(
        isinstance(getattr(module, name, None), nn.Sequential | nn.ModuleList) for name in HOLDING
    )


def middle(taps: Sequence[Tap]) -> Tap:
    """The tap nearest to half of the depth, a map where there is one; the later of equal ones."""
    among = [tap for tap in taps if tap.is_map] or [t for t in taps if t.name != PENULTIMATE]
    return min(reversed(among or list(taps)), key=lambda tap: abs(tap.depth - 0.5))


def stage_ends(taps: Sequence[Tap]) -> list[Tap]:
    """The last map of each resolution; with one resolution, the maps at thirds of the depth."""
    maps = [tap for tap in taps if tap.is_map] or [t for t in taps if t.name != PENULTIMATE]
    last = {(tap.height, tap.width): tap for tap in maps}
    if len(last) > 1:
        return list(last.values())
    near = [min(reversed(maps), key=lambda tap: abs(tap.depth - k / 3)) for k in (1, 2, 3)]
    return list(dict.fromkeys(near))


def last_map(taps: Sequence[Tap]) -> Tap:
    """The deepest map; `penultimate`, the input of the classifier, where there is no map."""
    return next((tap for tap in reversed(taps) if tap.is_map), taps[-1])
