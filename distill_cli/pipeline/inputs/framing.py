"""How pictures become pixels: as a recipe says, as its teachers saw them, as a cache began. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from distill_cli.cache.folder import PLAN, is_cache
from distill_cli.cache.manifest import read_manifest, read_plan
from distill_cli.errors import ArtifactError
from distill_cli.pipeline.inputs.located import locate
from distill_cli.readers.json_values import read_json
from distill_cli.recipe.base import Recipe
from distill_cli.recipe.earlier import FRAMING, framing_then
from distill_cli.recipe.recorded import made_by
from distill_cli.types import EARLIER_FRAMING, FRAMINGS, Framing

R = TypeVar("R", bound=Recipe)


def framing_of(recipe: Recipe) -> Framing:
    """The framing that a recipe says, by default that of the version whose defaults it has."""
    default = framing_then(made_by(recipe.recorded))
    given = {key: getattr(recipe, key) for key in FRAMINGS}
    return Framing(**{key: given[key] or getattr(default, key) for key in FRAMINGS})


def framed_as(recipe: R) -> R:
    """The recipe with its framing spelt out."""
    return recipe.model_copy(update=asdict(framing_of(recipe)))


def as_begun(recipe: R, folders: Sequence[Path]) -> R:
    """The recipe of a dump, which goes on with the framing that it was begun with.

    Args:
        recipe: The recipe of a verb that makes caches.
        folders: The folders of the caches, which may be there.

    Raises:
        ArtifactError: A plan is malformed.
    """
    for folder in folders:
        if (folder / PLAN).is_file():
            return _filled(recipe, read_plan(folder).view_spec.framing)
    return recipe


def _filled(recipe: R, framing: Framing) -> R:
    """The recipe with the framing where it says none."""
    values = asdict(framing)
    missing = [key for key in FRAMINGS if getattr(recipe, key) is None]
    return recipe.model_copy(update={key: values[key] for key in missing})


def as_shown(recipe: R, teachers: Sequence[str], kept: Callable[[str], Mapping[str, Any]]) -> R:
    """The recipe with the framing of the pictures that its teachers saw, where it says none.

    Caches decide, since their labels are of their views. The recipe of an earlier version's run meant
    that version's framing, whatever its live teachers saw.

    Args:
        recipe: The recipe of any verb, with its data.
        teachers: Its teachers; none where it asks none.
        kept: The recipe of a folder.

    Raises:
        ArtifactError: Teachers of picture files saw them in different ways, or the plan of a cache is
            malformed.
    """
    caches = [name for name in teachers if is_cache(Path(name))]
    if not caches and framing_then(made_by(recipe.recorded)) == EARLIER_FRAMING:
        return recipe
    shown = {name: _framing_shown(name, kept(name)) for name in teachers}
    known = {name: asdict(framing) for name, framing in shown.items() if framing is not None}
    deciding = [values for name, values in known.items() if not caches or name in caches]
    open_keys = [key for key in FRAMINGS if getattr(recipe, key) is None]
    # Caches that differ are refused as caches, since no option has them agree.
    if _are_files(recipe.data) and not (caches and any(v != deciding[0] for v in deciding)):
        _check_mixed(known, open_keys, deciding[0] if caches else asdict(FRAMING))
    agreed = [key for key in open_keys if len({values[key] for values in deciding}) == 1]
    return recipe.model_copy(update={key: deciding[0][key] for key in agreed})


def _are_files(data: str | None) -> bool:
    """Whether images are pictures in files, which can be framed in several ways."""
    return data is not None and Path(locate(data)).exists()


def _check_mixed(
    shown: Mapping[str, Mapping[str, str]], keys: Sequence[str], offered: Mapping[str, str]
) -> None:
    """Refuses teachers that saw pictures in different ways, where the recipe does not say in which.

    Args:
        shown: The framing of each teacher for which it is known.
        keys: The keys that the recipe leaves open.
        offered: The framing that the message suggests.

    Raises:
        ArtifactError: With the keys that differ, and what to say.
    """
    mixed = [key for key in keys if len({values[key] for values in shown.values()}) > 1]
    if mixed:
        listed = "; ".join(
            f"{key} ({', '.join(f'{name}: {values[key]}' for name, values in shown.items())})"
            for key in mixed
        )
        options = " ".join(f"--set {key}={offered[key]}" for key in mixed)
        raise ArtifactError(
            f"the teachers were made with different {listed}",
            hint=f"Say which pictures all of them are shown, as {options}",
        )


def _framing_shown(name: str, kept: Mapping[str, Any]) -> Framing | None:
    """The framing of the pictures that a teacher saw; None where it is not known.

    Args:
        name: A run, model or cache folder, or timm/NAME.
        kept: The teacher's recipe; of a run to come, the only thing there is.

    Raises:
        ArtifactError: The plan of a cache is malformed.
    """
    folder = Path(name)
    if is_cache(folder):
        plan = read_plan(folder) if (folder / PLAN).is_file() else read_manifest(folder).plan
        return plan.view_spec.framing
    configs = [folder / "model/config.json", folder / "config.json"]
    try:
        # Versions before 0.6.0 kept no `decoding`, which was full.
        given = {key: kept[key] for key in FRAMINGS if kept.get(key)}
        if given.keys() >= FRAMINGS.keys() - {"decoding"}:
            return Framing.from_json(given)
        config = next((config for config in configs if config.is_file()), None)
        return None if config is None else Framing.from_json(_view(config))
    except (ArtifactError, ValueError, TypeError, KeyError, AttributeError):
        # A recipe or config that is none of ours is refused by its reader, with the reason.
        return None


def _view(config: Path) -> Mapping[str, Any]:
    """The view of a model's config; empty where a version before 0.4.0 saved it."""
    view: Mapping[str, Any] = read_json(config)["distill"].get("view") or {}
    return view
