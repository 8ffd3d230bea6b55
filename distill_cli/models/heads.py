"""Classifiers: the layer that is a network's classifier, and the gated one of DropMax.

Shapes: B batch, D features, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill_cli.losses.dropmax import dropmax_inference

# The logit of 0.98, the probability that a class stays before training.
OPEN_GATE_BIAS = 4.0


class GatedClassifier(nn.Module):
    """The three linear maps of DropMax; the output is the prediction at test, o + log(ρ + ε).

    Nothing is sampled here, in training neither: who trains the gates taps the three parts by their
    names (`classifier/logits`, `classifier/prior`, `classifier/posterior`), and whoever else asks
    the network is told what it will say once it is saved. The forward is without the posterior, as no
    prediction knows the label: `taps.signals_of` asks it. Lee et al. 2018, arXiv 1712.07834.

    Training starts from the plain softmax: weights of the gates are 0, so that ρ is the same for all
    classes and cancels in the softmax, and at ρ = q = 0.98 nearly no class is dropped from the loss.
    The authors' code initialises all three maps alike, at random, which puts the gates around ½: in
    a trained network this would drop half of the classes and perturb the layers below. As no number
    is drawn, all other weights are those of the network without gates.

    ε is a constant of the losses: as a hyper-parameter of the objective it would train another
    prediction than the saved one.

    Args:
        logits: The linear layer of o, which is taken over as it is.
    """

    def __init__(self, logits: nn.Linear) -> None:
        super().__init__()
        self.logits = logits
        self.prior = _level(logits, OPEN_GATE_BIAS)
        self.posterior = _level(logits, 0.0)

    @property
    def bias(self) -> Tensor | None:
        """Bias of the logits."""
        return self.logits.bias

    def forward(self, feat_BD: Tensor) -> Tensor:
        """(B, K), at least fp32."""
        return dropmax_inference(self.logits(feat_BD), self.prior(feat_BD))


def _level(like: nn.Linear, value: float) -> nn.Linear:
    """A linear layer whose output is `value` for any input; its initialisation draws no number."""
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
    """The classifier: a gated one, else timm's `get_classifier`, else the last weight layer."""
    for module in net.modules():
        if isinstance(module, GatedClassifier):
            return module
    named: Any = getattr(net, "get_classifier", lambda: None)()
    layer = named[0] if isinstance(named, tuple | list) else named
    if isinstance(layer, nn.Module) and not isinstance(layer, nn.Identity):
        return layer
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert layers, "a classifier has a weight layer"
    return layers[-1]


def gate(net: nn.Module) -> None:
    """Replaces the classifier of a network by a gated one.

    The names of the classifiers that timm asks for follow. The gates join the weights that are
    exempt from weight decay, as in the authors' code.

    Raises:
        ValueError: The classifier is not one linear layer.
    """
    head = classifier_of(net)
    named: Any = getattr(net, "get_classifier", lambda: None)()
    if not isinstance(head, nn.Linear) or (isinstance(named, tuple | list) and len(named) > 1):
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


@torch.no_grad()
def shift_logits(net: nn.Module, bias_K: Tensor) -> None:
    """Adds to the logits of a network for good, by the bias of its classifier.

    Args:
        net: The plain network; where it takes the mean of several classifiers, each is changed.
        bias_K: What is added to each logit.

    Raises:
        ValueError: Its classifier has no bias of a number a class. None is made: a saved network is
            built by its architecture, which would not know it.
    """
    named: Any = getattr(net, "get_classifier", lambda: None)()
    heads = named if isinstance(named, tuple | list) else [classifier_of(net)]
    biases: list[Any] = [getattr(head, "bias", None) for head in heads]
    if not all(isinstance(bias, Tensor) and bias.shape == bias_K.shape for bias in biases):
        raise ValueError("its classifier has no bias of a number for each class")
    for bias in biases:
        bias.add_(bias_K.to(bias))


def classifier_names(net: nn.Module) -> list[str]:
    """The names of a network's classifiers: those that timm says, of which some have two, or the one."""
    said: Any = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    names = [said] if isinstance(said, str) else list(said)
    if names:
        return names
    classifier = classifier_of(net)
    return [name for name, module in net.named_modules() if module is classifier]
