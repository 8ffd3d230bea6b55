"""Images that are there twice, against a search through all pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_cli.pipeline.audit import copies as module
from distill_cli.pipeline.audit.copies import Copy, Looks, copies, looks_of


def draw(count: int, channels: int = 1, side: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def sought(images_NCHW: Tensor, threshold: float = 0.99, fixed: int = 0) -> list[Copy]:
    looks = Looks()
    for _ in looks.watch(iter(images_NCHW.split(7))):
        pass
    return copies(looks.digests, looks.look_ND, threshold, fixed)


def pairs(images_NCHW: Tensor, threshold: float = 0.99, fixed: int = 0) -> list[tuple[int, int]]:
    return [(copy.row, copy.partner) for copy in sought(images_NCHW, threshold, fixed)]


def test_equal_and_changed_images() -> None:
    images = draw(30)
    images[20] = images[3]
    images[21] = (images[4] * 0.7).to(torch.uint8) + 20
    images[22] = (images[5].int() + draw(1)[0].int() // 64).clamp(max=255).to(torch.uint8)
    alike = {copy.row: copy for copy in sought(images)}
    assert {row: copy.partner for row, copy in alike.items()} == {20: 3, 21: 4, 22: 5}
    assert [alike[row].equal for row in (20, 21, 22)] == [True, False, False]
    assert alike[20].similarity == 1
    # Equal images alone.
    assert pairs(images, threshold=1.1) == [(20, 3)]


def test_the_first_stays_and_no_chain_joins_what_differs() -> None:
    """Each link is like the next; only those like one that stays are copies."""
    one, other = draw(2).double()
    steps = torch.linspace(0, 1, 12, dtype=torch.float64)
    chain = torch.stack([(1 - s) * one + s * other for s in steps]).round().to(torch.uint8)
    gone = sought(chain, threshold=0.97)
    left = set(range(12)) - {copy.row for copy in gone}
    look_ND = looks_of(chain)
    assert 1 < len(left) < 12
    for copy in gone:
        assert copy.partner in left
        assert copy.partner < copy.row
        assert float(look_ND[copy.row] @ look_ND[copy.partner]) >= 0.97
    for row in left:
        assert not any(
            float(look_ND[row] @ look_ND[earlier]) >= 0.97 for earlier in left if earlier < row
        )


def test_fixed_images_stay_and_count() -> None:
    images = draw(10)
    images[1] = images[0]
    images[7] = images[1]
    assert pairs(images, fixed=3) == [(1, 0), (7, 0)]


def test_a_copy_of_a_copy_names_the_one_that_stays() -> None:
    images = draw(10)
    images[5] = (images[2] * 0.8).to(torch.uint8)
    images[8] = images[5]
    assert pairs(images) == [(5, 2), (8, 2)]
    assert [copy.equal for copy in sought(images)] == [False, False]


def test_images_of_one_grey_are_like_equal_ones_alone() -> None:
    images = draw(6)
    images[2], images[3], images[4] = 10, 200, 10
    assert pairs(images) == [(4, 2)]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are compared in small blocks, and by few axes, as by a loop over all pairs."""
    base = draw(40, channels=3, side=10)
    noise = torch.randint(0, 40, base.shape, generator=torch.Generator().manual_seed(1))
    images = torch.cat([base, (base.int() + noise).clamp(max=255).to(torch.uint8)])
    look_ND = looks_of(images).double()
    kept: list[int] = []
    expected = []
    for row in range(len(images)):
        likeness = {earlier: float(look_ND[row] @ look_ND[earlier]) for earlier in kept}
        partner = max(likeness, key=lambda earlier: likeness[earlier], default=None)
        if partner is not None and likeness[partner] >= 0.97:
            expected.append((row, partner))
        else:
            kept.append(row)
    assert len(expected) > 20
    for block, chunk, closely, axes in ((1024, 16384, 8192, 48), (7, 5, 3, 4)):
        for name, value in (
            ("BLOCK", block),
            ("CHUNK", chunk),
            ("CLOSELY", closely),
            ("AXES", axes),
        ):
            monkeypatch.setattr(module, name, value)
        assert pairs(images, threshold=0.97) == expected


def test_large_images_are_compared_on_a_grid() -> None:
    images = draw(3, channels=3, side=70)
    assert looks_of(images).shape == (3, 32 * 32)
    torch.testing.assert_close(looks_of(images).norm(dim=1), torch.ones(3))
