"""Changes of labels by a run's rules: the one place where labels are changed.

All of it is a function of the data on disk and of rules. Ids, contents and the split stay those of the
data, so that caches and teachers of all labels go on fitting; what is hidden lies in `hidden_N` alone.

Shapes: N rows of train, P images that the split holds out, V of them that are held out; K classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.folds import among, without_fold
from distill_cli.data.known_labels import KnownLabels, digest_of
from distill_cli.data.label_choice import Choice, absent_from, chosen, of_kept_classes, with_list
from distill_cli.data.label_classes import groups_of_classes, kept_classes
from distill_cli.data.label_draws import part_of
from distill_cli.data.label_lists import Lists, lists_of
from distill_cli.data.label_noise import Labels, as_groups, noisy
from distill_cli.data.label_rules import LabelRules, in_words
from distill_cli.data.split_images import labelled
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.types import UNLABELLED


def relabelled(dataset: Dataset, rules: LabelRules) -> Dataset:
    """The dataset as a run knows it: labels, rows to train on and held-out images; nothing else.

    Images of a list and classes are left out of the training rows, and a part of the others is taken; the
    labels of all rows are changed; those that are not known are hidden; and what a list says of a label
    stands above all that, so that no draw depends on it. A row that is neither trained on nor held out
    has no label any more, and one whose label is hidden keeps it in `hidden_N`.

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
    held_rows = absent_from(torch.arange(len(train.label_N)), dataset.fit_rows).nonzero()[:, 0]
    kept_K = kept_classes(names, rules)
    lists = lists_of(dataset, held_rows, rules)
    usable = replace(dataset, fit_rows=dataset.fit_rows[~lists.out_N[dataset.fit_rows]])
    of_classes = of_kept_classes(usable.fit_rows, train.label_N, kept_K)
    samples = dataset.identity.samples
    own, beside = of_classes.split_with_sizes(_sides(of_classes, samples))
    taken = _part(dataset, own, rules)
    wrong = noisy(dataset, held_rows, rules)
    group_K = groups_of_classes(rules.coarse, names) if rules.coarse else None

    def grouped(labels: Labels) -> Labels:
        return labels if group_K is None else as_groups(labels, group_K)

    choice = Choice(rows=taken, allowed=taken, val_rows=(~lists.out_P).nonzero()[:, 0])
    if rules.hides:
        share = len(taken) / max(1, len(own))
        choice = chosen(usable, grouped(wrong), held_rows, lists, taken, kept_K, share, rules)
    drawn, choice = choice, with_list(choice, _part(dataset, beside, rules), lists, kept_K)
    if not bool((choice.rows < samples).any()):
        raise ArtifactError(f"{dataset.spec} has no image to train on of those that are left")
    given, learnt = grouped(lists.over(wrong)), len(choice.rows)
    if rules.fold is not None:
        choice = without_fold(dataset, given.train_N, choice, rules.fold, rules.seed)
    seen = _learnt(_seen(dataset, given, held_rows, choice), lists)
    changed = (wrong.train_N != train.label_N)[among(drawn.allowed, choice.rows)].sum()
    changed += (wrong.val_P != dataset.val.label_N)[choice.val_rows].sum()
    held_out = int(labelled(seen.val).sum())
    listed = _listed(wrong, drawn, choice, lists)
    labels = KnownLabels(
        images=_labelled_images(dataset, held_rows, seen),
        known=int(labelled(seen.train)[seen.fit_rows].sum()) + held_out,
        held_out=held_out,
        hidden=int((seen.hidden_N != UNLABELLED).sum()),
        noise=in_words(rules.noise),
        changed=int(changed),
        classes=len(names),
        groups=len(rules.coarse) or None,
        left_out=tuple(n for n, kept in zip(names, kept_K.tolist(), strict=True) if not kept),
        left_out_images=len(usable.fit_rows) - len(of_classes),
        limit=None if rules.limit is None else (learnt, len(of_classes)),
        fold=None if rules.fold is None else (*rules.fold, learnt - len(choice.rows)),
        without=_left_out(dataset, held_rows, lists) if rules.without else None,
        listed=listed if rules.relabel else None,
        elsewhere=_rows_of(lists, held_rows) - listed[0],
        unlabelled=None if rules.unlabelled is None else len(choice.rows) - len(seen.fit_rows),
        of_test=lists.of_test,
        split_rows=dataset.fit_rows,
        val_rows=choice.val_rows,
        val_labels=digest_of(dataset.val.label_N),
        digest=_digest(seen, samples, group_K),
        beside=_digest_beside(seen, samples) if rules.lists else "",
    )
    return replace(seen, group_K=group_K, labels=labels)


