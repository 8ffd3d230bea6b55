"""A few views kept with the labels."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.cache.pixel_probe import VIEWS, PixelProbe, as_grey_levels, chosen
from distill_cli.cache.reader import CacheReader
from distill_cli.cache.writer import CacheWriter
from tests.cache.examples import PLAN, commit, dump, evaluation, ids


@given(st.integers(1, 10**6), st.integers(1, 300))
def test_chosen_views_exist_and_are_spread(samples: int, views: int) -> None:
    index_P, view_P = chosen(samples, views)
    assert len(index_P) == min(VIEWS, samples * views)
    assert 0 <= int(index_P.min()) <= int(index_P.max()) < samples
    assert 0 <= int(view_P.min()) <= int(view_P.max()) < views
    if samples >= VIEWS:
        assert len(index_P.unique()) == VIEWS
    if views >= VIEWS:
        assert len(view_P.unique()) == VIEWS


def test_chosen_views_have_no_period() -> None:
    """Files that alternate between two formats, and views between two crops, are all looked at."""
    index_P, view_P = chosen(80_000, 80)
    for period in (2, 4):
        assert len((index_P % period).unique()) == period
    assert len((view_P % 2).unique()) == 2
    # Not the same place of both.
    assert not torch.equal(index_P * 80 // 80_000, view_P)


def test_differences_are_in_grey_levels() -> None:
    images_PCHW = torch.linspace(0, 1, 2 * 3 * 16).view(2, 3, 4, 4)
    probe = PixelProbe(
        index_P=torch.arange(2), view_P=torch.arange(2), images_PCHW=as_grey_levels(images_PCHW)
    )
    assert probe.difference(images_PCHW) == (0, 0)
    assert probe.difference((images_PCHW * 255).round() / 255)[0] == 0
    assert probe.difference(images_PCHW + 1 / 255)[0] <= 1
    changed_PCHW = images_PCHW.clone()
    changed_PCHW[1, 2, 0, 0] -= 30 / 255
    assert probe.difference(changed_PCHW) == (30, 1)


def test_it_comes_back_from_the_cache(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, PLAN)
    for shard in writer.missing():
        commit(writer, shard)
    index_P, view_P = chosen(37, 2)
    images_PCHW = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    probe = PixelProbe(index_P=index_P, view_P=view_P, images_PCHW=images_PCHW)
    writer.write_eval(evaluation(PLAN), probe)
    writer.write_ids(ids(37))
    writer.finish()
    found = CacheReader(tmp_path).probe
    assert found is not None
    for name, each in probe.tensors().items():
        assert torch.equal(each, found.tensors()[name])
    dump(tmp_path / "without")
    assert CacheReader(tmp_path / "without").probe is None
