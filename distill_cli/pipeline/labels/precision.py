"""What a teacher's arithmetic in 16 bits costs its labels. Shapes: N images, K classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.cache.quality import TruncationError
from distill_cli.counters import few_of
from distill_cli.data.split_images import Images
from distill_cli.evaluate import logits_of
from distill_cli.teachers.cross_fit import FrozenTeacher
from distill_cli.training.events import Sink

# Images that it is measured on, at most.
IMAGES = 2048
# Mean nats that are worth a line, far above what bf16 costs a healthy network: 1e-5 of cifar_resnet8
# on digits.
NOTABLE = 0.01


def precision_error(
    teacher: FrozenTeacher, images: Images, logits_NK: Tensor, sink: Sink
) -> TruncationError | None:
    """KL(fp32 ‖ as it computes) of a teacher's probabilities at T = 1, nats; None in fp32 or fp64.

    Args:
        teacher: The teacher.
        images: Held-out images.
        logits_NK: What the teacher said of them, fp32 on the CPU.
        sink: Is told where it costs more than `NOTABLE`.
    """
    if teacher.precision in ("fp32", "fp64") or not len(logits_NK):
        return None
    rows = few_of(torch.arange(len(logits_NK)), IMAGES)
    exact_NK = logits_of(teacher.fp32_logits, images.take(rows).iter_plain(), teacher.device)
    log_p_NK = F.log_softmax(exact_NK.double(), dim=-1)
    log_q_NK = F.log_softmax(logits_NK[rows].double(), dim=-1)
    kl_N = (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(dim=-1).clamp(min=0)
    lost = TruncationError(mean_kl=float(kl_N.mean()), worst_kl=float(kl_N.max()))
    if lost.mean_kl > NOTABLE:
        sink.message(
            f"the teacher's {teacher.precision} moves its labels by {lost.mean_kl:.2g} nats in the "
            "mean: --teacher-precision fp32 would not"
        )
    return lost
