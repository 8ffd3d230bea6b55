"""Work in other processes: results whatever /dev/shm holds, and no wait without an end."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import _utils

from distill_cli.data import watch, workers
from distill_cli.data.workers import stream
from distill_cli.errors import ArtifactError, InternalError, UsageError
from distill_cli.files import one_writer
from tests.processes import fork

MEGABYTE = 1 << 20
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18


@pytest.fixture(autouse=True)
def _no_wait_is_long() -> Iterator[None]:
    """What hangs fails after a minute, and is no hanging suite."""

    def late(number: int, frame: object) -> None:
        raise AssertionError("a wait without an end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A watch that looks often; how long it is patient each test says."""
    monkeypatch.setattr(watch, "EVERY", 0.02)
    monkeypatch.setattr(workers, "PAUSE", 1)
    # How long the loader waits for a worker at its end, before and after it asks it to end.
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.3)
    return monkeypatch


def numbered(number: int) -> Tensor:
    """Four megabytes of a number."""
    return torch.full((4 * MEGABYTE,), number, dtype=torch.uint8)


def assert_all_come() -> None:
    made = list(stream(numbered, range(12), workers=2))
    assert [(len(each), int(each[0]), int(each[-1])) for each in made] == [
        (4 * MEGABYTE, number, number) for number in range(12)
    ]


def test_results_come_in_order() -> None:
    assert_all_come()
    assert list(stream(str, [1, 2, 3], workers=2)) == ["1", "2", "3"]
    assert list(stream(str, [], workers=2)) == []


def test_without_room_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    share, calls = torch.UntypedStorage._share_fd_cpu_, [0]

    def full(storage: torch.UntypedStorage, *args: object) -> object:
        calls[0] += 1
        if calls[0] > 2 and not storage.is_shared():
            raise RuntimeError(
                "unable to allocate shared memory(shm): No space left on device (28)"
            )
        return share(storage, *args)

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    assert_all_come()


def small_shared_memory() -> bool:
    """Puts 16 MB in the place of /dev/shm, for this process and its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        return False
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return False
    return not libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=16m")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_in_a_container_of_a_small_dev_shm() -> None:
    """The default of a container is 64 MB: a batch at 224 pixels has 38."""

    def does() -> None:
        if not small_shared_memory():
            print("not allowed")
            return
        # Held by the parent, as a training holds the batch at hand and the next ones.
        held = list(stream(numbered, range(12), workers=2))
        print(sum(int(made[-1]) for made in held))

    ended = fork(does).end()
    if ended.out == b"not allowed\n":
        pytest.skip("this machine lets nobody mount")
    assert (ended.code, ended.out) == (0, b"66\n"), ended


def stops(number: int) -> Tensor:
    if number == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return numbered(number)


def waits(number: int) -> Tensor:
    time.sleep(1000)
    return numbered(number)


def dies(number: int) -> Tensor:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbered(number)


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize(
    ("make", "patience", "message"),
    [
        (stops, {"MOST_STOPPED": 10}, "a worker that reads images was stopped"),
        (waits, {"MOST_WAITING": 10}, "sent nothing for 0 minutes"),
        (dies, {}, "a worker that reads images died"),
    ],
)
def test_no_wait_is_without_an_end(
    hurried: pytest.MonkeyPatch, make: Callable[[int], Tensor], patience: dict, message: str
) -> None:
    for name, value in patience.items():
        hurried.setattr(watch, name, value)
    before = children()
    with pytest.raises(InternalError, match=message) as caught:
        list(stream(make, range(12), workers=2))
    assert caught.value.exit_code == 1
    assert children() <= before, "no worker is left"


def test_a_worker_that_is_stopped_at_the_end_is_not_waited_for(hurried: pytest.MonkeyPatch) -> None:
    before = children()
    made = stream(numbered, range(4), workers=1)
    assert len(next(made)) == 4 * MEGABYTE
    [worker] = children() - before
    os.kill(int(worker), signal.SIGSTOP)
    made.close()
    assert children() <= before


def slow(number: int) -> Tensor:
    time.sleep(1.5)
    return numbered(number)


def test_a_slow_worker_is_waited_for(hurried: pytest.MonkeyPatch) -> None:
    [made] = stream(slow, [5], workers=1)
    assert int(made[0]) == 5


def refuses(number: int) -> Tensor:
    raise ArtifactError("no image", hint="Replace it")


def times_out(number: int) -> Tensor:
    raise OSError("Connection timed out")


@pytest.mark.parametrize("count", [0, 2])
def test_errors_of_the_work_itself(count: int) -> None:
    with pytest.raises(ArtifactError, match=r"no image\. Replace it"):
        list(stream(refuses, range(3), workers=count))
    with pytest.raises(OSError, match="Connection timed out"):
        list(stream(times_out, range(3), workers=count))


def test_the_lock_of_a_killed_owner_is_free_though_its_workers_wait(tmp_path: Path) -> None:
    def does() -> None:
        with one_writer(tmp_path):
            (tmp_path / "held").touch()
            list(stream(waits, range(3), workers=2))

    process = fork(does)

    def started() -> bool:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return (tmp_path / "held").exists() and len(listed.read_text().split()) == 2

    process.until(started, "its workers")
    time.sleep(0.3)
    process.send(signal.SIGKILL)
    process.end()
    deadline = time.monotonic() + 3
    while True:
        try:
            with one_writer(tmp_path):
                return
        except UsageError:
            assert time.monotonic() < deadline, "the lock outlives its owner"
            time.sleep(0.05)
