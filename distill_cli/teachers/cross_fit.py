"""Cross-fitted teachers: several networks as one, each asked of the rows that it has not trained on.

Shapes: B rows of a batch, K classes, M networks, N rows of train.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from hashlib import blake2b

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.data.known_labels import digest_of
from distill_cli.data.split_images import Images
from distill_cli.evaluate import logits_by_ranks
from distill_cli.ranks import ALONE, Ranks
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import UNREAD, Targets


class CrossFit:
    """The networks that were trained without a fold each, as one teacher.

    A row is labelled by those that have not trained on it: of a row in a fold that is the one which left
    the fold out, of any other all of them, by the mean of their probabilities.

    Args:
        members: The networks.
        trained: int64 rows of train that each has trained on.
        rows: Number of rows of train.
    """

    def __init__(
        self, members: Sequence[LiveTeacher], trained: Sequence[Tensor], rows: int
    ) -> None:
        first = members[0]
        self.members = tuple(members)
        unseen_NM = torch.ones(rows, len(members), dtype=torch.bool)
        for number, index in enumerate(trained):
            unseen_NM[index, number] = False
        assert bool(unseen_NM.any(dim=1).all()), "folds leave each row out once"
        self.unseen_NM = unseen_NM.to(first.device)
        self.fingerprints = tuple(member.fingerprint for member in members)
        self.fingerprint = _digest(self.fingerprints, trained)
        self.class_names, self.architecture = first.class_names, first.architecture
        self.targets, self.device = first.targets, first.device
        self.precision = first.precision

    def compile(self) -> None:
        """Has the forward of each compiled when it is first asked."""
        for member in self.members:
            member.compile()

    def row_logits(self, images_BCHW: Tensor, index_B: Tensor) -> Tensor:
        """fp32 logits (B, K) of views in [0, 1] of rows of train, on the networks' device.

        Args:
            images_BCHW: The views.
            index_B: int64 row of each.
        """
        logits_MBK = torch.stack([member.logits(images_BCHW) for member in self.members])
        return mean_logits(logits_MBK, self.unseen_NM[index_B.to(self.device)].T, self.targets)

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """The same of images that none has trained on."""
        return self._mean([member.logits(images_BCHW) for member in self.members])

    def fp32_logits(self, images_BCHW: Tensor) -> Tensor:
        """The same in fp32, whatever its arithmetic in 16 bits is."""
        return self._mean([member.fp32_logits(images_BCHW) for member in self.members])

    def split_logits(self, split: str, images: Images, *, ranks: Ranks = ALONE) -> Tensor:
        """fp32 logits (N, K) on the CPU of a whole split, `val` or `test`; see `LiveTeacher`."""
        return logits_by_ranks(self.logits, images, self.device, ranks)

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        logits_MBK = torch.stack(list(logits))
        everyone_MB = torch.ones(logits_MBK.shape[:2], dtype=torch.bool, device=logits_MBK.device)
        return mean_logits(logits_MBK, everyone_MB, self.targets)


def mean_logits(logits_MBK: Tensor, asked_MB: Tensor, targets: Targets) -> Tensor:
    """fp32 logits (B, K) whose probabilities at T = 1 are the mean of several networks'.

    Softmax: log p̄ + the mean of the networks' log-sum-exps, so that logits which all agree on stay what
    they are; sigmoid: log p̄/(1 − p̄). Where one network is asked these are its logits, to the bit. At
    another temperature they are softened like any network's: p̄^(1/T), normalised.

    Args:
        logits_MBK: Logits of M networks.
        asked_MB: bool: whose count, one at least of each row.
        targets: Whether one class applies, or each by itself.
    """
    count_B1 = asked_MB.sum(dim=0).unsqueeze(-1)
    asked_MB1 = asked_MB.unsqueeze(-1)

    def mean_of(log_p_MBK: Tensor) -> Tensor:
        return log_p_MBK.masked_fill(~asked_MB1, -math.inf).logsumexp(dim=0) - count_B1.log()

    if targets == "sigmoid":
        mean_BK = mean_of(F.logsigmoid(logits_MBK)) - mean_of(F.logsigmoid(-logits_MBK))
    else:
        sums_MB1 = logits_MBK.logsumexp(dim=-1, keepdim=True)
        offset_B1 = sums_MB1.masked_fill(~asked_MB1, 0).sum(dim=0) / count_B1
        mean_BK = mean_of(logits_MBK - sums_MB1) + offset_B1
    only_BK = logits_MBK.masked_fill(~asked_MB1, 0).sum(dim=0)
    return torch.where(count_B1 == 1, only_BK, mean_BK)


def _digest(fingerprints: Sequence[str], trained: Sequence[Tensor]) -> str:
    """Identifies the networks, in their order, and the rows that each has trained on."""
    if UNREAD in fingerprints:
        return UNREAD
    parts = json.dumps([*fingerprints, digest_of(*trained)])
    return blake2b(parts.encode(), digest_size=16).hexdigest()


# The teachers that a dump asks.
FrozenTeacher = LiveTeacher | CrossFit
