"""What is measured on held-out images after each epoch, and chooses the best one."""

from __future__ import annotations

import torch

from distill_cli.evaluate import evaluate
from distill_cli.models import Network
from distill_cli.models.taps import signals_of
from distill_cli.pipeline.run.prepared import Plan
from distill_cli.training.state import HeldOut
from distill_cli.types import UNLABELLED, Batch, Progress


def labels_held_out(plan: Plan, network: Network) -> HeldOut:
    """Accuracy chooses the epoch, NLL between equal accuracies, of which small splits are full.

    Where several labels may apply to an image, mean average precision stands for accuracy.
    """
    held_out, here = plan.dataset.val, plan.runtime
    with here.autocast():
        found = evaluate(network, held_out, here.device)
    figures = {"val_top1": found.top1, "val_nll": found.nll, "val_ece": found.ece}
    if found.map is None or found.f1 is None:
        return HeldOut(figures=figures, rank=(found.top1, -found.nll))
    first = found.map if plan.dataset.several else found.top1
    figures |= {"val_map": found.map, "val_f1": found.f1}
    return HeldOut(figures=figures, rank=(first, -found.nll))


@torch.no_grad()
def hints_held_out(plan: Plan, network: Network) -> HeldOut:
    """The loss of the regression on the held-out images chooses the epoch."""
    here, layers = plan.runtime, plan.layers
    assert plan.teacher is not None, "hints come from a teacher"
    training = network.training
    network.eval()
    total, samples = 0.0, 0
    for images_BCHW in plan.dataset.val.still():
        row_B = torch.arange(len(images_BCHW))
        batch = Batch(
            images_BCHW=images_BCHW.to(here.device) / 255,
            target_B=torch.full_like(row_B, UNLABELLED, device=here.device),
            index_B=row_B,
            view_B=torch.zeros_like(row_B),
            step=0,
        )
        with here.autocast():
            student = signals_of(network, batch.images_BCHW, layers.taps, stop=True)
        teacher = plan.teacher.signals(batch)
        progress = Progress(epoch=0, step=0, total_steps=1)
        loss = layers.composition(student, teacher, batch, progress, layers.adapters)
        total, samples = total + float(loss.total) * len(row_B), samples + len(row_B)
    network.train(training)
    return HeldOut(figures={"val_hint": total / samples}, rank=(-total / samples,))
