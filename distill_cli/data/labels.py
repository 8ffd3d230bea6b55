"""Changes of labels by a run's rules: the one place where labels are changed.

All of it is a function of the data on disk and of rules. Ids, contents and the split stay those of the
data, so that caches and teachers of all labels go on fitting; what is hidden lies in `hidden_N` alone.

Shapes: N rows of train, P images that the split holds out, V of them that are held out; K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.folds import check_folds, folds_of
from distill_cli.data.known_labels import KnownLabels, digest_of
from distill_cli.data.label_classes import groups_of_classes, kept_classes
from distill_cli.data.label_draws import (
    Pool,
    Stream,
    part_of,
    ranked,
    share_of,
)
from distill_cli.data.label_noise import Labels, as_groups, noisy
from distill_cli.data.label_rules import LabelRules, in_words
from distill_cli.data.split_images import labelled
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.types import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The labels that a run sees.

    Attributes:
        rows: int64 rows of train to train on.
        allowed: Those of them whose label is known.
        val_rows: int64 places of the images that stay held out.
    """

    rows: Tensor
    allowed: Tensor
    val_rows: Tensor


def relabelled(dataset: Dataset, rules: LabelRules) -> Dataset:
    """The dataset as a run knows it: labels, rows to train on and held-out images; nothing else.

    Classes are left out of the training rows, and a part of the others is taken; the labels of all
    rows are changed; then those that are not known are hidden. A row that is neither trained on nor
    held out has no label any more, and one whose label is hidden keeps it in `hidden_N`.

    Args:
        dataset: As it lies on disk, split.
        rules: What the run may know.

    Raises:
        UsageError: The rules do not fit these classes, or several labels may apply to an image.
        ArtifactError: A file of labels does not, or nothing is left to train on.
    """
    if not rules.changes:
        return dataset
    _check_kind(dataset, rules)
    train, names = dataset.train, dataset.class_names
    # In the order of `val`; none where there is a val/.
    held_rows = _without(torch.arange(len(train.label_N)), dataset.fit_rows).nonzero()[:, 0]
    kept_K = kept_classes(names, rules)
    of_classes = _of_classes(dataset.fit_rows, train.label_N, kept_K)
    samples = dataset.identity.samples
    own, beside = of_classes.split_with_sizes(_sides(of_classes, samples))
    taken = _part(dataset, own, rules)
    if not len(taken):
        raise ArtifactError(f"{dataset.spec} has no image to train on of the classes that are left")
    wrong = noisy(dataset, held_rows, rules)
    group_K = groups_of_classes(rules.coarse, names) if rules.coarse else None
    given = wrong if group_K is None else as_groups(wrong, group_K)
    choice = _Choice(rows=taken, allowed=taken, val_rows=torch.arange(len(given.val_P)))
    if rules.hides:
        share = len(taken) / len(own)
        choice = _chosen(dataset, given, held_rows, taken, kept_K, share, rules)
    seen = _seen(dataset, given, held_rows, choice, _part(dataset, beside, rules))
    learnt = seen.fit_rows
    if rules.fold is not None:
        seen = _without_fold(seen, *rules.fold, seed=rules.seed)
    known = seen.fit_rows[labelled(seen.train)[seen.fit_rows]]
    changed = (wrong.train_N != train.label_N)[known].sum()
    changed += (wrong.val_P != dataset.val.label_N)[choice.val_rows].sum()
    held_out = int(labelled(seen.val).sum())
    on_disk = int(labelled(train).sum()) + (
        0 if len(held_rows) else int(labelled(dataset.val).sum())
    )
    labels = KnownLabels(
        images=on_disk,
        known=len(known) + held_out,
        held_out=held_out,
        hidden=int((seen.hidden_N != UNLABELLED).sum()),
        noise=in_words(rules.noise),
        changed=int(changed),
        classes=len(names),
        groups=len(rules.coarse) or None,
        left_out=tuple(n for n, kept in zip(names, kept_K.tolist(), strict=True) if not kept),
        left_out_images=len(dataset.fit_rows) - len(of_classes),
        limit=None if rules.limit is None else (len(learnt), len(of_classes)),
        fold=None if rules.fold is None else (*rules.fold, len(learnt) - len(seen.fit_rows)),
        split_rows=dataset.fit_rows,
        val_rows=choice.val_rows,
        val_labels=digest_of(dataset.val.label_N),
        digest=digest_of(
            *(seen.train.label_N[:samples], seen.val.label_N),
            seen.fit_rows[seen.fit_rows < samples],
            *([] if group_K is None else [group_K]),
        ),
    )
    return replace(seen, group_K=group_K, labels=labels)


def _sides(rows: Tensor, samples: int) -> list[int]:
    """The numbers of rows of the data themselves, and of images from a source beside them."""
    own = int((rows < samples).sum())
    return [own, len(rows) - own]


def _part(dataset: Dataset, rows: Tensor, rules: LabelRules) -> Tensor:
    """The part of some rows that a limit takes; all of them without one, or if there are fewer.

    What is taken of the data does not depend on what lies beside them.
    """
    if rules.limit is None or rules.limit >= len(rows):
        return rows
    return part_of(rows, dataset.train.label_N, dataset.train.key_N, rules.limit, rules.seed)


def _without(rows: Tensor, others: Tensor) -> Tensor:
    """bool: the rows that are not among the others."""
    return ~torch.isin(rows, others)


