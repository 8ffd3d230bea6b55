"""A run that is opened and checked, and what identifies it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from distill_cli.data.dataset import Dataset
from distill_cli.files import real_path
from distill_cli.models import Network
from distill_cli.pipeline.inputs.file_options import files_named
from distill_cli.pipeline.inputs.other_views import ViewSpecs
from distill_cli.pipeline.inputs.teacher_data import TeacherData
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.pipeline.objective.layers import Layers
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.earlier import counts_labelled_then
from distill_cli.recipe.own_folder import FOLDER
from distill_cli.recipe.recorded import made_by
from distill_cli.recipe.resolved import ResolvedLabelled, ResolvedRecipe
from distill_cli.recipe.schema import HintRecipe, SelfTrainRecipe, StudentRecipe, TeacherRecipe
from distill_cli.runtime import Runtime
from distill_cli.training.peers import Peer
from distill_cli.training.sharded import ShardedWeights
from distill_cli.types import OrderName, Teacher, ViewSpec

# The name of the run folder where the recipe names none.
KINDS: dict[type[TrainRecipe], str] = {
    TeacherRecipe: "teacher",
    StudentRecipe: "student",
    HintRecipe: "hints",
    SelfTrainRecipe: "self-train",
}
# Keys that do not change what is trained, so that a resumed run may have others.
NOT_TRAINING = {
    *("out", "require", "about", "recorded", "device", "threads", "workers", "data", "unlabelled"),
    "teacher_data",
    "teachers",
    *("force", "class_map", "graphs", "checkpoint_every", "max_time", "grace"),
    *("max_megapixels", "rank_timeout", "shard"),
}
# What stands for the path of a file in them: what it holds counts by itself, wherever it lies.
A_FILE = "a file"


def training_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe that change what is trained, without the paths of files."""
    kept = {key: value for key, value in values.items() if key not in NOT_TRAINING}
    return kept | dict.fromkeys(files_named(values), A_FILE)


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """Everything a run needs, opened and checked; nothing is written yet.

    Attributes:
        recipe: The options, every one resolved.
        recorded: How the run came about: machine, versions, data, teachers, layers.
        runtime: Device and precision.
        dataset: The images and their splits.
        specs: The views of the training images: the student's, and others beside them.
        stored_views: Views that a cache stores of each image; None without a cache.
        members: The teachers that are there before it, one by one.
        teacher: The teachers as one; None where nobody teaches.
        teacher_data: What live teachers see in place of the student's images; None for the same ones.
        layers: The objectives, the layers that they compare, and their adapters.
        network: The student, on its device.
        optimizer: The optimiser of the student and of the adapters that share it.
        weights: The student's weights, where they lie in parts on several ranks; else None.
        start: A digest of what they were before; empty where they lie whole.
        peers: Networks that are trained along.
    """

    recipe: ResolvedRecipe
    recorded: Mapping[str, Any]
    runtime: Runtime
    dataset: Dataset
    specs: ViewSpecs
    stored_views: int | None
    members: tuple[Member, ...]
    teacher: Teacher | None
    layers: Layers
    network: Network
    optimizer: torch.optim.Optimizer
    teacher_data: TeacherData | None = None
    weights: ShardedWeights | None = None
    start: str = ""
    peers: tuple[Peer, ...] = ()

    @property
    def spec(self) -> ViewSpec:
        """The views that the student learns from."""
        return self.specs.student

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.recipe.out)

    @property
    def kept(self) -> ResolvedRecipe:
        """The recipe as recipe.yaml has it: with what is recorded below it."""
        recorded = {**self.recorded, FOLDER: str(real_path(self.run))}
        return self.recipe.model_copy(update={"recorded": recorded})

    @property
    def order(self) -> OrderName:
        """In which order the samples of an epoch follow each other."""
        return self.recipe.order if isinstance(self.recipe, ResolvedLabelled) else "shuffled"

    @property
    def counts_labelled(self) -> bool:
        """Whether labelled images are counted in each batch, as its version did."""
        return counts_labelled_then(made_by(self.recorded))

    @property
    def is_hint_init(self) -> bool:
        """Whether only the layers up to a hint are trained, and no labels are learnt."""
        return isinstance(self.recipe, HintRecipe)

    @property
    def key(self) -> str:
        """Identifies what is trained from what: recipe, data and teachers."""
        return self.key_of(training_values(self.recipe.model_dump(mode="json")))

    def key_of(self, values: Mapping[str, Any]) -> str:
        """The same, of a recipe in other words.

        Args:
            values: The keys of that recipe, but for those of `NOT_TRAINING`.
        """
        teacher = None if self.teacher is None else self.teacher.fingerprint
        parts = [values, self.dataset.identity.to_json(), self.spec.to_json(), teacher]
        parts += [] if self.teacher_data is None else [self.teacher_data.to_json()]
        # Groups and centroids of classes count too: their file or run may be another one by now.
        parts += [self.layers.context_fingerprint] if self.layers.context_fingerprint else []
        # So do labels that are not those on disk: a file of them may be another one too.
        labels = self.dataset.labels
        parts += [] if labels is None else [one for one in (labels.digest, labels.beside) if one]
        return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
