"""How run and model folders are read: whole, or in a dry run without their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_cli.files import real_path
from distill_cli.models import Network, load_model, pretrained_teacher
from distill_cli.pipeline.inputs.teacher_folders import TIMM
from distill_cli.pipeline.kept import kept_recipe


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run that an earlier stage of a dry run stands for.

    Attributes:
        recipe: Every value resolved, as its recipe.yaml would have them.
        network: A network of the architecture that the stage would train.
    """

    recipe: Mapping[str, Any]
    network: Network


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """The folders that a recipe learns from.

    Attributes:
        dry: No weights are read, and none are downloaded: a network has fresh ones in their place.
        coming: Artifacts that are not made yet, by their resolved folders.
        taught_by: Of a run that is gone on with, the fingerprints of its teachers: weights that are
            not read are taken to be these.
        tell: Is told of weights that have no checksum.
    """

    dry: bool = False
    coming: Mapping[Path, PlannedRun] = field(default_factory=dict)
    taught_by: Sequence[str] = ()
    tell: Callable[[str], object] = lambda line: None

    def comes(self, name: str) -> bool:
        """Whether this folder would be made by an earlier stage."""
        return real_path(name) in self.coming

    def recipe(self, name: str) -> Mapping[str, Any]:
        """The recipe.yaml of a run or cache folder; empty for a plain model folder."""
        there = self.coming.get(real_path(name))
        return kept_recipe(Path(name)) if there is None else there.recipe

    def network(self, name: str, class_names: tuple[str, ...] | None = None) -> Network:
        """The network of a run or model folder, in eval mode.

        Args:
            name: The folder.
            class_names: The data's, for a model that timm saved without names of its outputs.

        Raises:
            ArtifactError: Something is missing, damaged, or not ours.
        """
        there = self.coming.get(real_path(name))
        if there is None:
            return load_model(
                Path(name), weights=not self.dry, class_names=class_names, tell=self.tell
            )
        # A copy: who asks for it may freeze it, or change its precision.
        return deepcopy(there.network).eval()

    def teacher(self, name: str, class_names: tuple[str, ...]) -> Network:
        """A saved network, or timm's pretrained one for timm/NAME.

        Args:
            name: A folder, or timm/NAME.
            class_names: The data's, which a head of as many outputs is taken to have.
        """
        if name.startswith(TIMM) and not Path(name).exists():
            return pretrained_teacher(name.removeprefix(TIMM), class_names, weights=not self.dry)
        return self.network(name, class_names)


def once(tell: Callable[[str], object]) -> Callable[[str], None]:
    """The same, but that no line is told twice: several names may lead to one file."""
    told: set[str] = set()

    def tell_new(line: str) -> None:
        if line not in told:
            told.add(line)
            tell(line)

    return tell_new


ON_DISK, DRY = Artifacts(), Artifacts(dry=True)
