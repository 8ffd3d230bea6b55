"""What to try where a network that was trained is no better than chance: what fits its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill_cli.errors import counted
from distill_cli.models import weights_at_hand
from distill_cli.recipe.default_batch import LEAST, STEPS, default_batch

# Steps below which a network has hardly begun; pixels from which on a smaller view is worth a try,
# and its size.
FEW_STEPS, LARGE, SMALLER = 1_000, 96, 64


def remedies(
    recipe: Mapping[str, Any], *, architecture: str, side: int, rows: int | None
) -> list[str]:
    """Options for another training, the most promising first; some where nothing is known of it.

    Args:
        recipe: The recipe.yaml of the training; empty where it is not at hand.
        architecture: The network's.
        side: The longer side of its views in pixels.
        rows: Images that it was trained on; None where that is not known.
    """
    epochs, batch_size = recipe.get("epochs"), recipe.get("batch_size")
    tries = []
    # A recipe that was changed by hand may hold anything.
    if (
        not (type(epochs) is int and type(batch_size) is int and rows)
        or min(epochs, batch_size) < 1
    ):
        tries.append("more --epochs")
    else:
        steps = max(1, rows // batch_size)
        if epochs * steps < FEW_STEPS:
            taken = f"{counted(epochs, 'epoch')} of {counted(steps, 'step')}"
            tries.append(f"more --epochs (it had {taken})")
        if steps < STEPS and batch_size > LEAST:
            tries.append(f"--batch-size {default_batch(rows)} (it had {batch_size})")
    from_scratch = not (recipe.get("pretrained") or recipe.get("init"))
    if from_scratch and weights_at_hand(architecture):
        tries.append(f"--pretrained (timm's weights of {architecture} are on this machine)")
    if from_scratch and side >= LARGE:
        tries.append(f"--size {SMALLER} (its views are {side} pixels)")
    return tries


def listed(tries: Sequence[str]) -> str:
    """Several of them in words, of which one may do."""
    return " or ".join(filter(None, (", ".join(tries[:-1]), *tries[-1:])))
