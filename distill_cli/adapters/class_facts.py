"""Facts of classes that are given and never learnt, as tensors beside the student."""

from __future__ import annotations

from torch import Tensor, nn


class ClassGroups(nn.Module):
    """The group of each class.

    Args:
        group_K: int64.
    """

    group_K: Tensor

    def __init__(self, group_K: Tensor) -> None:
        super().__init__()
        self.register_buffer("group_K", group_K.clone())


class NoiseMatrix(nn.Module):
    """Logarithms of the probability that a class is labelled as another, 0 as −∞.

    Args:
        noise_KK: Row i: the distribution over labels of images of class i.
    """

    log_noise_KK: Tensor

    def __init__(self, noise_KK: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_noise_KK", noise_KK.double().log().float())