def _seen(
    dataset: Dataset, given: Labels, held_rows: Tensor, choice: _Choice, beside: Tensor
) -> Dataset:
    """The dataset with these labels where they are known, and nowhere else but in `hidden_N`.

    Args:
        dataset: As it lies on disk.
        given: The labels, changed.
        held_rows: Rows of train that the split holds out.
        choice: What is known of the data.
        beside: Rows of images from a source beside them, behind all others.
    """
    train, rows, val_rows = dataset.train, choice.rows, choice.val_rows
    known_N = torch.full_like(train.label_N, UNLABELLED)
    known_N[choice.allowed] = given.train_N[choice.allowed]
    if len(held_rows):
        known_N[held_rows[val_rows]] = given.val_P[val_rows]
    hidden_N = torch.full_like(train.label_N, UNLABELLED)
    unknown = rows[_without(rows, choice.allowed)]
    hidden_N[unknown] = train.label_N[unknown]
    return replace(
        dataset,
        train=replace(train, label_N=known_N),
        fit_rows=torch.cat([rows, beside]),
        val=replace(dataset.val.take(val_rows), label_N=given.val_P[val_rows]),
        hidden_N=hidden_N,
    )


def _without_fold(seen: Dataset, number: int, count: int, *, seed: int) -> Dataset:
    """The dataset without a fold of its training rows: no label of it is known, and none hidden.

    Folds of the data themselves do not depend on images from a source beside them.

    Raises:
        ArtifactError: A class has fewer rows than there are folds.
    """
    label_N, samples = seen.train.label_N, seen.identity.samples
    check_folds(seen.fit_rows, label_N, seen.class_names, count, seen.spec)
    sides = seen.fit_rows.split_with_sizes(_sides(seen.fit_rows, samples))
    fold_P = torch.cat([folds_of(rows, label_N, seen.train.key_N, count, seed) for rows in sides])
    left_out = fold_P == number - 1
    kept_N, hidden_N = label_N.clone(), seen.hidden_N.clone()
    for values_N in (kept_N, hidden_N):
        values_N[seen.fit_rows[left_out]] = UNLABELLED
    return replace(
        seen,
        train=replace(seen.train, label_N=kept_N),
        fit_rows=seen.fit_rows[~left_out],
        hidden_N=hidden_N,
    )


def _check_kind(dataset: Dataset, rules: LabelRules) -> None:
    """Refuses to change labels where an image has several; a part of the images may be taken."""
    if dataset.multi_label and replace(rules, limit=None, fold=None).changes:
        raise UsageError(
            f"several labels may apply to an image of {dataset.spec}: which are known, changed or left "
            "out is chosen by class",
            hint="--limit and --fold alone go with such data",
        )


def _of_classes(rows: Tensor, label_N: Tensor, kept_K: Tensor) -> Tensor:
    """The rows of the classes that are kept, and those without a label."""
    label_P = label_N[rows]
    return rows[(label_P == UNLABELLED) | kept_K[label_P.clamp(min=0)]]


def _chosen(
    dataset: Dataset,
    given: Labels,
    held_rows: Tensor,
    taken: Tensor,
    kept_K: Tensor,
    share: float,
    rules: LabelRules,
) -> _Choice:
    """Which labels are known. Held-out images of a hidden label are trained on, unless there is a limit.

    Args:
        dataset: As it lies on disk.
        given: The labels, changed.
        held_rows: Rows of train that the split holds out.
        taken: Rows to train on.
        kept_K: Classes that are trained on.
        share: Share of the rows of these classes that `taken` are.
        rules: How many labels are known.
    """
    pools = []
    for label, kept in enumerate(kept_K.tolist()):
        # As many labels of a class that is not trained on are held out as if it were.
        rows, in_play = (taken, 1.0) if kept else (dataset.fit_rows, share)
        pools.append(_pool(dataset, given, rows, label, (in_play, share), rules.seed))
    counts = [rules.per_class or 0] * len(pools)
    if rules.fraction is not None:
        counts = share_of([pool.in_play for pool in pools], rules.fraction)
    drawn = [pool.known(n, rules.val_fraction) for pool, n in zip(pools, counts, strict=True)]
    allowed, val_rows = (torch.cat(side).sort().values for side in zip(*drawn, strict=True))
    rows = taken
    if rules.limit is None and len(held_rows):
        more = held_rows[_without(torch.arange(len(held_rows)), val_rows)]
        rows = torch.cat([rows, _of_classes(more, dataset.train.label_N, kept_K)]).sort().values
    # Labels of classes that are not trained on fall away with their images.
    return _Choice(rows=rows, allowed=taken[torch.isin(taken, allowed)], val_rows=val_rows)


def _pool(
    dataset: Dataset,
    given: Labels,
    rows: Tensor,
    label: int,
    shares: tuple[float, float],
    seed: int,
) -> Pool:
    """The rows of a class among some rows of train, and its held-out images.

    Args:
        dataset: As it lies on disk.
        given: The labels, changed.
        rows: Rows that labels of it are drawn from.
        label: The class.
        shares: How much each of these rows counts towards a share of the labels, and each held-out
            image, of which a limit takes none: as much as the part that it takes of the others.
        seed: Seed of the draw.
    """
    fit = rows[given.train_N[rows] == label]
    held = (given.val_P == label).nonzero()[:, 0]
    return Pool(
        fit=ranked(fit, dataset.train.key_N, seed, Stream.KNOWN),
        held=ranked(held, dataset.val.key_N, seed, Stream.KNOWN),
        in_play=round(shares[0] * len(fit) + shares[1] * len(held)),
    )
