"""Device, threads, determinism and stop signals: decided once, passed on."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any

import torch

from distill_cli.errors import UsageError

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how everything of one command computes."""

    device: torch.device
    threads: int
    deterministic: bool


def devices() -> list[str]:
    """The devices of this machine, the preferred one first."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.xpu.is_available():
        found.extend(f"xpu:{index}" for index in range(torch.xpu.device_count()))
    return [*found, "cpu"]


def decide(device: str, *, threads: int | None = None, deterministic: bool = False) -> Runtime:
    """Settles device, threads and determinism for this process.

    Raises:
        UsageError: The device does not exist here; the message lists those that do.
    """
    present = devices()
    if device == "auto":
        device = present[0]
    elif device not in present and f"{device}:0" not in present:
        raise UsageError(f"there is no device '{device}' here", hint=f"Found: {', '.join(present)}")
    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        # cuBLAS reads this when it starts; without it matrix products are refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    return Runtime(
        device=torch.device(device), threads=torch.get_num_threads(), deterministic=deterministic
    )


def cpu_capability() -> str:
    """The instruction set that torch's kernels use here: results are bit-equal only within one."""
    return str(torch.backends.cpu.get_cpu_capability())


def versions() -> dict[str, str]:
    """Versions of what decides pixels and arithmetic."""
    found = {"distill-cli": _version("distill-cli"), "python": platform.python_version()}
    return {**found, **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def describe(runtime: Runtime) -> dict[str, Any]:
    """What a run records of the machine it ran on."""
    return {
        "device": str(runtime.device),
        "threads": runtime.threads,
        "deterministic": runtime.deterministic,
        "cpu_capability": cpu_capability(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "versions": versions(),
    }


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; the second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a request that the loop honours after its step.

    Outside the main thread, where Python allows no handlers, the request never comes.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, request)
    except ValueError:
        previous.clear()
    try:
        yield request
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
