"""The teacher gate: nobody learns from a teacher that is no better than guessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from distill_cli.cache.plan import IMPORTED
from distill_cli.data.dataset import Dataset
from distill_cli.data.split_images import Images
from distill_cli.errors import ArtifactError
from distill_cli.evaluate import logits_of
from distill_cli.metrics import in_groups
from distill_cli.models import Network
from distill_cli.pipeline.inputs.artifacts import ON_DISK, Artifacts
from distill_cli.pipeline.inputs.remedies import listed, remedies
from distill_cli.pipeline.inputs.teacher_folders import TIMM
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.teachers.gate import Judgement, judge, judge_labels, sampled
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.events import Sink
from distill_cli.types import UNLABELLED, Targets

FORCED = "Say with --targets which they are, of both; --force goes on nevertheless"
DISORDER = (
    "Its classes or its rows may be in another order than the data's, or the labels of other images"
)
OTHERWISE = "another --lr"
# Held-out labels from which on a run that does not know all labels judges its teachers.
ENOUGH = 50
UNTRAINED = "Its head may be untrained, its classes in another order or its images unlike these"


def check_knowledge(
    names: Sequence[str],
    members: Sequence[Member],
    dataset: Dataset,
    device: torch.device,
    sink: Sink,
    *,
    force: bool = False,
    runs: Artifacts = ON_DISK,
) -> None:
    """The teacher gate: each is measured on the held-out images, as the student will see them.

    Args:
        names: The teachers' names, as the user knows them.
        members: The teachers.
        dataset: Whose held-out images are asked of.
        device: The device that live teachers compute on.
        sink: Is told how good each is.
        force: Go on with one that is no better than guessing.
        runs: The reader of their folders; in a dry run no network is asked, and stored labels are
            looked at nevertheless.

    Raises:
        ArtifactError: A teacher is no better than naming the most frequent class.
    """
    for name, member in zip(names, members, strict=True):
        if runs.dry and isinstance(member, LiveTeacher):
            continue
        verdict = _verdict(member, dataset, device)
        if verdict is None:
            sink.message(f"teacher {name} is not measured: {_why_not(member, dataset)}")
            continue
        if _too_few(dataset):
            told = verdict.finding("held-out image")
            sink.message(f"teacher {name}: {told}, too few to judge it by")
            continue
        hint = _before_force(name, member, dataset, runs)
        check_verdict(f"teacher {name}", verdict, sink, force=force, hint=hint)


def _too_few(dataset: Dataset) -> bool:
    """Whether a run that knows few labels holds so few out that a good teacher might fail by chance.

    They may be wrong, too: of 50 that are right in six of ten cases, no good teacher fails.
    """
    labels = dataset.labels
    return labels is not None and bool(labels.hidden or labels.noise) and labels.held_out < ENOUGH


def _before_force(name: str, member: Member, dataset: Dataset, runs: Artifacts) -> str:
    """The likely reason why a teacher knows nothing, and what to try before it is learnt from."""
    recipe, side = runs.recipe(name), max(dataset.height, dataset.width)
    if isinstance(member, CachedTeacher):
        plan = member.reader.plan
        if plan.architecture.startswith(IMPORTED):
            return DISORDER
        # Of the run that it was dumped from, a cache knows the network and the views.
        tries = remedies({}, architecture=plan.architecture, side=side, rows=None)
        return f"{UNTRAINED}. Train its teacher anew, with {listed(tries)}, and dump it again"
    architecture = member.network.architecture
    if not recipe:
        tuned = f"distill teacher train --pretrained --model {architecture}"
        if name.startswith(TIMM):
            return f"{UNTRAINED}. Train it on these images first, by `{tuned}`"
        return UNTRAINED
    recorded = recipe.get("recorded")
    rows = recorded.get("trained_on") if isinstance(recorded, Mapping) else None
    known = rows if type(rows) is int else None
    tries = remedies(recipe, architecture=architecture, side=side, rows=known)
    return f"{UNTRAINED}. Train it anew, with {listed([*tries, OTHERWISE])}"


def check_targets(
    names: Sequence[str], members: Sequence[Member], targets: Targets, *, force: bool | None = None
) -> None:
    """Refuses a teacher whose outputs are logits of something else.

    Args:
        names: The teachers' names, as the user knows them.
        members: The teachers.
        targets: The targets of the network that is compared with them.
        force: Go on nevertheless; None where that cannot be asked for.

    Raises:
        ArtifactError: One speaks of one class of all, the other of each class by itself.
    """
    for name, member in zip(names, members, strict=True):
        if member.targets != targets and not force:
            raise ArtifactError(
                f"teacher {name} has {member.targets} targets, the student has {targets} targets",
                hint=None if force is None else FORCED,
            )


def check_verdict(
    subject: str,
    verdict: Judgement,
    sink: Sink,
    *,
    force: bool,
    hint: str,
    image: str = "held-out image",
) -> None:
    """Says what a teacher got right, and refuses one that is no better than guessing.

    Args:
        subject: The teacher, as the user knows it.
        verdict: On its answers.
        sink: Is told.
        force: Go on nevertheless.
        hint: A likely reason.
        image: The noun for one that it was asked of.

    Raises:
        ArtifactError: It is no better than naming the most frequent class.
    """
    message = verdict.finding(image)
    if not verdict.conclusive:
        message += ", too little to tell it from chance"
    elif not verdict.passed:
        message += f", where {verdict.baseline()}"
        if not force:
            raise ArtifactError(
                f"{subject} is {message}: no better than chance",
                hint=f"{hint}; --force goes on nevertheless",
            )
    sink.message(f"{subject}: {message}")


def _verdict(member: Member, dataset: Dataset, device: torch.device) -> Judgement | None:
    if isinstance(member, LiveTeacher):
        # A few images are enough for the verdict; a cache has them all.
        return asked_of(member.logits, dataset, device)
    stored_NK = stored_held_out(member, dataset)
    return None if stored_NK is None else judged(stored_NK, dataset.val, dataset.group_K)


def stored_held_out(teacher: CachedTeacher, dataset: Dataset) -> Tensor | None:
    """A cache's fp32 logits (N, K) on the images that a run holds out; None where it has none of them."""
    if dataset.labels is None:
        return teacher.split_logits("val", dataset.val)
    return teacher.part_of_val(dataset.labels.val_labels, dataset.labels.val_rows)


