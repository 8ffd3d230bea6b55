"""The student as its own teacher among the teachers of a recipe, and why it is refused where it is."""

from __future__ import annotations

from collections.abc import Sequence

from distill_cli.errors import UsageError
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import needs_of
from distill_cli.pipeline.inputs.teacher_folders import OWN, moves
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.peer_options import is_peer
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.runtime import Runtime
from distill_cli.teachers.own import AVERAGE, SELF, Mode, OwnTeacher, own_teacher
from distill_cli.training.peers import Peer
from distill_cli.types import Need, Targets, Teacher

EACH_BY_ITSELF = (
    "its logits are those of a whole batch, and here each image asks a teacher by itself"
)


def outside(names: Sequence[str]) -> list[str]:
    """The teachers that are there before the student learns: all but the student itself."""
    return [name for name in names if not moves(name)]


def mode_of(recipe: StudentRecipe) -> Mode:
    """How the teacher `self` is asked."""
    return recipe.self.get("mode", "train")


def check_own(recipe: StudentRecipe, composed: Composition) -> None:
    """Refuses the student as its own teacher where that cannot be, or would teach it nothing.

    Args:
        recipe: Its recipe.
        composed: Its objectives.

    Raises:
        UsageError: With the reason.
    """
    names = recipe.teachers or []
    own = [name for name in names if name in OWN]
    if not own:
        if recipe.self:
            raise UsageError("self.mode is of the teacher self", hint="Add --teachers self")
        return
    if len(set(own)) < len(own):
        raise UsageError(f"teacher {own[0]} is named twice", hint="Name it once")
    if recipe.class_map and len(recipe.class_map) > 1:
        raise UsageError(
            f"teacher {own[0]} has the student's classes: of several class maps none is for it",
            hint="Give one map for all the others, or none",
        )
    if recipe.class_map and len(own) == len(names):
        raise UsageError(
            f"--class-map: teacher {own[0]} has the student's classes", hint="Leave it out"
        )
    if AVERAGE in own and recipe.ema is None:
        raise UsageError(
            "teacher ema is the student's moving average, and there is none", hint="Add --ema 0.999"
        )
    looking = [p for p in composed.parts if Need.FEATURES in needs_of(p.objective)]
    if looking:
        raise UsageError(
            f"objective '{looking[0].objective.info.name}' looks at the layers of a teacher, and "
            f"{own[0]} is asked for its answers alone",
            hint="Name a run or a model folder",
        )
    if SELF in own and mode_of(recipe) == "train":
        _check_self(recipe, composed)


def _check_self(recipe: StudentRecipe, composed: Composition) -> None:
    """Refuses the student in its own training forward."""
    if recipe.mode == "relabel" or recipe.random_per == "sample":
        which = "--mode relabel" if recipe.mode == "relabel" else "--random-per sample"
        raise UsageError(
            f"teacher self and {which} do not go together: {EACH_BY_ITSELF}",
            hint="Choose --mode ensemble or random, or --set self.mode=eval",
        )
    alone = len(recipe.teachers or []) == 1 or recipe.mode == "random"
    still = [recipe.teacher_augment, recipe.augment] == [["none"], ["none"]]
    if recipe.teacher_augment is not None and not still:
        return
    for part in composed.parts:
        info = part.objective.info
        if alone and Need.TEACHER in needs_of(part.objective) and not info.own_answers:
            raise UsageError(
                f"objective '{info.name}' would compare the student's answers with themselves: its "
                "gradient is zero",
                hint="Show the teacher a view of its own (--teacher-augment), choose --teachers ema, "
                "or learn pseudo-labels (--objective ce,pseudo-label)",
            )


def with_own(
    recipe: TrainRecipe,
    names: Sequence[str],
    members: Sequence[Member],
    class_names: tuple[str, ...],
    targets: Targets,
    runtime: Runtime,
    peers: Sequence[Peer] = (),
) -> list[Teacher]:
    """All teachers in the order in which they are named.

    Args:
        recipe: The recipe of any training verb.
        names: All of them.
        members: Those that are there before, in their order.
        class_names: The data's.
        targets: The student's.
        runtime: Precision of its forward.
        peers: Networks that are trained along, in their order.
    """
    if not isinstance(recipe, StudentRecipe):
        return list(members)
    others, along = iter(members), iter(peers)
    everyone: list[Teacher] = []
    for name in names:
        if name in OWN:
            everyone.append(own_teacher(name, class_names, targets, runtime, mode_of(recipe)))
        else:
            everyone.append(next(along).teacher if is_peer(name) else next(others))
    return everyone


def own_among(teacher: Teacher | None) -> list[OwnTeacher]:
    """The student, its average, and networks trained along, wherever they stand in a mixture."""
    if isinstance(teacher, OwnTeacher):
        return [teacher]
    members: Sequence[Teacher] = getattr(teacher, "members", ())
    return [own for member in members for own in own_among(member)]
