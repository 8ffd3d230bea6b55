"""How sure answers are of samples and of their labels. Shapes: N samples, K classes, M networks."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.types import UNLABELLED


def entropies(probs_XK: Tensor) -> Tensor:
    """−Σ_k p_k log p_k, nats, 0·log 0 = 0; fp64, one for each row of any shape (…, K)."""
    probs_XK = probs_XK.double()
    return -torch.xlogy(probs_XK, probs_XK).sum(dim=-1)


def disagreement(probs_MNK: Tensor) -> Tensor:
    """Jensen–Shannon divergence of M answers to each sample, nats: H(mean p) − mean H(p), fp64 (N,).

    0 where all agree. It is the information that one more answer has of which network gives it
    (Houlsby et al. 2011, arXiv 1112.5745: BALD). Rounding below 0 is cut off.
    """
    return (entropies(probs_MNK.double().mean(dim=0)) - entropies(probs_MNK).mean(dim=0)).clamp(
        min=0
    )


def votes_against(answer_MN: Tensor, label_N: Tensor) -> Tensor:
    """How many of M answers are another class than the label, int64 (N,)."""
    return (answer_MN != label_N).sum(dim=0)


def margin_of_two(probs_NK: Tensor) -> Tensor:
    """The largest probability minus the second, fp64 (N,): 0 where two classes are as likely."""
    top_N2 = probs_NK.double().topk(2, dim=-1).values
    return top_N2[:, 0] - top_N2[:, 1]


def margin_of_label(probs_NK: Tensor, label_N: Tensor) -> Tensor:
    """The label's probability minus the largest of the others, from −1 to 1, fp64 (N,).

    Args:
        probs_NK: Probabilities.
        label_N: int64 classes, none of them −1.
    """
    probs_NK = probs_NK.double()
    index_N1 = label_N[:, None]
    others_NK = probs_NK.scatter(1, index_N1, -1.0)
    return probs_NK.gather(1, index_N1)[:, 0] - others_NK.max(dim=-1).values


def confidently_others(probs_NK: Tensor, label_N: Tensor) -> Tensor:
    """The samples that are confidently of another class than their label, bool (N,).

    Northcutt, Jiang, Chuang 2021 (arXiv 1911.00068), equation 1: t_k is the mean probability of class k
    over the samples labelled k; a sample is confidently of the likeliest class whose probability is
    t_k or more, and of none where there is no such class. So a class that the network is seldom sure of
    has a lower bar. A class without a label has none, and no sample is of it.

    Args:
        probs_NK: Probabilities, by networks that did not see these labels.
        label_N: int64 classes; samples of −1 have no label and are not among them.
    """
    probs_NK, classes = probs_NK.double(), probs_NK.shape[1]
    known_N = label_N != UNLABELLED
    label_P = label_N[known_N]
    own_P = probs_NK[known_N].gather(1, label_P[:, None])[:, 0]
    count_K = label_P.bincount(minlength=classes)
    threshold_K = torch.zeros(classes, dtype=torch.float64).index_add(0, label_P, own_P) / count_K
    sure_NK = probs_NK >= torch.where(count_K > 0, threshold_K, torch.inf)
    likeliest_N = torch.where(sure_NK, probs_NK, -1.0).argmax(dim=-1)
    return known_N & sure_NK.any(dim=-1) & (likeliest_N != label_N)
