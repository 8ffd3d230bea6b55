"""Networks that are trained along with a student: from a recipe to what learns, and why they are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from distill_cli.data.dataset import Dataset
from distill_cli.errors import UsageError
from distill_cli.models import Network, create_network
from distill_cli.models.gated import base_of
from distill_cli.models.zoo import resolve
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.hooks import HasAdapter, TapsStudent, needs_of
from distill_cli.pipeline.inputs.student import shown_by
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.peer_options import PeerName, PeerSettings, is_peer, peer_of
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.runtime import Runtime
from distill_cli.teachers.own import PeerTeacher
from distill_cli.training import optim
from distill_cli.training.events import Sink
from distill_cli.training.peers import Peer
from distill_cli.types import Need, Targets


def check_peers(recipe: StudentRecipe, composed: Composition) -> None:
    """Refuses networks that are trained along where that cannot be, or means nothing.

    Args:
        recipe: The student's.
        composed: Its objectives.

    Raises:
        UsageError: With the reason.
    """
    along = list(filter(is_peer, recipe.teachers or []))
    peers = list(map(peer_of, along))
    known = [peer.name for peer in peers]
    for name in recipe.peer:
        if name not in known:
            raise UsageError(
                f"peer.{name} is of no network that is trained along",
                hint=f"Those are: {', '.join(known)}" if known else "Add --teachers peer:MODEL",
            )
    if recipe.mutual and not peers:
        raise UsageError(
            "--mutual is of networks that are trained along, and there are none",
            hint="Add --teachers peer:MODEL",
        )
    if not peers:
        return
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise UsageError(
            f"two networks that are trained along are called {twice}",
            hint=f"Give them names: peer:one={peers[0].model},peer:two={peers[0].model}",
        )
    for name, peer in zip(along, peers, strict=True):
        with _named(name):
            resolve(peer.model)
        settings = recipe.peer.get(peer.name, PeerSettings())
        if settings.opt is not None:
            optim.check_name(settings.opt, key=_key_of_opt(recipe, peer))
    _check_asked(recipe)
    _check_objectives(recipe, composed)


@contextmanager
def _named(teacher: str) -> Iterator[None]:
    """Has refusals of a network say which it is, by the words that were typed."""
    try:
        yield
    except UsageError as error:
        message = error.message.removeprefix("model: ")
        raise UsageError(f"teacher {teacher}: {message}", hint=error.hint) from None


def _key_of_opt(recipe: StudentRecipe, peer: PeerName) -> str:
    """The option that names a network's optimiser."""
    settings = recipe.peer.get(peer.name)
    return "opt" if settings is None or settings.opt is None else f"peer.{peer.name}.opt"


def _check_asked(recipe: StudentRecipe) -> None:
    """Refuses ways of asking a teacher that its training forward of the student's images is not."""
    for flag, given in (
        ("--teacher-augment", recipe.teacher_augment is not None),
        ("--mode relabel", recipe.mode == "relabel"),
        ("--random-per sample", recipe.random_per == "sample"),
        ("--class-map", bool(recipe.class_map)),
        ("--shard", recipe.shard not in (None, "none")),
    ):
        if given:
            raise UsageError(
                f"{flag} and a network that is trained along do not go together: it learns the student's "
                "images, each batch in one forward",
                hint=f"Leave {flag.split()[0]} out, or train the teacher first",
            )


def _check_objectives(recipe: StudentRecipe, composed: Composition) -> None:
    """Refuses objectives that look at more of a teacher than its answers, or keep a state of their own."""
    for part in composed.parts:
        name = part.objective.info.name
        if Need.FEATURES in needs_of(part.objective):
            raise UsageError(
                f"objective '{name}' looks at the layers of a teacher, and a network that is trained along is "
                "asked for its answers alone",
                hint="Train the teacher first, and name its run",
            )
        if recipe.mutual and isinstance(part.objective, HasAdapter | TapsStudent):
            raise UsageError(
                f"--mutual and objective '{name}' do not go together: every network learns by it, and what it "
                "learns beside the student is of one alone",
                hint="Learn by ce and kd",
            )


