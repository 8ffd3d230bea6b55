"""Two plans side by side, in words. Torch-free."""

from __future__ import annotations

from collections.abc import Collection

from distill_cli.cache.json_diff import contrast, flat
from distill_cli.cache.plan import MAKER, Plan
from distill_cli.errors import counted
from distill_cli.types import DatasetIdentity

NO_TEST = "it holds no labels to learn the test images by, as --transductive does"
WITH_TEST = (
    "Name the run that it was dumped from, which labels any images, or dump again with --unlabelled "
    "and the folder of the test images"
)


def plan_differences(
    expected: Plan, actual: Plan, *, keys: Collection[str] | None = None
) -> list[str]:
    """The differences of two plans, one line each, as `key: expected … , found …`.

    The release of distill is left out: an update must not end a dump that is half done.

    Args:
        expected: The plan that counts.
        actual: The plan that is compared with it.
        keys: Top-level JSON keys to look at; all by default.
    """
    left, right = flat(expected.to_json()), flat(actual.to_json())
    return [
        f"{key}: {contrast(left.get(key), right.get(key))}"
        for key in dict.fromkeys([*left, *right])
        if left.get(key) != right.get(key)
        and key != f"versions.{MAKER}"
        and (keys is None or key.split(".")[0] in keys)
    ]


def data_differences(expected: Plan, actual: Plan, *, transductive: bool = False) -> list[str]:
    """The differences of data on hand from those of a cache, in words where that says more.

    Args:
        expected: The cache's plan.
        actual: The same plan, with the identity of the data on hand.
        transductive: Whether the images beside them are those of test.
    """
    then, now = expected.dataset, actual.dataset
    words = []
    if now.samples != then.samples:
        more = now.samples - then.samples
        words.append(
            f"{counted(abs(more), 'sample')} {'added' if more > 0 else 'removed'} "
            f"({now.samples:,} here, {then.samples:,} cached)"
        )
    elif now.ids_digest != then.ids_digest:
        words.append("as many samples, but other names: renamed, or one removed for one added")
    elif now.fingerprint != then.fingerprint:
        words.append("the same names, but other content: a file was edited or replaced")
    return [
        *words,
        *_unlabelled(then, now, transductive=transductive),
        *plan_differences(expected, actual, keys=("classes", "split")),
    ]


def _unlabelled(then: DatasetIdentity, now: DatasetIdentity, *, transductive: bool) -> list[str]:
    """The difference of the images of --unlabelled, by what a person would give."""
    if then.beside == now.beside:
        return []
    if transductive:
        return [NO_TEST]
    images = counted(then.unlabelled_samples, "unlabelled image")
    if not now.unlabelled:
        return [f"it labels {images} beside them, which --unlabelled names: give it here too"]
    if not then.unlabelled:
        return [
            "it was made without --unlabelled, and labels none of the images that it names here"
        ]
    return [f"--unlabelled names other images here than the {images} that it labels"]
