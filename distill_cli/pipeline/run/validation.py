"""Figures on held-out images after each epoch, which choose the best one."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.data.split_images import plain_batches
from distill_cli.evaluate import evaluate
from distill_cli.models import Network
from distill_cli.models.taps import signals_of
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.training.state import HeldOut
from distill_cli.types import UNLABELLED, Batch, Progress

# Where nothing is held out: every epoch is better than those before it, so that the last one is kept.
NOTHING = HeldOut(figures={}, rank=())


def labels_held_out(prepared: PreparedRun, network: Network) -> HeldOut:
    """Accuracy chooses the epoch, NLL between equal accuracies, of which small splits are full.

    Where several labels may apply to an image, mean average precision stands for accuracy, and
    where labels are coarse, the share of images whose group is right. Where labels are hidden few images
    choose, and often an early epoch by luck: then the last one counts whose accuracy is within a standard
    error of the best (the one-standard-error rule, Breiman et al. 1984, Classification and Regression
    Trees, 3.4.3).
    """
    held_out, runtime = prepared.dataset.val, prepared.runtime
    runtime.ranks.require_equal(network.state_dict().values())
    if not len(held_out.label_N):
        return NOTHING
    with runtime.autocast():
        group_K = prepared.dataset.group_K
        metrics = evaluate(network, held_out, runtime.device, runtime.ranks, group_K)
    figures = {"val_top1": metrics.top1, "val_nll": metrics.nll, "val_ece": metrics.ece}
    if metrics.map is None or metrics.f1 is None:
        labels = prepared.dataset.labels
        few = metrics.samples if labels is not None and labels.few else 0
        return HeldOut(figures=figures, rank=(metrics.top1, -metrics.nll), images=few)
    first = metrics.map if prepared.dataset.multi_label else metrics.top1
    figures |= {"val_map": metrics.map, "val_f1": metrics.f1}
    return HeldOut(figures=figures, rank=(first, -metrics.nll))


@torch.no_grad()
def hints_held_out(prepared: PreparedRun, network: Network) -> HeldOut:
    """The loss of the regression on the held-out images chooses the epoch."""
    runtime, layers = prepared.runtime, prepared.layers
    assert prepared.teacher is not None, "hints come from a teacher"
    ranks = runtime.ranks
    ranks.require_equal(network.state_dict().values())
    total, samples, held_out = 0.0, 0, prepared.dataset.val
    if not len(held_out.label_N):
        return NOTHING
    training = network.training
    network.eval()
    own = list(range(ranks.number, plain_batches(held_out), ranks.count))
    for images_BCHW in held_out.iter_plain(first=ranks.number, every=ranks.count):
        batch = _plain(images_BCHW, runtime.device)
        with runtime.autocast():
            student = signals_of(network, batch.images_BCHW, layers.taps, stop=True)
        teacher = prepared.teacher.signals(batch)
        progress = Progress(epoch=0, step=0, total_steps=1)
        loss = layers.composition(student, teacher, batch, progress, layers.adapters)
        total, samples = total + float(loss.total) * batch.samples, samples + batch.samples
    if len(own) < -(-plain_batches(held_out) // ranks.count):
        # Teachers that lie in parts are gathered by all ranks at once, as often on each.
        blank_1CHW = torch.zeros(1, *held_out.size, dtype=torch.uint8)
        prepared.teacher.signals(_plain(blank_1CHW, runtime.device))
    network.train(training)
    parts = ranks.values((total, samples))
    total, samples = sum(part[0] for part in parts), sum(part[1] for part in parts)
    return HeldOut(figures={"val_hint": total / samples}, rank=(-total / samples,))


def _plain(images_BCHW: Tensor, device: torch.device) -> Batch:
    """A batch of uint8 images as they are, without labels."""
    row_B = torch.arange(len(images_BCHW))
    return Batch(
        images_BCHW=images_BCHW.to(device) / 255,
        target_B=torch.full_like(row_B, UNLABELLED, device=device),
        index_B=row_B,
        view_B=torch.zeros_like(row_B),
        step=0,
    )
