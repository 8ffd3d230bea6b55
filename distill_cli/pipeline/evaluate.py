"""`distill evaluate`: figures of a trained network on one split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from distill_cli.cache.folder import is_cache
from distill_cli.cache.manifest import read_plan
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.decode import processors
from distill_cli.data.inventory import left_in_words
from distill_cli.data.labels import relabelled
from distill_cli.data.pillow_io import Size
from distill_cli.data.rules import DataRules
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.evaluate import check_answers, latency_ms, logits_by_ranks, measured
from distill_cli.metrics import Metrics, agreement, label_agreement
from distill_cli.models import Network, load_model
from distill_cli.pipeline.inputs.artifacts import Artifacts, once
from distill_cli.pipeline.inputs.data_rules import rules_kept
from distill_cli.pipeline.inputs.file_options import OF_LABELS, files_named
from distill_cli.pipeline.inputs.label_rules import beside_then, rules_for, rules_kept_of
from distill_cli.pipeline.inputs.moved_data import check_moved, typed_place
from distill_cli.pipeline.inputs.teacher_checks import check_targets
from distill_cli.pipeline.inputs.teacher_folders import expand_teachers
from distill_cli.pipeline.inputs.teachers import Member, check_classes, open_teachers
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.pipeline.run.recipe_diff import changes
from distill_cli.recipe.base import VAL_FRACTION
from distill_cli.recipe.fields import Device
from distill_cli.recipe.recorded import mapping
from distill_cli.runtime import Runtime, decide
from distill_cli.types import EARLIER_FRAMING, UNLABELLED_KEYS, PlainView


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of a network on one split.

    Attributes:
        split: `val` or `test`.
        metrics: Accuracy, NLL, ECE; of sigmoid targets mAP and F1 too.
        temperature: Fitted after training and stored with the network; None where there is none.
        nll_scaled: Nats, the logits divided by it.
        ece_scaled: The same.
        params: Parameters of the network.
        latency_ms: Median time of one image.
        teacher_agreement: Share of images with the teacher's class; None without a teacher.
        teacher_kl: Mean KL(teacher ‖ network) at T = 1, nats; None without a teacher.
    """

    split: str
    metrics: Metrics
    temperature: float | None
    nll_scaled: float | None
    ece_scaled: float | None
    params: int
    latency_ms: float
    teacher_agreement: float | None
    teacher_kl: float | None


def data_of(
    folder: Path,
    data: str | None,
    recipe: dict[str, Any],
    view: PlainView | None,
    *,
    unlabelled: str | None = None,
) -> Dataset:
    """The data named, or the one the run was trained on, under the run's split.

    Args:
        folder: The run or model folder, for messages.
        data: The value of `--data`.
        recipe: The run's recipe.
        view: The images that its network takes; None where it was saved before 0.4.0, which went by
            the data.
        unlabelled: Images without labels that lie beside them; None for none.
    """
    beside = unlabelled and typed_place(unlabelled, "--unlabelled")
    spec = data or recipe.get("data")
    if spec is None:
        raise UsageError(f"{folder} does not say which data it was trained on", hint="Give --data")
    check_moved(str(spec), [str(folder)])
    located, own = typed_place(str(spec)), recipe.get("data")

    def opened(rules: DataRules, size: Size | None) -> Dataset:
        return open_dataset(
            located,
            split_seed=recipe.get("split_seed") or 0,
            val_fraction=recipe.get("val_fraction") or VAL_FRACTION,
            size=size,
            skip_bad=bool(recipe.get("skip_bad")),
            framing=EARLIER_FRAMING if view is None else view.framing,
            workers=min(8, processors()),
            rules=rules if view is None else replace(rules, channels=view.channels),
            unlabelled=beside,
        )

    size: Size | None = recipe.get("size")
    of_view = size if view is None else (view.height, view.width)
    rules = rules_kept(recipe)
    if located == own:
        dataset = opened(rules, size)
        # Its images had this size by themselves, under which they are remembered decoded; unless
        # one of another size has come to them.
        return opened(rules, of_view) if dataset.sizes_differ and size is None else dataset
    today = DataRules(channels=rules.channels, megapixels=rules.megapixels)
    if rules != today:
        # The same images under another name have the split that the run's rules gave them.
        with suppress(ArtifactError):
            dataset = opened(rules, of_view)
            then = mapping(mapping(recipe.get("recorded")).get("dataset"))
            now = dataset.identity.with_unlabelled_of(None).to_json()
            if now == {key: then[key] for key in then if key not in UNLABELLED_KEYS}:
                return dataset
    return opened(today, of_view)


def as_held_out(folder: Path, dataset: Dataset, recipe: dict[str, Any]) -> Dataset:
    """The data with the images that the run held out, and the labels that it knew of them.

    Raises:
        UsageError: It held none out.
        ArtifactError: Its files of labels say something else by now.
    """
    then = mapping(mapping(recipe.get("recorded")).get("dataset"))
    now = dataset.identity.to_json()
    if any(then.get(key) != now[key] for key in ("fingerprint", "split_seed", "val_fraction")):
        return dataset
    dataset = as_known(folder, dataset, recipe)
    if not len(dataset.val.label_N):
        raise UsageError(
            f"{folder} held nothing out: it knew fewer than five labels of every class",
            hint="Leave --split out to look at test",
        )
    return dataset


