"""Structure of samples about the centres of their classes, and of centres to each other.

Category structure, Chen et al. 2020 (ECCV). Shapes: B batch, K classes, P classes present in it,
D values: features, flattened, or logits. All losses are means over squares of D values, scalars,
for a centre is a relation of the batch; unlabelled samples have no part in them. The released code
(xeanzheng/CSKD) divides `intra` by D and `inter` by P once more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.losses.numerics import directions, one_hot, wide
from distill_cli.types import UNLABELLED

# centre_KD, and present_K: which of its rows are centres.
Centres = tuple[Tensor, Tensor]


def centres(values_BD: Tensor, target_B: Tensor, classes: int) -> Centres:
    """c_k = the mean over the batch's samples of class k.

    Args:
        values_BD: Features or logits.
        target_B: Class index y; −1 where unlabelled.
        classes: K.

    Returns:
        centre_KD, 0 for a class without samples, and present_K, bool: which have any.
    """
    values_BD = wide(values_BD)
    # A product with 0 and 1: scattered sums have no deterministic gradient on every device.
    member_BK = one_hot(target_B.clamp(min=0), classes).to(values_BD.dtype)
    member_BK = member_BK.masked_fill((target_B == UNLABELLED)[:, None], 0)
    samples_K = member_BK.sum(dim=0)
    return member_BK.mT @ values_BD / samples_K.clamp(min=1)[:, None], samples_K > 0


def right_answers(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """The targets of those samples that a network is right about; −1 in the place of the others.

    Args:
        logits_BK: The network's.
        target_B: Class index y; −1 where unlabelled.
    """
    return target_B.where(logits_BK.argmax(dim=-1) == target_B, UNLABELLED)


def intra(
    student_BD: Tensor,
    teacher_BD: Tensor,
    target_B: Tensor,
    classes: int,
    student_centres: Centres | None = None,
    teacher_centres: Centres | None = None,
) -> Tensor:
    """mean_BD ((t − c_T(y)) − (s − sg c_S(y)))², sg a constant.

    A class of one sample has residuals of 0 where its centres are those of the batch. A network
    that knows no centre of a sample's class takes the sample for it, as the released code does: its
    residual is 0, and the student still learns from the teacher's.

    Args:
        student_BD: The student's values s.
        teacher_BD: The teacher's t, of the same shape; no gradient flows.
        target_B: Class index y; −1 where unlabelled.
        classes: K.
        student_centres: Instead of the batch's, such as moving means; no gradient flows.
        teacher_centres: The same, of the teacher.

    Returns:
        A scalar; 0 where no sample is labelled.
    """
    assert student_BD.shape == teacher_BD.shape, "an adapter maps values to the teacher's shape"
    student_BD, teacher_BD = wide(student_BD), wide(teacher_BD.detach())
    centre_KD, present_K = student_centres or centres(student_BD, target_B, classes)
    teacher_KD, teacher_K = teacher_centres or centres(teacher_BD, target_B, classes)
    residual_BD = student_BD - _about(student_BD, target_B, centre_KD, present_K)
    teacher_residual_BD = teacher_BD - _about(teacher_BD, target_B, teacher_KD, teacher_K)
    return _mean_square(residual_BD - teacher_residual_BD, target_B != UNLABELLED)


def inter(
    student_BD: Tensor,
    teacher_BD: Tensor,
    target_B: Tensor,
    classes: int,
    student_centres: Centres | None = None,
    teacher_centres: Centres | None = None,
) -> Tensor:
    """mean_PP (cos(c_T) − cos(c_S))², the cosines between the centres of classes.

    Gradients flow through the student's centres; the number of values may differ.

    Args:
        student_BD: The student's values.
        teacher_BD: The teacher's; no gradient flows.
        target_B: Class index y; −1 where unlabelled.
        classes: K.
        student_centres: Instead of the batch's; they teach as far as they depend on the student.
        teacher_centres: The same, of the teacher; no gradient flows.

    Returns:
        A scalar; 0 for fewer than two classes.
    """
    centre_KD, present_K = student_centres or centres(student_BD, target_B, classes)
    teacher_KD, teacher_K = teacher_centres or centres(teacher_BD.detach(), target_B, classes)
    both_K = present_K & teacher_K
    unit_KD, teacher_KD = directions(wide(centre_KD)), directions(wide(teacher_KD.detach()))
    difference_KK = unit_KD @ unit_KD.mT - teacher_KD @ teacher_KD.mT
    # Masked rather than selected: a selection has a shape that the host would have to wait for.
    difference_KK = torch.where(both_K[:, None] & both_K, difference_KK, 0.0)
    present = both_K.sum()
    mean = difference_KK.square().sum() / present.square().clamp(min=1)
    return torch.where(present > 1, mean, 0.0)


def compact(
    logits_BK: Tensor, target_B: Tensor, classes: int, class_centres: Centres | None = None
) -> Tensor:
    """mean_BK (z − sg μ(y))², μ the centres of the student's own logits; it needs no teacher.

    The released code alone has it, with weight 0.1.

    Args:
        logits_BK: The student's logits z.
        target_B: Class index y; −1 where unlabelled.
        classes: K.
        class_centres: Instead of the batch's; no gradient flows.

    Returns:
        A scalar; 0 where no sample is labelled.
    """
    logits_BK = wide(logits_BK)
    centre_KK, present_K = class_centres or centres(logits_BK, target_B, classes)
    index_B = target_B.clamp(min=0)
    centred_B = present_K[index_B] & (target_B != UNLABELLED)
    return _mean_square(logits_BK - centre_KK.detach()[index_B], centred_B)


def _about(values_BD: Tensor, target_B: Tensor, centre_KD: Tensor, present_K: Tensor) -> Tensor:
    """The centre of each sample's class, a constant; the sample itself where there is none."""
    index_B = target_B.clamp(min=0)
    return torch.where(present_K[index_B, None], centre_KD[index_B], values_BD).detach()


def _mean_square(difference_BD: Tensor, kept_B: Tensor) -> Tensor:
    """Over the rows that are kept; 0 where none is."""
    square_B = torch.where(kept_B[:, None], difference_BD, 0.0).square().mean(dim=-1)
    return square_B.sum() / kept_B.sum().clamp(min=1)
