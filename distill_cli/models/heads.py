"""Classifiers: where a network has its own, and the gated one of DropMax.

Shapes: B batch, D features, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill_cli.losses.dropmax import dropmax_inference

# The logit of the probability that a class stays, before training: 0.98.
OPEN_GATE_BIAS = 4.0


class GatedClassifier(nn.Module):
    """The three linear maps of DropMax; it answers as at test, o + log(ρ + ε).

    Nothing is sampled here, in training neither: who trains the gates taps the three parts by their
    names (`classifier/logits`, `classifier/prior`, `classifier/posterior`), and whoever else asks
    the network is told what it will say once it is saved. The forward is without the posterior, as no
    prediction knows the label: `taps.signals_of` asks it. Lee et al. 2018, arXiv 1712.07834.

    Training starts from the plain softmax: weights of the gates are 0, so that ρ is the same for all
    classes and drops out of the softmax, and at ρ = q = 0.98 nearly no class is dropped from the
    loss. The authors' code initialises all three maps alike, at random, which puts the gates around
    ½: it would halve the classes of one that is trained already, and perturb the network behind it.
    As no number is drawn, all other weights are those of the network without gates.

    ε is the losses' constant, no hyper-parameter: one of the objective alone would train another
    prediction than is saved.

    Args:
        logits: The linear layer of o, which it takes over as it is.
    """

    def __init__(self, logits: nn.Linear) -> None:
        super().__init__()
        self.logits = logits
        self.prior = _level(logits, OPEN_GATE_BIAS)
        self.posterior = _level(logits, 0.0)

    @property
    def bias(self) -> Tensor | None:
        """Of the logits."""
        return self.logits.bias

    def forward(self, feat_BD: Tensor) -> Tensor:
        """(B, K), at least fp32."""
        return dropmax_inference(self.logits(feat_BD), self.prior(feat_BD))


def _level(like: nn.Linear, value: float) -> nn.Linear:
    """A linear layer that says `value` of everything; its initialisation draws no number."""
    made: nn.Linear = nn.utils.skip_init(
        nn.Linear,
        like.in_features,
        like.out_features,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    nn.init.zeros_(made.weight)
    nn.init.constant_(made.bias, value)
    return made


def classifier_of(net: nn.Module) -> nn.Module:
    """The last layer: a gated one, else as timm says or as the last linear one."""
    for module in net.modules():
        if isinstance(module, GatedClassifier):
            return module
    said: Any = getattr(net, "get_classifier", lambda: None)()
    found = said[0] if isinstance(said, tuple | list) else said
    if isinstance(found, nn.Module) and not isinstance(found, nn.Identity):
        return found
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert layers, "a classifier has a weight layer"
    return layers[-1]


def gate(net: nn.Module) -> None:
    """Puts gates behind the classifier of a network, in its place.

    What timm asks of the network follows: the names of its classifiers, and what is not decayed:
    what it exempts itself, and the gates, as in the authors' code.

    Raises:
        ValueError: Its classifier is not one linear layer.
    """
    head = classifier_of(net)
    said: Any = getattr(net, "get_classifier", lambda: None)()
    if not isinstance(head, nn.Linear) or (isinstance(said, tuple | list) and len(said) > 1):
        kind = type(head).__name__ if not isinstance(head, nn.Linear) else "several layers"
        raise ValueError(f"its classifier is not one linear layer, but {kind}")
    path = next(name for name, module in net.named_modules() if module is head)
    net.set_submodule(path, GatedClassifier(head))
    plain: Any = net
    spared = set(getattr(plain, "no_weight_decay", set)())
    spared |= {f"{path}.{part}.weight" for part in ("prior", "posterior")}
    plain.no_weight_decay = lambda: spared
    plain.pretrained_cfg = {
        **getattr(plain, "pretrained_cfg", {}),
        "classifier": [f"{path}.{part}" for part in ("logits", "prior", "posterior")],
    }
    plain.default_cfg = plain.pretrained_cfg
