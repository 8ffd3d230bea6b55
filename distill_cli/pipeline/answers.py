"""A run's data as the run knew them, and what networks answer to their images.

Shapes: B batch, K classes, M judges, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.cache.folder import is_cache
from distill_cli.cache.manifest import read_plan
from distill_cli.cache.reader import CacheReader
from distill_cli.data.ahead import copied_ahead
from distill_cli.data.dataset import Dataset
from distill_cli.data.labels import all_known
from distill_cli.data.split_images import Images
from distill_cli.doubt import disagreement
from distill_cli.errors import ArtifactError
from distill_cli.evaluate import Collected, check_answers
from distill_cli.pipeline.evaluate import as_known, data_of
from distill_cli.pipeline.inputs.artifacts import Artifacts
from distill_cli.pipeline.inputs.label_rules import beside_then, rules_for, rules_said
from distill_cli.pipeline.inputs.moved_data import check_moved
from distill_cli.pipeline.inputs.teachers import open_teachers
from distill_cli.recipe.recorded import mapping
from distill_cli.runtime import Runtime
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import PlainView

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images of a run's data that are used alike.

    Attributes:
        split: Their name: those to train on, those held out, or test.
        images: The images, with the labels that the run knew.
        val_rows: int64 places among the images of a `val/` folder, where they are from one; else None.
    """

    split: SplitName
    images: Images
    val_rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images.sample_ids)


