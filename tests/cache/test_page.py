"""docs/soft-label-cache.md is code that reads a cache; it says what the package does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_cli.cache.plan import FORMATS
from distill_cli.cache.reader import CacheReader
from tests.cache.examples import dump, ids, plan

PAGE = (Path(__file__).parents[2] / "docs" / "soft-label-cache.md").read_text()


def page_code() -> dict[str, Any]:
    """The names that the page's code defines."""
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], names)
    return names


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16", "topk:1", "topk:3"])
def test_the_pages_reader_reads_what_ours_reads(tmp_path: Path, codec: str, version: int) -> None:
    names = page_code()
    one = plan(codec=codec).in_format(version)
    dump(tmp_path, one)
    reader = CacheReader(tmp_path)
    for row, view, temperature in (
        (0, 0, 1.0),
        (36, 1, 4.0),
        (17, 1, 3.0),
        (9, 0, 20.0),
        (21, 1, 9.0),
        (30, 0, 300.0),
        (3, 1, 0.4),
    ):
        rows = reader.gather(torch.tensor([row]), torch.tensor([view]))
        ours = reader.codec.log_probs(rows, temperature, torch.float64).exp()[0].numpy()
        found = names["probabilities"](tmp_path, row, view, temperature)
        assert np.allclose(found, ours, rtol=1e-6, atol=1e-9)


def test_the_pages_reader_names_the_rows(tmp_path: Path) -> None:
    dump(tmp_path)
    assert page_code()["sample_ids"](tmp_path) == CacheReader(tmp_path).sample_ids() == ids(37)


def test_every_key_is_on_the_page(tmp_path: Path) -> None:
    manifest = dump(tmp_path).to_json()
    for key in [*manifest, *manifest["view_spec"], *manifest["shards"][0]]:
        assert f"`{key}`" in PAGE, key
