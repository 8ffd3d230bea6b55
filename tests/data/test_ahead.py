"""Copies ahead: their order and number, and that nothing is copied twice; on a GPU, that they are whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.data.ahead import AHEAD, begun_ahead, copied_ahead
from distill_cli.data.workers import stream
from distill_cli.errors import ArtifactError


class Work:
    """Notes what is taken, begun and waited for."""

    def __init__(self, count: int) -> None:
        self.count, self.notes = count, list[tuple[str, int]]()

    def parts(self) -> Iterator[int]:
        for number in range(self.count):
            self.notes.append(("taken", number))
            yield number

    def begin(self, part: int) -> Callable[[], int]:
        self.notes.append(("begun", part))

        def result() -> int:
            self.notes.append(("waited for", part))
            return -part

        return result

    def number(self, what: str) -> int:
        return sum(note == what for note, _ in self.notes)


@given(count=st.integers(0, 9), ahead=st.integers(0, 4))
def test_so_many_are_begun_and_each_once(count: int, ahead: int) -> None:
    work = Work(count)
    made = begun_ahead(work.parts(), work.begin, ahead)
    assert work.notes == [], "nothing is begun before it is asked for"
    for number, result in enumerate(made):
        assert result == -number
        assert work.number("begun") == work.number("taken") == min(number + 1 + ahead, count)
        assert work.number("waited for") == number + 1
    assert len(set(work.notes)) == len(work.notes) == 3 * count


def test_an_error_in_reading_reaches_whoever_waits() -> None:
    def make(number: int) -> torch.Tensor:
        if number == 4:
            raise ArtifactError("no image")
        return torch.full((2,), number)

    made = begun_ahead(stream(make, range(9), workers=0), lambda part: lambda: part)
    assert [int(next(made)[0]) for _ in range(4 - AHEAD)] == list(range(4 - AHEAD))
    with pytest.raises(ArtifactError, match="no image"):
        next(made)


def test_on_the_cpu_images_are_taken_as_they_are() -> None:
    work = Work(3)
    parts = [torch.full((2,), number) for number in range(3)]
    made = copied_ahead((parts[number] for number in work.parts()), torch.device("cpu"))
    assert next(made) is parts[0]
    assert work.number("taken") == 1
    assert [int(part[0]) for part in made] == [1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_copies_are_whole_however_busy_the_device_is() -> None:
    """Read late, on other streams, while the allocator is asked for the same sizes again."""
    device = torch.device("cuda", torch.cuda.current_device())
    parts = (
        torch.full((3, 1 << 20), number, dtype=torch.uint8).pin_memory() for number in range(60)
    )
    sums, lane = [], torch.cuda.Stream(device)
    for number, copy in enumerate(copied_ahead(parts, device)):
        assert copy.device == device
        torch.cuda._sleep(2_000_000)
        sums.append(copy.long().sum())
        if number % 3 == 0:
            lane.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(lane):
                torch.cuda._sleep(2_000_000)
                sums[-1] = copy.long().sum()
            torch.cuda.current_stream().wait_stream(lane)
        del copy
        torch.full((3, 1 << 20), 255, dtype=torch.uint8, device=device)
    assert [int(total) for total in sums] == [number * 3 << 20 for number in range(60)]
