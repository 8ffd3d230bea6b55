"""Biases that give classes their share of a network's answers, found without labels. Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_cli.class_bias import MatchedBias, NoBiasError, matched_bias, mean_masses
from distill_cli.data.decode import Decoded, processors
from distill_cli.data.inventory import left_in_words
from distill_cli.data.label_classes import class_of
from distill_cli.data.reading import read_unlabelled
from distill_cli.data.source import UNLABELLED_PREFIX
from distill_cli.data.split_images import Images
from distill_cli.errors import ArtifactError, UsageError, nearest
from distill_cli.evaluate import check_answers, logits_of
from distill_cli.files import one_writer, real_path, remove, write_text
from distill_cli.models import Network, config_of, load_model, save_model
from distill_cli.models.heads import shift_logits
from distill_cli.pipeline.evaluate import data_of
from distill_cli.pipeline.inputs.artifacts import once
from distill_cli.pipeline.inputs.class_shares import shares_of
from distill_cli.pipeline.inputs.data_rules import rules_kept
from distill_cli.pipeline.inputs.located import locate
from distill_cli.pipeline.inputs.moved_data import typed_place
from distill_cli.pipeline.inputs.teachers import check_classes
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.fields import Device
from distill_cli.recipe.recorded import mapping
from distill_cli.report.format import short_name
from distill_cli.report.model_readme import calibrated_readme
from distill_cli.runtime import decide
from distill_cli.types import EARLIER_FRAMING, digest_of_ids

HELD_OUT = "held-out images"
# How far a network's logits may be from where its bias should put them, of the largest of them.
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The biases of a network's classes, and the images that they were found on.

    Attributes:
        class_names: In label order.
        chosen: The classes that got a bias of their own, by number.
        prior_K: fp64 shares.
        matched: Biases and masses; those after are of the biases as they are saved.
        images: N.
        source: Where these are from.
    """

    class_names: tuple[str, ...]
    chosen: tuple[int, ...]
    prior_K: Tensor
    matched: MatchedBias
    images: int
    source: str


def calibrate(
    folder: Path,
    out: Path,
    *,
    prior: str,
    unlabelled: str | None,
    classes: Sequence[str],
    every: bool,
    device: Device,
    message: Callable[[str], None],
) -> Calibration:
    """Saves a run's network with biases under which classes have their share of its answers.

    The share of the answers is the mean of softmax(z) over images, whose labels are not looked at: by
    default all that the run's split holds out, those of classes that it did not train on among them.
    A fitted temperature is left out of the new model: it was fitted to other logits, with labels.

    Args:
        folder: A run or model folder.
        out: The model folder that is written.
        prior: As `shares_of` takes it.
        unlabelled: A source of other images; None for those held out.
        classes: Classes that get a bias beside those that the run left out, by name or number.
        every: All classes get one.
        device: The device to compute on.
        message: Is told what of the data is left out, and of weights without a checksum.

    Raises:
        UsageError: Each class applies by itself; no class is chosen, or one that there is not; the images
            are what classes were left out of; or the classifier has no bias.
        ArtifactError: The classes of model and data differ, the prior is none, or there are no biases.
    """
    runtime, tell = decide(device), once(message)
    network = load_model(folder, tell=tell)
    if network.targets != "softmax":
        raise UsageError(
            f"{folder} answers yes or no for each label: no bias of one class changes the others' share"
        )
    kept, names = kept_recipe(folder), network.class_names
    left_out = _left_out(folder, kept, names)
    chosen = tuple(range(len(names))) if every else _chosen(folder, names, left_out, classes)
    prior_K = shares_of(prior, names)
    if unlabelled is None:
        images, source = _held_out(folder, kept, network, message), HELD_OUT
    else:
        images, source = _beside(unlabelled, kept, network, message), short_name(unlabelled)
        _check_whole(unlabelled, kept, images, left_out)
    network = network.to(runtime.device).eval()
    logits_NK = logits_of(network, images.iter_plain(), runtime.device)
    check_answers(folder, logits_NK)
    try:
        matched = matched_bias(logits_NK, prior_K, torch.tensor(chosen))
    except NoBiasError as error:
        raise ArtifactError(
            f"{folder}: no biases give these classes their share: {error}", hint="Give more images"
        ) from None
    bias_K = matched.bias_K.float()
    matched = MatchedBias(
        bias_K=bias_K.double(),
        before_K=matched.before_K,
        after_K=mean_masses(logits_NK.double() + bias_K.double()),
    )
    some = next(iter(images.iter_plain()))
    _shift(folder, network, bias_K, lambda net: logits_of(net, [some], runtime.device))
    calibration = Calibration(
        class_names=names,
        chosen=chosen,
        prior_K=prior_K,
        matched=matched,
        images=len(logits_NK),
        source=source,
    )
    if network.temperature != 1:
        message(
            f"the temperature {network.temperature:.2f} of {folder} is left out: it was fitted to other logits"
        )
    _save(network, out, str(folder), calibration, short_name(prior))
    return calibration


