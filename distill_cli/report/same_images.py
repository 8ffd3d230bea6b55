"""Whether two runs were tested on the same images, as far as they noted them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from distill_cli.report.run_folder import RunSummary

Images = Literal["dataset", "test"]
IMAGES: tuple[Images, ...] = get_args(Images)


def same_test_images(one: RunSummary, other: RunSummary) -> bool | None:
    """Whether the test images of two finished runs are the same; None where that is unknown.

    Runs up to 0.4.0 noted their training images only, which say as much where copies were left out
    of both or of neither: none is left out of test.
    """
    results = (one.result, other.result)
    counts = {result.test_samples for result in results if result is not None}
    if len(counts) > 1:
        return False
    tests = [noted_images(run, "test") for run in (one, other)]
    if None not in tests:
        return bool(tests[0] == tests[1])
    trained = [noted_images(run, "dataset") for run in (one, other)]
    if None in trained:
        return None
    if trained[0] == trained[1]:
        return True
    without_copies = [bool(_noted(run, "dataset", "dedupe")) for run in (one, other)]
    return None if without_copies[0] != without_copies[1] else False


def same_training_images(one: RunSummary, other: RunSummary) -> bool | None:
    """Whether two runs learnt from the same images; None where one did not note its own."""
    trained = [noted_images(run, "dataset") for run in (one, other)]
    return None if None in trained else bool(trained[0] == trained[1])


def training_images(run: RunSummary) -> int | None:
    """Training images of a run, the held-out ones included; None where it noted none."""
    samples = _noted(run, "dataset", "samples")
    return samples if isinstance(samples, int) else None


def trained_on(run: RunSummary) -> int | None:
    """Images that a run learnt from; None where it did not note their number."""
    count = run.recorded.get("trained_on")
    return count if type(count) is int else None


def noted_images(run: RunSummary, part: Images) -> Any:
    """The fingerprint of a run's training or test images; None where it noted none."""
    return _noted(run, part, "fingerprint")


def _noted(run: RunSummary, part: str, key: str) -> Any:
    values = run.recorded.get(part)
    return values.get(key) if isinstance(values, Mapping) else None
