"""docs/soft-label-cache.md is code that reads a cache; it says what the package does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_cli.cache.reader import CacheReader
from tests.cache.examples import dump, plan

PAGE = (Path(__file__).parents[2] / "docs" / "soft-label-cache.md").read_text()


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16", "topk:1", "topk:3"])
def test_the_pages_reader_reads_what_ours_reads(tmp_path: Path, codec: str) -> None:
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], names)
    one = plan(codec=codec)
    dump(tmp_path, one)
    reader = CacheReader(tmp_path)
    for row, view, temperature in (
        (0, 0, 1.0),
        (36, 1, 4.0),
        (17, 1, 3.0),
        (9, 0, 20.0),
        (3, 1, 0.4),
    ):
        rows = reader.gather(torch.tensor([row]), torch.tensor([view]))
        ours = reader.codec.log_probs(rows, temperature, torch.float64).exp()[0].numpy()
        found = names["probabilities"](tmp_path, row, view, temperature)
        assert np.allclose(found, ours, rtol=1e-6, atol=1e-9)


def test_every_key_is_on_the_page(tmp_path: Path) -> None:
    manifest = dump(tmp_path).to_json()
    for key in [*manifest, *manifest["view_spec"], *manifest["shards"][0]]:
        assert f"`{key}`" in PAGE, key