def _left_out(folder: Path, kept: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The classes that a run did not train on, as its recipe.yaml recorded them."""
    listed = mapping(mapping(kept.get("recorded")).get("labels")).get("left_out") or []
    if not isinstance(listed, list) or not set(map(str, listed)) <= set(names):
        raise ArtifactError(
            f"{folder}: recorded.labels.left_out of its recipe.yaml are not classes of its network"
        )
    return [str(name) for name in listed]


def _chosen(
    folder: Path, names: Sequence[str], left_out: Sequence[str], classes: Sequence[str]
) -> tuple[int, ...]:
    """The numbers of the classes that get a bias."""
    chosen = {names.index(name) for name in left_out}
    for name in classes:
        label = class_of(name, names)
        if label is None:
            raise UsageError(f"--classes: there is no class '{name}'. {nearest(name, names)}")
        chosen.add(label)
    if not chosen:
        raise UsageError(
            f"{folder} left no class out of its training",
            hint="Name the classes that get a bias with --classes, or give --all-classes",
        )
    return tuple(sorted(chosen))


def _held_out(
    folder: Path, kept: Mapping[str, Any], network: Network, message: Callable[[str], None]
) -> Images:
    """All images that the run's split holds out, whatever the run knows of their labels."""
    dataset = data_of(folder, None, dict(kept), network.view)
    for line in left_in_words(dataset.left):
        message(line)
    check_classes(str(folder), network.class_names, dataset.class_names, hint=None)
    return dataset.val


def _beside(
    unlabelled: str, kept: Mapping[str, Any], network: Network, message: Callable[[str], None]
) -> Images:
    """The images of a source of their own, as the network sees them."""
    view = network.view
    read = read_unlabelled(
        typed_place(unlabelled, "--unlabelled"),
        network.input_size if view is None else (view.channels, view.height, view.width),
        bool(kept.get("skip_bad")),
        EARLIER_FRAMING if view is None else view.framing,
        min(8, processors()),
        lambda done, total: None,
        False,
        rules_kept(kept),
    )
    for line in left_in_words(read.left):
        message(line)
    images: Images = (read.tables if isinstance(read, Decoded) else read.files)["train"]
    return images


def _check_whole(
    unlabelled: str, kept: Mapping[str, Any], images: Images, left_out: Sequence[str]
) -> None:
    """Refuses the training images that a run left classes out of, in their place or elsewhere.

    Raises:
        UsageError: They would have to be of these classes in part.
    """
    if not left_out:
        return
    below = (name.removeprefix(UNLABELLED_PREFIX) for name in images.sample_ids)
    ids = [name.removeprefix("train/") for name in below]
    named = not ids[0].startswith("index:")
    then = mapping(mapping(kept.get("recorded")).get("dataset")).get("ids_digest")
    own = real_path(locate(str(kept.get("data")))) == real_path(locate(unlabelled))
    if own or (named and digest_of_ids(sorted(ids)) == then):
        raise UsageError(
            f"--unlabelled {unlabelled} is what the run left {', '.join(left_out[:5])} out of",
            hint="Leave --unlabelled out for the held-out images of all classes, or give images that the "
            "run has not seen",
        )


def _shift(
    folder: Path, network: Network, bias_K: Tensor, logits: Callable[[Network], Tensor]
) -> None:
    """Adds biases to a network's logits.

    Args:
        folder: The run, for messages.
        network: The network.
        bias_K: The biases.
        logits: Its logits for some images, which tell whether they moved by the biases.
    """
    before_BK = logits(network)
    try:
        shift_logits(network.net, bias_K)
        off_BK = logits(network) - before_BK - bias_K
        if float(off_BK.abs().max()) > ROUNDING * (1 + float(before_BK.abs().max())):
            raise ValueError("its logits are not the sum of its classifier's bias and the rest")
    except ValueError as error:
        raise UsageError(f"{folder} cannot be calibrated: {error}") from None


def _save(network: Network, out: Path, run: str, made: Calibration, prior: str) -> None:
    """Writes the model folder. What was a model in it is none from the first change to the last."""
    facts = {
        "classes": [made.class_names[label] for label in made.chosen],
        "prior_from": prior,
        "source": made.source,
        "images": made.images,
        "prior": made.prior_K.tolist(),
        "mass_before": made.matched.before_K.tolist(),
        "mass_after": made.matched.after_K.tolist(),
        "bias": made.matched.bias_K.tolist(),
    }
    network.temperature = 1.0
    extra = {"calibrated": facts}
    with one_writer(out):
        remove(out / "config.json")
        save_model(network, out, extra=extra)
        write_text(out / "README.md", calibrated_readme(run, config_of(network, extra)))
