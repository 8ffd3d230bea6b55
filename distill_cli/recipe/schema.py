"""The options of every verb: what it shares with others, and what is its own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from distill_cli.recipe.base import LabelledRecipe, Recipe, TeacherLabels, TrainRecipe
from distill_cli.recipe.cross_fit_options import CrossFitOptions
from distill_cli.recipe.device_options import DUMP_GRAPHS
from distill_cli.recipe.fields import (
    DATA,
    HINTS,
    LABELS,
    RUN,
    TEACHERS,
    CodecName,
    Device,
    Names,
    Numbers,
    PartOfDump,
    Text,
    option,
)
from distill_cli.recipe.peer_options import PeerOptions
from distill_cli.recipe.round_options import RoundOptions
from distill_cli.recipe.stream_options import UNLABELLED_SHARE, StreamOptions
from distill_cli.recipe.unlabelled_options import TEACHER_DATA, UNLABELLED
from distill_cli.types import ScheduleName

Kind = Literal["votes", "probabilities", "logits"]


class HintLayers(TeacherLabels):
    """The options that name the layers of hints."""

    hint_layer: Text | None = option(
        None, "Layer of the teacher (`distill models taps`; auto: the middle one).", HINTS
    )
    guided_layer: Text | None = option(
        None, "Layer of the student that learns from it (auto: the middle one).", HINTS
    )


class TeacherRecipe(LabelledRecipe):
    """`distill teacher train`: hard labels, or any objective that needs no teacher."""

    COMMAND: ClassVar[str] = "teacher train"

    force: bool = option(
        False,
        "Go on where the copy that tfkd-self trains first is no better than chance.",
        LABELS,
        advanced=True,
    )


class StudentRecipe(LabelledRecipe, HintLayers, StreamOptions, PeerOptions):
    """`distill student`: a network that learns from teachers."""

    COMMAND: ClassVar[str] = "student"

    teacher_data: Text | None = TEACHER_DATA
    mode: Literal["single", "ensemble", "random", "relabel"] | None = option(
        None,
        "single, ensemble (their weighted mean), random (one teacher a batch) or relabel (a copy of "
        "the data for each). Default: single for one teacher, ensemble for several.",
        TEACHERS,
    )
    random_per: Literal["batch", "sample"] | None = option(
        None, "What --mode random draws a teacher for: batch, sample (batch).", TEACHERS
    )
    ensemble_of: Literal["probabilities", "logits"] | None = option(
        None, "What --mode ensemble averages: probabilities, logits (probabilities).", TEACHERS
    )
    teacher_weights: Numbers | None = option(
        None, "Weight of each teacher, by commas; scaled to sum 1. Default: equal.", TEACHERS
    )
    objective: str | list[dict[str, Any]] = option(
        "kd", "Names of objectives (`distill methods`) by commas, or a list in a recipe.", LABELS
    )
    temperature: float | None = option(
        None, "Softens teacher and student (mostly 4).", LABELS, flags=("-T",), gt=0, le=1000
    )
    alpha: float | None = option(
        None,
        "Weight of the soft term (kd: 0.9; others as published); the hard term has 1 − alpha.",
        LABELS,
        ge=0,
        le=1,
    )
    alpha_end: float | None = option(
        None, "alpha at the end of its schedule (0 where one is chosen).", LABELS, ge=0, le=1
    )
    schedule: ScheduleName | None = option(
        None,
        "the way of alpha to alpha-end; step changes half-way. Default: linear with --alpha-end, "
        "else constant.",
        LABELS,
    )

    hints: bool = option(
        False, "FitNets: hint-init first, then distillation with a falling weight.", HINTS
    )
    hint_epochs: int | None = option(
        None, "Epochs of the first stage (a third of --epochs).", HINTS, ge=1
    )
    generations: int | None = option(
        None,
        "Born-again networks: each generation learns from the one before; this is the number of "
        "students.",
        TEACHERS,
        ge=1,
        le=100,
    )
    stages: list[dict[str, Any]] = option(
        [],
        "Several students after each other, in a recipe: a mapping of keys for each, with a `name`; "
        "`teachers: stage:NAME` and `init: stage:NAME` mean an earlier one.",
        RUN,
        advanced=True,
    )


class HintRecipe(TrainRecipe, HintLayers):
    """`distill hint-init`: FitNets stage 1."""

    COMMAND: ClassVar[str] = "hint-init"


class SelfTrainRecipe(LabelledRecipe, RoundOptions):
    """`distill self-train`: rounds in which a network labels the images that the next one learns from."""

    COMMAND: ClassVar[str] = "self-train"

    unlabelled_share: float | None = UNLABELLED_SHARE
    force: bool = option(
        False,
        "With --soft: go on from a round that is no better than chance.",
        LABELS,
        advanced=True,
    )


class StoredLabels(BaseModel):
    """The options of every verb that makes a cache."""

    views: int = option(1, "Views stored of every training sample.", TEACHERS, ge=1, le=100_000)
    codec: CodecName = option(
        "fp32",
        "fp32, fp16, bf16, or topk:J: the J likeliest classes and the mass of the others.",
        TEACHERS,
    )
    shard_length: int | None = option(
        None,
        "Rows of a shard, the unit of commit (8,192, or a sixteenth of the samples if more; fewer "
        "where there are so many classes that a shard's logits took over 256 MB).",
        TEACHERS,
        ge=1,
        advanced=True,
    )
    sample_ids: bool = option(
        True,
        "Store the names of the images beside their labels, some 6 bytes each, for other readers.",
        TEACHERS,
        advanced=True,
    )


class CacheRecipe(Recipe, StoredLabels, TeacherLabels, CrossFitOptions):
    """`distill cache-soft-labels`: what teachers say of every view, stored."""

    COMMAND: ClassVar[str] = "cache-soft-labels"

    unlabelled: Text | None = UNLABELLED
    part: PartOfDump | None = option(
        None, "Dump one part of several, as 3/8, to be merged later.", TEACHERS
    )
    publish: bool = option(
        False, "Write a README.md card into the cache, for sharing it as a dataset.", RUN
    )
    licence: Text | None = option(
        None, "Licence that the card names, as cc-by-4.0.", RUN, advanced=True
    )
    teacher_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = option(
        "auto",
        "Rows of one teacher forward; part of the plan. auto: 256, more of small images on GPUs.",
        TEACHERS,
        advanced=True,
    )
    compile: bool = option(False, "Compile the teachers with torch.compile.", TEACHERS)
    graphs: Literal["auto", "on", "off"] = DUMP_GRAPHS


class ImportRecipe(Recipe, StoredLabels):
    """`distill cache import`: labels that other people or tools made, as a cache."""

    COMMAND: ClassVar[str] = "cache import"

    unlabelled: Text | None = UNLABELLED
    labels: Text | None = option(
        None, "The file, where it is not the command's argument.", DATA, advanced=True
    )
    kind: Kind | None = option(
        None,
        "What the numbers are: votes, probabilities or logits. Default: votes in a .csv, the name "
        "of the array in an .npz.",
        TEACHERS,
    )
    smoothing: float = option(
        0.0, "Votes that are added to every class of every image.", TEACHERS, ge=0, le=1e6
    )
    force: bool = option(
        False, "Go on with labels that are no better than chance.", TEACHERS, advanced=True
    )
    augment: Names | None = option(
        None,
        "Views of an image that its label also holds for, as `cache-soft-labels` has them; none "
        "that mixes images. Default: none, the image as it is.",
        DATA,
    )
    device: Device = option(
        "cpu", "Where the few views are made that pixels are compared with.", RUN, advanced=True
    )


RECIPES: dict[str, type[Recipe]] = {
    cls.COMMAND: cls
    for cls in (
        *(TeacherRecipe, StudentRecipe, HintRecipe, SelfTrainRecipe),
        *(CacheRecipe, ImportRecipe),
    )
}