def as_known(folder: Path, dataset: Dataset, recipe: dict[str, Any]) -> Dataset:
    """The data that a run was trained on with the labels that it knew.

    Raises:
        ArtifactError: Its files of labels say something else by now.
    """
    rules = rules_for(dataset, recipe, rules_kept_of(recipe))
    if not rules.changes:
        return dataset
    dataset = relabelled(dataset, rules)
    _check_labels(folder, dataset, recipe)
    return dataset


def _check_labels(folder: Path, dataset: Dataset, recipe: dict[str, Any]) -> None:
    """Refuses labels that are not those which the run knew."""
    then = mapping(mapping(recipe.get("recorded")).get("labels"))
    now = {} if dataset.labels is None else dataset.labels.to_json()
    keys = ["digest", *(["beside"] if dataset.identity.beside == beside_then(recipe) else [])]
    if all(then.get(key) in (None, now.get(key)) for key in keys):
        return
    paths = files_named(recipe)
    named = ", ".join(paths[key] for key in OF_LABELS if key in paths)
    raise ArtifactError(
        f"{folder} was trained on other labels than {named or 'its options'} "
        f"now make: {', '.join(changes({'labels': then}, {'labels': now}))}",
        hint="Put the files back as they were, or leave --split out to look at test",
    )


def _teacher(
    name: str, network: Network, dataset: Dataset, runtime: Runtime, runs: Artifacts
) -> Member:
    """The one teacher that a network is compared with."""
    names = expand_teachers([name])
    if len(names) > 1:
        raise UsageError(f"{name} holds {counted(len(names), 'teacher')}", hint="Name one of them")
    if is_cache(Path(names[0])):
        # Its labels of unlabelled images are not looked at.
        plan = read_plan(Path(names[0]))
        identity = dataset.identity.with_unlabelled_of(plan.dataset)
        dataset = replace(dataset, identity=identity)
    members = open_teachers(names, dataset, runtime, "fp32", runs=runs)
    check_targets(names, members, network.targets)
    return members[0]


def evaluate_run(
    folder: Path,
    *,
    data: str | None,
    teacher: str | None,
    split: str,
    skip_bad: bool = False,
    megapixels: int | None = None,
    device: Device,
    message: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Figures of a run or model folder on a split of its own or other data.

    Args:
        folder: The run or model folder.
        data: Other data; None for its own.
        teacher: A teacher or a cache to compare it with.
        split: `test` or `val`.
        skip_bad: Leave out images that cannot be read, as a run does that was told to.
        megapixels: Pictures of more cannot be read; None for the run's own limit.
        device: The device to compute on.
        message: Is told what of the data is left out, and of weights without a checksum.

    Raises:
        ArtifactError: The classes of model, teacher and data differ.
    """
    runtime, tell = decide(device), once(message)
    network = load_model(folder, tell=tell)
    recipe = kept_recipe(folder)
    if skip_bad:
        recipe = {**recipe, "skip_bad": True}
    if megapixels is not None:
        recipe = {**recipe, "max_megapixels": megapixels}
    dataset = data_of(folder, data, recipe, network.view)
    if network.class_names != dataset.class_names:
        # A model of timm's may have outputs without names: as many classes of the data name them.
        network = load_model(folder, class_names=dataset.class_names, tell=tell)
    network = network.to(runtime.device).eval()
    for line in left_in_words(dataset.left):
        message(line)
    check_classes(str(folder), network.class_names, dataset.class_names, hint=None)
    if dataset.multi_label and network.targets == "softmax":
        raise ArtifactError(
            f"{folder} says one class of an image, and to these several labels may apply",
            hint="Train it on data of several labels",
        )
    if split == "val":
        dataset = as_held_out(folder, dataset, recipe)
    table = dataset.val if split == "val" else dataset.test
    group_K = dataset.group_K if split == "val" else None
    logits_NK = logits_by_ranks(network, table, runtime.device, runtime.ranks)
    check_answers(folder, logits_NK)
    same = divergence = None
    if teacher is not None:
        member = _teacher(teacher, network, dataset, runtime, Artifacts(tell=tell))
        teacher_NK = member.split_logits(split, table, ranks=runtime.ranks)
        if teacher_NK is None:
            raise UsageError(f"cache {teacher} holds no labels of this {split} split")
        if network.targets == "softmax":
            same, divergence = agreement(logits_NK, F.log_softmax(teacher_NK.double(), dim=-1))
        else:
            same, divergence = label_agreement(logits_NK, teacher_NK)
    # One that was not fitted is 1: then there is nothing to say.
    scaled = temperature = None
    if network.targets == "softmax" and network.temperature != 1:
        temperature = network.temperature
        scaled = measured(network, logits_NK / temperature, table, group_K)
    return Evaluation(
        split=split,
        temperature=temperature,
        nll_scaled=None if scaled is None else scaled.nll,
        ece_scaled=None if scaled is None else scaled.ece,
        metrics=measured(network, logits_NK, table, group_K),
        params=network.num_params,
        latency_ms=latency_ms(network, table.size, runtime.device),
        teacher_agreement=same,
        teacher_kl=divergence,
    )
