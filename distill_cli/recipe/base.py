"""The options that several verbs share, each declared once.

A field is a recipe key, a `--set` path, a `DISTILL_*` variable and a flag; its description is the
help text and its constraint the validation message. Validation is lax about numbers written as
text (`lr: 1e-3` is a string to YAML 1.1) and strict about everything else: unknown keys are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from distill_cli.recipe.device_options import COMPILE, GRAPHS
from distill_cli.recipe.fields import (
    DATA,
    LABELS,
    MODEL,
    RUN,
    TEACHERS,
    TRAINING,
    Channels,
    Command,
    Device,
    Gate,
    Names,
    RateName,
    Text,
    Time,
    option,
)
from distill_cli.recipe.file_options import (
    BACKGROUND,
    DECODING,
    ORIENTATION,
    RESIZE,
    VIEWS_PER_READ,
)
from distill_cli.recipe.label_options import LabelOptions
from distill_cli.recipe.network_options import NetworkOptions
from distill_cli.recipe.noise_options import NoiseOptions
from distill_cli.recipe.objective_options import ObjectiveValues
from distill_cli.recipe.parsing import as_list
from distill_cli.recipe.rank_options import RankOptions
from distill_cli.recipe.rule_options import CHANNELS, DATA_RULES, DEDUPE, MAX_MEGAPIXELS, SPLIT_BY
from distill_cli.recipe.seed_options import SeedOptions
from distill_cli.recipe.time_options import CHECKPOINT_EVERY, GRACE, MAX_TIME
from distill_cli.recipe.unlabelled_options import UNLABELLED
from distill_cli.types import (
    Background,
    DataVersion,
    Decoding,
    OrderName,
    Orientation,
    Resize,
    SplitBy,
    Targets,
)

# The share of train that is held out where nobody says.
VAL_FRACTION = 0.1


class Recipe(BaseModel):
    """The options that every verb shares: the data, its views and the run."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )
    COMMAND: ClassVar[str] = ""

    command: Command | None = Field(None, description="The verb this recipe is for.")
    about: str | None = Field(None, description="A line that `distill recipes list` shows.")
    recorded: dict[str, Any] | None = Field(
        None,
        description="What a run notes beside its recipe; read for the version whose defaults it has.",
    )

    data: Text | None = option(
        None,
        "digits, a folder, .tar, .tar.gz or .zip of class folders, a .csv of files and labels, or "
        "torch/NAME. A relative path is also looked up under $DISTILL_DATA. Default: those of the "
        "teachers, or of the run of --init, where there are such.",
        DATA,
    )
    augment: Names | None = option(
        None,
        "none, light, strong, or a list: crop:4,flip,shift,cutout,rotate:15,affine,rrc,jitter,"
        "downscale:7,grey,mixup,cutmix, v2/NAME (torchvision), timm/rand-m9. Default: light, which suits the data "
        "(grey: shift; colour: crop,flip; large: rrc,flip).",
        DATA,
    )
    val_fraction: float | None = option(
        None, "Share of train held out to choose the epoch (0.1).", DATA, gt=0, lt=1
    )
    size: int | None = option(
        None,
        "Side of a view in pixels (the images' own where they agree, else 224). Up to 128, "
        "images are held in memory; larger ones are read by workers.",
        DATA,
        ge=4,
        le=2048,
    )
    resize: Resize | None = RESIZE
    orientation: Orientation | None = ORIENTATION
    background: Background | None = BACKGROUND
    decoding: Decoding | None = DECODING
    split_seed: int | None = option(
        None, "Seed of the train/held-out split (0); separate from --seed.", DATA, advanced=True
    )
    view_seed: int | None = option(
        None, "Seed of the views; default: --seed, or the cache's.", DATA, advanced=True
    )
    skip_bad: bool = option(
        False,
        "Leave out images that cannot be read; all of them are listed in skipped.txt.",
        DATA,
        advanced=True,
    )
    max_megapixels: int | None = MAX_MEGAPIXELS
    dedupe: bool = DEDUPE
    channels: Channels | None = CHANNELS
    split_by: SplitBy | None = SPLIT_BY
    data_rules: DataVersion | None = DATA_RULES

    seed: int = option(0, "Seed of weights, order and draws.", RUN, ge=0, lt=2**63)
    device: Device = option("auto", "auto, cpu, cuda, cuda:1, mps, …", RUN)
    deterministic: bool = option(
        False, "Refuse kernels that are not deterministic.", RUN, advanced=True
    )
    threads: int | None = option(
        None, "CPU threads (torch's default).", RUN, ge=1, le=1024, advanced=True
    )
    workers: int | None = option(
        None,
        "Processes that read large images and run library transforms (as many as processors, up "
        "to 8).",
        RUN,
        flags=("-j",),
        ge=0,
        le=256,
    )
    out: Text | None = option(
        None, "Output folder; default: the next free one below runs/.", RUN, flags=("-o",)
    )


class TeacherLabels(BaseModel):
    """The options of every verb that asks teachers."""

    teachers: Names | None = option(
        None,
        "Run, model or cache folders, or timm/NAME; separated by commas. A student also takes self, as it "
        "stands, ema, its moving average, and peer:MODEL, which is trained along with it.",
        TEACHERS,
    )
    class_map: Names | None = option(
        None,
        "Where a live teacher has other classes than the data: by-name, or a YAML file of "
        "`class of the data: class or output number of the teacher`; one for all teachers, or one "
        "each.",
        TEACHERS,
    )
    teacher_precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = option(
        "auto",
        "Arithmetic of live teachers: auto takes bf16 on GPUs that have it, else fp32; fp32 too for "
        "--codec fp32.",
        TEACHERS,
        advanced=True,
    )
    force: bool = option(
        False, "Go on with a teacher that is no better than chance.", TEACHERS, advanced=True
    )