def asked_of(
    logits: Callable[[Tensor], Tensor], dataset: Dataset, device: torch.device
) -> Judgement | None:
    """The verdict on a network, asked of some held-out images; None where none is labelled."""
    val = dataset.val
    rows = sampled(val.key_N, val.label_N, val.label_NK)
    if not len(rows):
        return None
    asked = val.take(rows)
    return judged(logits_of(logits, asked.iter_plain(), device), asked, dataset.group_K)


def at_chance(
    network: Network, dataset: Dataset, device: torch.device, tries: Sequence[str] = ()
) -> str | None:
    """A warning about a trained network that would not pass the gate; None where it would.

    Args:
        network: What was trained.
        dataset: Whose held-out images are asked of.
        device: The device to compute on.
        tries: What to try, before what helps against a loss that blew up.
    """
    verdict = None if _too_few(dataset) else asked_of(network, dataset, device)
    if verdict is None or not verdict.conclusive or verdict.passed:
        return None
    said = f"{verdict.finding('held-out image')}, where {verdict.baseline()}"
    # Measured: DKD and DIST at their weights, on networks without batch norm, need such a bound.
    return f"no better than chance: {said}. Try {listed([*tries, '--set clip_grad=1', OTHERWISE])}"


def judged(logits_NK: Tensor, asked: Images, group_K: Tensor | None = None) -> Judgement | None:
    """The verdict on what was said of some images; None where none of them is labelled.

    Args:
        logits_NK: What was said.
        asked: The images.
        group_K: The group of each class, where labels name groups.
    """
    if group_K is not None:
        return judge(*in_groups(logits_NK, asked.label_N, group_K))
    if asked.label_NK is None:
        return judge(logits_NK, asked.label_N)
    rows = sampled(asked.key_N, asked.label_N, asked.label_NK)
    return judge_labels(logits_NK[rows], asked.label_NK[rows])


def _why_not(member: Member, dataset: Dataset) -> str:
    if not len(dataset.val.label_N):
        return "there is no held-out image that it could be shown"
    if not dataset.multi_label and not bool((dataset.val.label_N != UNLABELLED).any()):
        return "no held-out image has a label"
    assert isinstance(member, CachedTeacher)
    if member.reader.eval_rows("val") is None:
        return "its cache has no evaluation rows"
    return "the held-out images are others than when its cache was dumped"
