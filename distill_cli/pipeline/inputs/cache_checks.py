"""Checks of caches before anyone learns from them: the error of their codec, and their pixels."""

from __future__ import annotations

from collections.abc import Sequence

from distill_cli import runtime
from distill_cli.cache.pixel_probe import TOLERANCE, PixelProbe, as_grey_levels, chosen
from distill_cli.cache.plan import Plan
from distill_cli.cache.reader import CacheReader
from distill_cli.data.views import Views
from distill_cli.errors import ArtifactError, counted
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import needs_of
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.training.events import Sink
from distill_cli.types import Need


def say_losses(members: Sequence[Member], composed: Composition, sink: Sink) -> None:
    """Says what each lossy cache loses at the temperatures that the objectives ask for.

    What a cache knows of its losses is of probabilities that sum to 1.
    """
    taught = [
        part.objective
        for part in composed.parts
        if Need.TEACHER in needs_of(part.objective) and "softmax" in part.objective.info.targets
    ]
    asked = {float(getattr(objective, "temperature", 1.0)) for objective in taught}
    for member in members:
        if not isinstance(member, CachedTeacher) or member.reader.plan.codec == "fp32":
            continue
        reader = member.reader
        for temperature in sorted(asked):
            if (error := reader.error_at(temperature)) is not None:
                sink.message(
                    f"cache {reader.folder} ({reader.plan.codec}): at T = {temperature:g} its "
                    f"labels are {error[0]:.2g} nats from the teacher's (worst {error[1]:.2g})"
                )


def check_pixels(members: Sequence[Member], views: Views) -> None:
    """Makes a few of the views that each cache was made of again, and compares.

    Raises:
        ArtifactError: They are other pixels: a library, a decoder or the processor changed them.
    """
    for member in members:
        if isinstance(member, CachedTeacher):
            check_probe(member.reader, views)


def probe_of(plan: Plan, views: Views) -> PixelProbe:
    """A few of the views that a cache is made of, to be kept with it."""
    index_P, view_P = chosen(plan.dataset.rows, plan.views)
    images_PCHW = as_grey_levels(views.batch(index_P, view_P).images_BCHW)
    return PixelProbe(index_P=index_P, view_P=view_P, images_PCHW=images_PCHW)


def check_probe(reader: CacheReader, views: Views) -> None:
    """Compares a cache's probe with the same views made here; there may be none.

    Raises:
        ArtifactError: It is more than rounding.
    """
    probe = reader.probe
    if probe is None:
        return
    made = views.batch(probe.index_P, probe.view_P)
    worst, position = probe.difference(made.images_BCHW)
    if worst > TOLERANCE:
        plan = reader.plan
        now = {**runtime.versions(), "CPU": runtime.cpu_capability()}
        then = {**plan.versions, "CPU": plan.cpu_capability}
        changed = [
            f"{key} {then[key]} → {now.get(key)}" for key in then if then[key] != now.get(key)
        ]
        sample = views.images.sample_ids[int(probe.index_P[position])]
        raise ArtifactError(
            f"the views of cache {reader.folder} are other pixels here: view "
            f"{int(probe.view_P[position])} of sample {sample} differs by {counted(worst, 'grey level')} "
            f"(since it was made: {', '.join(changed) or 'no library that is recorded'})",
            hint="Install the versions it was made with, or dump again",
        )