def open_peers(
    recipe: TrainRecipe,
    names: Sequence[str],
    composed: Composition,
    dataset: Dataset,
    targets: Targets,
    runtime: Runtime,
    batch_size: int,
    sink: Sink,
) -> tuple[Peer, ...]:
    """The networks that are trained along, each from weights of its own draw, with its optimiser.

    Args:
        recipe: The run's, whose optimiser is theirs where they have none of their own.
        names: The teachers.
        composed: The student's objectives, which are theirs too where learning is mutual.
        dataset: Whose classes and images they take.
        targets: The student's.
        runtime: Device of the student.
        batch_size: Images of a step, by which a usual rate is scaled.
        sink: Is told which they are.
    """
    if not isinstance(recipe, StudentRecipe):
        return ()
    made = []
    for number, name in enumerate(filter(is_peer, names), start=1):
        given = peer_of(name)
        settings = recipe.peer.get(given.name, PeerSettings())
        # Networks of one kind begin at different weights, and none at the student's.
        torch.manual_seed(recipe.seed + 7919 * number)
        with _named(name):
            network = create_network(
                given.model,
                class_names=dataset.class_names,
                view=shown_by(dataset),
                args=settings.model_args,
                dropout=settings.dropout,
            )
        network.targets, network.view = targets, dataset.plain_view
        network = network.to(runtime.device).to(memory_format=runtime.memory_format)
        fingerprint = f"{name} {settings.model_dump_json(exclude_defaults=True)}"
        made.append(
            Peer(
                name=given.name,
                network=network,
                teacher=PeerTeacher(name, fingerprint, dataset.class_names, targets),
                composition=_composition(composed, settings.weight, targets, mutual=recipe.mutual),
                optimizer=_optimizer(recipe, given, network, batch_size),
            )
        )
    if made:
        sink.message(_in_words(made, mutual=recipe.mutual))
    return tuple(made)


def _composition(
    composed: Composition, weight: float, targets: Targets, *, mutual: bool
) -> Composition:
    """What a network that is trained along learns by: its hard labels, or all that the student does."""
    if mutual:
        return Composition(tuple(_scaled(part, weight) for part in composed.parts))
    hard = OBJECTIVES["bce" if targets == "sigmoid" else "ce"]()
    return Composition((Weighted(objective=hard, weight=Weight(start=weight)),))


def _scaled(part: Weighted, factor: float) -> Weighted:
    weight = replace(part.weight, start=factor * part.weight.start, end=factor * part.weight.end)
    return replace(part, weight=weight)


def _optimizer(
    recipe: StudentRecipe, peer: PeerName, network: Network, batch_size: int
) -> torch.optim.Optimizer:
    """The optimiser of a network that is trained along, by its settings, then the recipe's, then its own."""
    settings = recipe.peer.get(peer.name, PeerSettings())
    opt = settings.opt or recipe.opt
    if opt == "auto":
        opt = optim.default_optimizer(base_of(network))
    rate, decay, momentum = (
        first if first is not None else second
        for first, second in (
            (settings.lr, recipe.lr),
            (settings.weight_decay, recipe.weight_decay),
            (settings.momentum, recipe.momentum),
        )
    )
    return optim.create_optimizer(
        network.net,
        opt,
        rate=optim.default_rate(opt, batch_size) if rate is None else rate,
        weight_decay=optim.default_decay(opt) if decay is None else decay,
        momentum=recipe.momentum if momentum is None else momentum,
        key=_key_of_opt(recipe, peer),
    )


def _in_words(peers: Sequence[Peer], *, mutual: bool) -> str:
    """The networks that are trained along, in words."""
    told = ", ".join(
        f"{peer.name} ({peer.network.num_params:,} parameters, lr {peer.optimizer.defaults['lr']:.4g})"
        for peer in peers
    )
    return f"trained along: {told}" + ("; all learn from each other" if mutual else "")
