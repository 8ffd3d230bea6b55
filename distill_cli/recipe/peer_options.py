"""The options of networks that are trained along with a student. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from distill_cli.errors import UsageError
from distill_cli.recipe.fields import TEACHERS, option
from distill_cli.recipe.left_out import LeavesOut

PEER = "peer:"
# Letters that a name has, which becomes a folder; others of a model's name become hyphens.
ODD = re.compile(r"[^A-Za-z0-9_.-]+")


class PeerSettings(BaseModel):
    """The settings of one network that is trained along; what is not said is the student's.

    Attributes:
        lr: Peak learning rate.
        opt: Optimiser.
        weight_decay: Of its weights.
        momentum: Of its optimiser.
        weight: α, the weight of its own hard label's loss.
        dropout: Dropout rate of the network.
        model_args: Arguments of the network.
    """

    model_config = ConfigDict(extra="forbid")

    lr: Annotated[float, Field(gt=0)] | None = None
    opt: str | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    model_args: dict[str, Any] = {}


class PeerOptions(LeavesOut):
    """The options of a student that has networks trained along."""

    peer: dict[str, PeerSettings] = option(
        {},
        "Settings of networks that are trained along (--teachers peer:MODEL), by name: lr, opt, "
        "weight_decay, momentum, weight, dropout, model_args, as --set peer.NAME.lr=0.05.",
        TEACHERS,
        advanced=True,
        unwritten=True,
    )
    mutual: bool = option(
        False,
        "Networks that are trained along learn from the student and from each other too (deep mutual "
        "learning).",
        TEACHERS,
        unwritten=True,
    )


class PeerName(NamedTuple):
    """A network that is trained along: its name, which is its folder's, and its model."""

    name: str
    model: str


def is_peer(teacher: str) -> bool:
    """Whether a teacher is a network that is trained along."""
    return teacher.startswith(PEER)


def peer_of(teacher: str) -> PeerName:
    """The network that `peer:MODEL`, or `peer:NAME=MODEL`, means.

    Raises:
        UsageError: It has no model, or a name that no folder can have.
    """
    name, equals, model = teacher.removeprefix(PEER).partition("=")
    if not equals:
        model, name = name, ODD.sub("-", name)
    if not model or not name.strip(".") or ODD.search(name):
        raise UsageError(
            f"teacher '{teacher}' names no network that is trained along",
            hint="Write peer:cifar_resnet20, or peer:NAME=cifar_resnet20 for several of one kind",
        )
    return PeerName(name, model)
