"""A cached teacher says what the live one says, of the very same views."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill_cli import runtime
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.loader import Loader
from distill_cli.data.views import Views
from distill_cli.pipeline.inputs.teachers import open_teachers
from distill_cli.recipe.earlier import FRAMING
from distill_cli.types import ViewSpec
from tests.conftest import Made, invoke


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


def batches(digits: Dataset, spec: ViewSpec, batch: int, seed: int) -> Loader:
    return Loader(
        views=Views(digits.train, spec, torch.device("cpu")),
        target_N=digits.train.label_N,
        rows=digits.fit_rows,
        batch_size=batch,
        seed=seed,
        stored_views=2,
    )


@pytest.mark.parametrize("batch", [1, 17, 128])
def test_in_fp32(made: Made, digits: Dataset, batch: int) -> None:
    here = runtime.decide("cpu")
    [live] = open_teachers([str(made.teacher)], digits, here, "fp32")
    [cached] = open_teachers([str(made.labels / "a")], digits, here, "fp32")
    spec = ViewSpec(augment=("shift:1",), channels=1, height=8, width=8, seed=0, framing=FRAMING)
    assert cached.reader.plan.view_spec == spec
    for epoch in range(2):
        for number, one in enumerate(batches(digits, spec, batch, seed=5).epoch(epoch)):
            if number == 20:
                break
            said, stored = live.signals(one), cached.signals(one)
            assert torch.allclose(said.logits_BK, stored.logits_BK, rtol=0, atol=1e-5)
            for temperature in (1.0, 4.0, 20.0):
                a, b = said.log_probs(temperature), stored.log_probs(temperature)
                assert torch.allclose(a, b, rtol=0, atol=1e-5)


def test_views_are_the_same_to_the_bit_whatever_the_batch(digits: Dataset) -> None:
    spec = ViewSpec(augment=("shift:2", "flip"), channels=1, height=8, width=8, seed=3)
    views = Views(digits.train, spec, torch.device("cpu"))
    rows = torch.arange(0, 256)
    dumped = views.batch(rows, torch.ones_like(rows)).images_BCHW
    for one in batches(digits, spec, 32, seed=1).epoch(1):
        for position, row in enumerate(one.index_B.tolist()):
            if row < 256:
                assert torch.equal(one.images_BCHW[position], dumped[row])


@pytest.mark.parametrize("codec", ["fp16", "bf16", "topk:4"])
def test_a_lossy_cache_stays_within_its_stated_error(
    made: Made, digits: Dataset, tmp_path: Path, codec: str
) -> None:
    outcome = invoke(
        *("cache-soft-labels", "--teachers", made.teacher, "--augment", "shift:1"),
        *("--codec", codec, "--out", tmp_path / "c", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    here = runtime.decide("cpu")
    [full] = open_teachers([str(made.labels / "a")], digits, here, "fp32")
    [lossy] = open_teachers([str(tmp_path / "c")], digits, here, "fp32")
    spec = full.reader.plan.view_spec
    worst = 0.0
    for one in batches(digits, spec, 128, seed=0).epoch(0):
        p, q = (t.signals(one).log_probs(1.0).double() for t in (full, lossy))
        worst = max(worst, float((p.exp() * (p - q)).sum(-1).max()))
    stated = lossy.reader.manifest.truncation_error[1].worst_kl
    assert 0 < worst <= stated * 1.01 + 1e-7