# fp32 probabilities (B, K) of images in [0, 1], which are these rows of a part.
Judge = Callable[[Tensor, Part, slice], Tensor]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of M judges to images.

    Attributes:
        mean_NK: fp32 mean of their probabilities.
        answer_MN: int64 likeliest class of each judge.
        disagreement_N: fp64 Jensen-Shannon divergence, nats.
    """

    mean_NK: Tensor
    answer_MN: Tensor
    disagreement_N: Tensor


def data_as_known(
    folder: Path,
    recipe: dict[str, Any],
    view: PlainView | None,
    *,
    data: str | None,
    unlabelled: str | None,
) -> Dataset:
    """A run's data with the labels that it knew and the images that it held out; all others are training rows.

    A label that a self-training made is none that anybody knew.

    Args:
        folder: The run.
        recipe: Its recipe.
        view: The images that its network takes.
        data: Its data's new place; None where they were not moved.
        unlabelled: Images without labels beside them; None for the run's own, if it has some.

    Raises:
        UsageError: The data are nowhere.
        ArtifactError: They are others than the run was trained on, or its images beside them or its files of
            labels are.
    """
    beside = unlabelled or recipe.get("unlabelled")
    check_moved(beside, [str(folder)], key="unlabelled")
    dataset = data_of(folder, data, recipe, view, unlabelled=beside)
    if unlabelled is None and beside and dataset.identity.beside != beside_then(recipe):
        raise ArtifactError(
            f"{folder} was trained beside other images than {beside} has now",
            hint="Give --unlabelled DATA to take these, or those that it had",
        )
    then = mapping(mapping(recipe.get("recorded")).get("dataset"))
    if (trained_on := then.get("fingerprint")) not in (None, dataset.identity.fingerprint):
        raise ArtifactError(
            f"{folder} was trained on other images or labels than {dataset.spec} has now "
            f"(fingerprint {str(trained_on)[:12]}…, now {dataset.identity.fingerprint[:12]}…)",
            hint="Say where they are with --data, or train it again on these",
        )
    # Refuses lists that say something else by now; the rows that the run looked at are no matter here.
    as_known(folder, dataset, recipe)
    return all_known(dataset, rules_for(dataset, recipe, rules_said(recipe)))


def parts_of(dataset: Dataset) -> list[Part]:
    """The images to train on, those held out, and test, of the data as a run knew them."""
    val_rows = None
    if dataset.identity.val_fraction == 0:
        everything = torch.arange(len(dataset.val.sample_ids))
        val_rows = everything if dataset.labels is None else dataset.labels.val_rows
    return [
        Part(split="train", images=dataset.train.take(dataset.fit_rows)),
        Part(split="val", images=dataset.val, val_rows=val_rows),
        Part(split="test", images=dataset.test),
    ]


def judges_of(
    names: Sequence[str], dataset: Dataset, runtime: Runtime, tell: Callable[[str], object]
) -> list[Judge]:
    """Runs, models and caches as judges of a run's images.

    Args:
        names: Their folders.
        dataset: The images.
        runtime: The device that networks compute on.
        tell: Is told of weights without a checksum.

    Raises:
        ArtifactError: One answers yes or no for each label, its classes are others, or a cache is of
            other images, or of images in pairs.
    """
    return [_judge(name, dataset, runtime, tell) for name in names]


def _judge(name: str, dataset: Dataset, runtime: Runtime, tell: Callable[[str], object]) -> Judge:
    if is_cache(Path(name)):
        # A cache may have images from a source beside the data, or not: it is not asked of them.
        plan = read_plan(Path(name))
        identity = dataset.identity.with_unlabelled_of(plan.dataset)
        dataset = replace(dataset, identity=identity)
    (member,) = open_teachers([name], dataset, runtime, "fp32", runs=Artifacts(tell=tell))
    if member.targets != "softmax":
        raise ArtifactError(
            f"{name} answers yes or no for each label: a margin is between classes of which one applies"
        )
    if not isinstance(member, LiveTeacher):
        return _from_cache(member.reader, dataset)

    def ask(images_BCHW: Tensor, part: Part, rows: slice) -> Tensor:
        logits_BK = member.logits(images_BCHW).cpu()
        check_answers(Path(name), logits_BK)
        return F.softmax(logits_BK, dim=-1)

    return ask


def _from_cache(reader: CacheReader, dataset: Dataset) -> Judge:
    """Looks up the mean of a cache's labels over its views; of a `val/` folder what it holds beside.

    Unlabelled images beside the data, which it may have no label of, then get equal probabilities.

    Raises:
        ArtifactError: It labels images in pairs.
    """
    if reader.plan.view_spec.mixes:
        raise ArtifactError(
            f"cache {reader.folder} labels images that are mixed in pairs, and none by itself",
            hint="Dump one without mixup and cutmix",
        )
    known = dataset.train.sample_ids[: reader.plan.dataset.rows]
    row_of = {sample_id: row for row, sample_id in enumerate(known)}
    classes = len(reader.class_names)

    def look_up(images_BCHW: Tensor, part: Part, rows: slice) -> Tensor:
        if part.val_rows is not None:
            stored = reader.eval_rows("val")
            if stored is None:
                raise ArtifactError(f"cache {reader.folder} holds no labels of held-out images")
            return F.softmax(stored[0][part.val_rows[rows]], dim=-1)
        probs_BK = torch.full((len(images_BCHW), classes), 1 / classes)
        row_B = torch.tensor([row_of.get(name, -1) for name in part.images.sample_ids[rows]])
        if len(index_P := row_B[row_B >= 0]):
            views = [
                reader.codec.log_probs(reader.gather(index_P, torch.full_like(index_P, view)), 1.0)
                for view in range(reader.views)
            ]
            probs_BK[row_B >= 0] = torch.stack(views).exp().mean(dim=0)
        return probs_BK

    return look_up


@torch.no_grad()
def answers_to(
    part: Part, batches: Iterable[Tensor], judges: Sequence[Judge], device: torch.device
) -> Answers:
    """The answers of judges to all images of a part, each image read once.

    Args:
        part: The part.
        batches: Its images as uint8 (B, C, H, W), in order.
        judges: One or more.
        device: Device of the networks.
    """
    means, apart, start = Collected(), Collected(), 0
    answers: list[Tensor] = []
    for images_BCHW in copied_ahead(batches, device):
        rows = slice(start, start + len(images_BCHW))
        probs_MBK = torch.stack([judge(images_BCHW / 255, part, rows) for judge in judges])
        means.add(probs_MBK.mean(dim=0))
        apart.add(disagreement(probs_MBK)[:, None])
        answers.append(probs_MBK.argmax(dim=-1))
        start = rows.stop
    return Answers(
        mean_NK=means.rows(),
        answer_MN=torch.cat(answers, dim=1),
        disagreement_N=apart.rows()[:, 0],
    )