def all_known(dataset: Dataset, rules: LabelRules) -> Dataset:
    """The dataset with the labels that a run knows, and all images as rows that it could train on.

    A limit, a fold and a list of what is learnt from decide what a run looks at, and no label: they leave out
    nothing here. Of labels that are hidden a limit decides which ones are drawn.

    Args:
        dataset: As it lies on disk, split.
        rules: What the run may know.
    """
    limit = rules.limit if rules.hides else None
    seen = relabelled(dataset, replace(rules, limit=limit, fold=None, unlabelled=None))
    if limit is None:
        return seen
    assert seen.labels is not None
    train, known_N = dataset.train, labelled(seen.train)
    held_rows = absent_from(torch.arange(len(train.label_N)), dataset.fit_rows).nonzero()[:, 0]
    lists = lists_of(dataset, held_rows, rules)
    # A list may say the label of an image that the limit did not take, which is no question then.
    rows = (~lists.out_N & (known_N | (lists.label.train_N == UNLABELLED))).nonzero()[:, 0]
    rows = of_kept_classes(rows, train.label_N, kept_classes(dataset.class_names, rules))
    val_rows = held_rows[seen.labels.val_rows] if len(held_rows) else held_rows
    return replace(seen, fit_rows=rows[absent_from(rows, val_rows)])


def _learnt(seen: Dataset, lists: Lists) -> Dataset:
    """Without the images that have no label, and that a list of those to learn from does not name."""
    kept = (labelled(seen.train) | lists.learnt_N)[seen.fit_rows]
    hidden_N = seen.hidden_N.clone()
    hidden_N[seen.fit_rows[~kept]] = UNLABELLED
    return replace(seen, fit_rows=seen.fit_rows[kept], hidden_N=hidden_N)


def _labelled_images(dataset: Dataset, held_rows: Tensor, seen: Dataset) -> int:
    """Images of train and of a val split of its own that have a label, on disk or by a list."""
    has_N = labelled(dataset.train) | labelled(seen.train)
    return int(has_N.sum()) + (0 if len(held_rows) else int(labelled(dataset.val).sum()))


def _left_out(dataset: Dataset, held_rows: Tensor, lists: Lists) -> tuple[int, int]:
    """How many images a list leaves out of those to train on, and of those held out."""
    return int(lists.out_N[dataset.fit_rows].sum()), int(lists.out_P.sum())


def _rows_of(lists: Lists, held_rows: Tensor) -> int:
    """How many images of train and held out a list says labels of, whether these are used or not."""
    train, val = ((part != UNLABELLED).sum() for part in (lists.label.train_N, lists.label.val_P))
    # Held-out rows of train are in both.
    return int(train) + (0 if len(held_rows) else int(val))


def _listed(wrong: Labels, drawn: Choice, choice: Choice, lists: Lists) -> tuple[int, int, int]:
    """How many labels a list says, how many of them were not known, and how many were others."""
    said_N, val_P = lists.label.train_N[choice.rows], lists.label.val_P[choice.val_rows]
    knew = torch.isin(choice.rows, drawn.allowed) & (wrong.train_N[choice.rows] != UNLABELLED)
    told, held = said_N != UNLABELLED, val_P != UNLABELLED
    others = told & knew & (said_N != wrong.train_N[choice.rows])
    changed = int(others.sum()) + int((held & (val_P != wrong.val_P[choice.val_rows])).sum())
    return int(told.sum()) + int(held.sum()), int((told & ~knew).sum()), changed


def _digest(seen: Dataset, samples: int, group_K: Tensor | None) -> str:
    """The identity of what is known of the data themselves."""
    own = seen.fit_rows < samples
    parts = [seen.train.label_N[:samples], seen.val.label_N, seen.fit_rows[own]]
    return digest_of(*parts, *([] if group_K is None else [group_K]))


def _digest_beside(seen: Dataset, samples: int) -> str:
    """The identity of what is known of images beside them, of which lists may say labels; empty without any."""
    beside = seen.fit_rows[seen.fit_rows >= samples]
    return (
        digest_of(seen.train.label_N[samples:], beside) if len(seen.train.label_N) > samples else ""
    )


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


def _seen(dataset: Dataset, given: Labels, held_rows: Tensor, choice: Choice) -> Dataset:
    """The dataset with these labels where they are known, and nowhere else but in `hidden_N`.

    Args:
        dataset: As it lies on disk.
        given: The labels, changed.
        held_rows: Rows of train that the split holds out.
        choice: What is known of the data.
    """
    train, rows, val_rows = dataset.train, choice.rows, choice.val_rows
    known_N = torch.full_like(train.label_N, UNLABELLED)
    known_N[choice.allowed] = given.train_N[choice.allowed]
    if len(held_rows):
        known_N[held_rows[val_rows]] = given.val_P[val_rows]
    hidden_N = torch.full_like(train.label_N, UNLABELLED)
    unknown = rows[absent_from(rows, choice.allowed)]
    hidden_N[unknown] = train.label_N[unknown]
    return replace(
        dataset,
        train=replace(train, label_N=known_N),
        fit_rows=rows,
        val=replace(dataset.val.take(val_rows), label_N=given.val_P[val_rows]),
        hidden_N=hidden_N,
    )


def _of_any_kind(rules: LabelRules) -> LabelRules:
    """The rules but for those that leave images out, whatever their labels are."""
    return replace(rules, limit=None, fold=None, without=(), unlabelled=None)


def _check_kind(dataset: Dataset, rules: LabelRules) -> None:
    """Refuses to change labels where an image has several; images may be left out."""
    if dataset.multi_label and _of_any_kind(rules).changes:
        raise UsageError(
            f"several labels may apply to an image of {dataset.spec}: which are known, changed or left "
            "out is chosen by class",
            hint="--limit, --fold, --without and --unlabelled-list alone go with such data",
        )
