"""A student that sees less than its teacher: downscale, grey, and data of a smaller size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from distill_cli.cache.reader import CacheReader
from distill_cli.data.augment import parse
from distill_cli.data.dataset import open_dataset
from distill_cli.data.views import Views
from distill_cli.models import load_model
from distill_cli.training.loop import Trainer
from distill_cli.types import Batch
from tests.conftest import Made, Outcome, on_host

Distill = Callable[..., Outcome]
BRIEF = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches of a training."""
    batches: list[Batch] = []
    plain = Trainer.train_step

    def kept(self: Trainer, batch: Batch) -> object:
        batches.append(batch)
        return plain(self, batch)

    monkeypatch.setattr(Trainer, "train_step", kept)
    return batches


def coarse(images_BCHW: Tensor) -> Tensor:
    step = parse("downscale:4", 8)
    pixels_BCHW = (images_BCHW * 255).round().to(torch.uint8)
    return step(pixels_BCHW, torch.empty(len(pixels_BCHW), 0)) / 255  # type: ignore[operator]


@on_host
def test_a_live_teacher_sees_the_whole_image(
    made: Made, here: Path, distill: Distill, seen: list[Batch]
) -> None:
    views = ("--teacher-augment", "none", "--augment", "downscale:4")
    outcome = distill("student", "--teachers", made.teacher, *views, *BRIEF, "--out", "r")
    assert outcome.code == 0, outcome.err
    assert seen
    for batch in seen:
        assert batch.teacher_TCHW is not None
        assert not torch.equal(batch.teacher_TCHW, batch.images_BCHW)
        assert torch.equal(coarse(batch.teacher_TCHW), batch.images_BCHW)


@on_host
def test_a_cache_of_whole_images(
    made: Made, here: Path, distill: Distill, seen: list[Batch]
) -> None:
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--augment", "none", "--quiet")
    assert distill(*dump, "--out", "labels").code == 0
    views = ("--teacher-augment", "cache", "--augment", "downscale:4,shift:1")
    outcome = distill("student", "--teachers", "labels", *views, *BRIEF, "--out", "r")
    assert outcome.code == 0, outcome.err
    assert seen
    recipe = yaml.safe_load((here / "r/recipe.yaml").read_text())
    assert recipe["recorded"]["view_spec"]["augment"] == ["downscale:4", "shift:1"]
    outcome = distill("student", "--teachers", "labels", *views[2:], *BRIEF, "--out", "s")
    assert (outcome.code, "contradicts the cache's views" in outcome.err) == (3, True)


@on_host
def test_a_student_of_smaller_images_is_measured_on_them(
    made: Made, here: Path, distill: Distill
) -> None:
    """Its own size goes on after training, as downscale does not: test images too are 4 × 4."""
    views = ("--data", "digits", "--size", 4, "--teacher-data", "digits")
    outcome = distill("student", "--teachers", made.teacher, *views, *BRIEF, "--out", "r")
    assert outcome.code == 0, outcome.err
    assert load_model(here / "r").input_size == (1, 4, 4)
    assert load_model(made.teacher).input_size == (1, 8, 8)


@on_host
@pytest.mark.parametrize(
    "asked",
    [pytest.param((), marks=pytest.mark.slow), ("--teacher-augment", "cache")],
    ids=["", "cache"],
)
def test_a_student_of_smaller_images_of_a_cache(
    asked: tuple[str, ...], made: Made, here: Path, distill: Distill, seen: list[Batch]
) -> None:
    """The labels are those of the whole image in the view of that number, shifted alike."""
    cache = made.labels / "a"
    views = ("--size", 4, "--teacher-data", "digits", *asked)
    outcome = distill("student", "--teachers", cache, *views, *BRIEF, "--out", "r")
    assert outcome.code == 0, outcome.err
    assert (
        "teachers see digits: 8×8 grey as they were trained on"
        in distill(
            "student", "--teachers", cache, *views, *BRIEF[:-1], "--out", "x", "--dry-run"
        ).err
    )
    assert load_model(here / "r").input_size == (1, 4, 4)
    reader, whole = CacheReader(cache), open_dataset("digits")
    views_of = Views(whole.train, reader.plan.view_spec, torch.device("cpu"), workers=0)
    teacher = load_model(made.teacher)
    for batch in seen[:5]:
        assert batch.images_BCHW.shape[1:] == (1, 4, 4)
        images_BCHW = views_of.batch(batch.index_B, batch.view_B).images_BCHW
        assert batch.teacher_TCHW is not None
        assert torch.equal(batch.teacher_TCHW, images_BCHW)
        stored = reader.codec.log_probs(
            reader.gather(batch.index_B, batch.view_B), 1.0, torch.float32
        )
        with torch.no_grad():
            said = teacher(images_BCHW).log_softmax(dim=-1)
        assert torch.allclose(stored, said, atol=1e-3)
    recipe = yaml.safe_load((here / "r/recipe.yaml").read_text())
    assert recipe["recorded"]["view_spec"]["augment"] == ["shift:1"]
    assert recipe["recorded"]["teacher_view_spec"]["height"] == 8
    (here / "r/result.json").unlink()
    again = distill("student", "--resume", "--out", "r", "--quiet")
    assert again.code == 0, again.err


def test_what_a_cache_cannot_show(made: Made, here: Path, distill: Distill) -> None:
    cache = made.labels / "a"
    for views, code, words in (
        (
            ("--teacher-augment", "cache"),
            2,
            "the cache's views are 8×8 grey, and the student's images 4×4",
        ),
        ((), 3, "names the images that it was made of with --teacher-data"),
        (("--teacher-data", "digits", "--view-seed", 5, "--teacher-augment", "none"), 3, "augment"),
    ):
        args = ("student", "--teachers", cache, "--size", 4, *views, *BRIEF, "--out", "r")
        outcome = distill(*args)
        assert (outcome.code, words in outcome.err) == (code, True), outcome.err
