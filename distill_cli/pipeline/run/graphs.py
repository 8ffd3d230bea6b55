"""Whether the steps of a run are recorded as CUDA graphs, and why not where they are not."""

from __future__ import annotations

from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.teachers.mixture import unrecordable
from distill_cli.training.events import Sink
from distill_cli.training.graphs import WORTH_IT, StepGraphs, check_wanted
from distill_cli.training.optim import uncapturable
from distill_cli.training.optimisation import Optimisation


def step_graphs(
    prepared: PreparedRun, optimisation: Optimisation, steps: int, sink: Sink
) -> StepGraphs | None:
    """The recorder of a run's steps; None where they are taken one operation at a time.

    Args:
        prepared: The run.
        optimisation: Of its weights.
        steps: Steps of an epoch.
        sink: Is told the reason of what is not recorded, where it is not the choice of the user.

    Raises:
        UsageError: `--graphs on`, and there is a reason.
    """
    wanted, device = prepared.recipe.graphs, prepared.runtime.device
    if wanted == "off":
        return None
    cause = _reason(prepared, optimisation)
    check_wanted(wanted, device, cause)
    if device.type != "cuda":
        return None
    if cause is not None:
        sink.message(f"no CUDA graphs: {cause}")
        return None
    if wanted == "auto" and prepared.recipe.epochs * steps < WORTH_IT:
        return None
    return StepGraphs(device, must=wanted == "on", tell=sink.message)


def _reason(prepared: PreparedRun, optimisation: Optimisation) -> str | None:
    """Why steps of this run cannot be recorded; None where they can."""
    if prepared.runtime.shard != "none":
        return "--shard gathers weights in every step"
    if prepared.peers:
        return "networks are trained along, each at a rate of its own"
    for optimizer in optimisation.optimizers:
        if (reason := uncapturable(optimizer)) is not None:
            return reason
    return unrecordable(prepared.teacher)