class TrainRecipe(Recipe, SeedOptions, RankOptions, LabelOptions, NetworkOptions):
    """The options that every training verb shares."""

    unlabelled: Text | None = UNLABELLED
    model: Text | None = option(
        None,
        "A timm or torchvision name, mlp_800x2, cifar_resnet20, … Default: a small network "
        "suited to the data.",
        MODEL,
    )
    model_args: dict[str, Any] = option(
        {}, "Arguments of the network, as --set model_args.NAME=VALUE.", MODEL, advanced=True
    )
    dropout: float | None = option(None, "Dropout rate of the network.", MODEL, ge=0, lt=1)
    pretrained: bool = option(False, "Start from timm's weights, with a fresh head.", MODEL)
    init: Text | None = option(None, "Start from the weights of this run or model folder.", MODEL)

    epochs: int = option(30, "Passes over the training rows.", TRAINING, ge=1, le=100_000)
    batch_size: int | None = option(
        None,
        "Global batch. Default: 128, or of fewer than 2,560 images the largest power of two that makes "
        "20 steps an epoch, 8 at least.",
        TRAINING,
        flags=("-b",),
        ge=1,
        le=1_000_000,
    )
    views_per_read: int = VIEWS_PER_READ
    lr: float | None = option(
        None,
        "Peak learning rate; default 0.1 (SGD) or 0.001 (AdamW) × batch / 256.",
        TRAINING,
        gt=0,
    )
    opt: str = option(
        "auto", "auto (AdamW for transformers, else SGD) or a timm optimiser's name.", TRAINING
    )
    sched: RateName = option("cosine", "the fall of the learning rate after warm-up.", TRAINING)
    sched_args: dict[str, Any] = option(
        {},
        "Arguments of timm's scheduler, as --set sched_args.power=2.",
        TRAINING,
        advanced=True,
    )
    min_lr: float = option(
        0.0, "Where the learning rate's fall ends.", TRAINING, ge=0, advanced=True
    )
    warmup_epochs: float = option(1.0, "Epochs of linear warm-up.", TRAINING, ge=0)
    weight_decay: float | None = option(
        None, "Default 5e-4 (SGD) or 0.05 (AdamW); never on biases and norms.", TRAINING, ge=0
    )
    momentum: float = option(0.9, "Momentum of SGD.", TRAINING, ge=0, lt=1, advanced=True)
    layer_decay: float | None = option(
        None,
        "Factor of the learning rate from each layer to the one before it.",
        TRAINING,
        gt=0,
        le=1,
        advanced=True,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        "Of forward and backward: auto takes bf16 (fp16 on older GPUs) where the hardware has it; a CPU "
        "that has no instructions for bf16 is some ten times slower with it.",
        TRAINING,
    )
    accumulate: int = option(
        1, "Parts in which a batch goes through the network, to save memory.", TRAINING, ge=1
    )
    ema: float | None = option(
        None,
        "Decay of a moving average of the weights, as 0.999; it is what is evaluated and saved.",
        TRAINING,
        gt=0,
        lt=1,
    )
    clip_grad: float | None = option(
        None, "Bound of the gradient's norm.", TRAINING, gt=0, advanced=True
    )
    clip_mode: Literal["norm", "value", "agc"] = option(
        "norm", "What clip-grad bounds.", TRAINING, advanced=True
    )
    compile: bool | Literal["auto"] = COMPILE
    graphs: Literal["auto", "on", "off"] = GRAPHS

    checkpoint_every: Time = CHECKPOINT_EVERY
    max_time: Time | None = MAX_TIME
    grace: Time = GRACE


class LabelledRecipe(TrainRecipe, NoiseOptions, ObjectiveValues):
    """The options of every verb that trains a classifier to its end."""

    objective: str | list[dict[str, Any]] = option(
        "ce", "Names of objectives (`distill methods`) by commas, or a list in a recipe.", LABELS
    )
    label_smoothing: float | None = option(
        None, "Mass ε spread over all classes of the hard label.", LABELS, ge=0, lt=1
    )
    groups: Text | None = option(
        None,
        "Which classes are alike: words (names that end in the same word), a YAML file of lists "
        "of class names, or a CSV of a K×K matrix.",
        LABELS,
    )
    targets: Targets | None = option(
        None,
        "softmax: one class applies to an image; sigmoid: each by itself, yes or no. Default: "
        "sigmoid where several labels may apply to an image.",
        LABELS,
    )
    order: OrderName | None = option(
        None,
        "shuffled, or balanced: every batch shows as many classes as fit in it at least twice, all "
        "alike often, in an epoch of as many images. Default: as the objective wants, else "
        "shuffled.",
        TRAINING,
    )
    require: Annotated[list[Gate], BeforeValidator(as_list)] = option(
        [],
        "Gate on a figure of result.json, as test_top1>=0.97; repeatable. Exit code 5. With --seeds of "
        "the mean; each:test_top1>=0.97 of every one.",
        RUN,
    )
