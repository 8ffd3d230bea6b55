"""Device, threads, determinism and precision, decided once and passed on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch

from distill_cli import __version__
from distill_cli.errors import UsageError
from distill_cli.launched import place
from distill_cli.ranks import ALONE, TIMEOUT, Ranks, join

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors")


Precision = Literal["fp32", "bf16", "fp16"]
TeacherPrecision = Literal["fp32", "bf16", "fp16", "fp64"]
Shard = Literal["none", "student", "teachers", "both"]
AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, threads, determinism and precision of one command.

    Attributes:
        device: Device of networks and views.
        threads: Number of torch's threads on the CPU.
        deterministic: Whether kernels that are not deterministic are refused.
        precision: Arithmetic of the student's forward and backward; weights and losses stay in
            fp32.
        ranks: The processes that do the work together.
        shard: Which networks' weights lie in parts on them.
    """

    device: torch.device
    threads: int
    deterministic: bool
    precision: Precision = "fp32"
    ranks: Ranks = ALONE
    shard: Shard = "none"

    @property
    def shards_student(self) -> bool:
        """Whether the student's weights lie in parts on the ranks."""
        return self.shard in ("student", "both")

    @property
    def shards_teachers(self) -> bool:
        """Whether those of live teachers do."""
        return self.shard in ("teachers", "both")

    @property
    def memory_format(self) -> torch.memory_format:
        """channels_last under autocast, the layout of fast 16-bit convolutions; else contiguous."""
        return torch.contiguous_format if self.precision == "fp32" else torch.channels_last

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward; losses are computed outside of it, in fp32."""
        return autocast(self.device, self.precision)

    def scaler(self) -> torch.amp.GradScaler:
        """The scaler that keeps fp16 gradients from vanishing; it does nothing in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


def autocast(device: torch.device, precision: TeacherPrecision) -> AbstractContextManager[Any]:
    """The context of a forward in 16 bits; of one in fp32 or fp64 none is needed."""
    if precision not in AUTOCAST:
        return nullcontext()
    # Without the cache of cast weights, which would outlive a recorded step.
    return torch.autocast(device.type, AUTOCAST[precision], cache_enabled=device.type != "cuda")


def teacher_precision(
    asked: TeacherPrecision | Literal["auto"], device: torch.device, codec: str = ""
) -> TeacherPrecision:
    """The arithmetic of live teachers: auto takes bf16 on GPUs that have it, else fp32.

    Args:
        asked: As the recipe has it.
        device: Device of the teachers.
        codec: The codec that stores their labels; fp32 keeps them to the bit, and so computes them.
    """
    if asked != "auto":
        return asked
    low = device.type == "cuda" and codec != "fp32" and best_precision(device) == "bf16"
    return "bf16" if low else "fp32"


def devices() -> list[str]:
    """The devices of this machine, the preferred one first."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    if torch.xpu.is_available():
        names.extend(f"xpu:{index}" for index in range(torch.xpu.device_count()))
    return [*names, "cpu"]


def best_precision(device: torch.device) -> Precision:
    """The precision of `--precision auto`, decided by the hardware's capabilities, never by timing.

    bf16 on CPUs with its instructions (AVX-512 BF16, AMX) and GPUs that have it, fp16 on older
    CUDA GPUs, fp32 elsewhere.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "xpu":
        return "bf16"
    if device.type != "cpu":
        return "fp32"
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return "bf16" if any(ask().get(name) for name in ("avx512_bf16", "amx_bf16")) else "fp32"


def decide(
    device: str,
    *,
    threads: int | None = None,
    deterministic: bool = False,
    precision: Precision | Literal["auto"] = "fp32",
    timeout: float = TIMEOUT,
) -> Runtime:
    """Settles device, threads, determinism and precision for this process, and meets the other ranks.

    Args:
        device: Its name, or `auto`.
        threads: Threads on the CPU; None for torch's own number.
        deterministic: Whether to refuse kernels that are not deterministic.
        precision: Of the student's forward and backward; `auto` takes what the device is best at.
        timeout: Seconds that a rank waits for the others in a step.

    Raises:
        UsageError: The device does not exist on this machine; the message lists those that do.
    """
    present = devices()
    if device == "auto":
        device = present[0]
        if device == "cuda:0":
            device = present[place().local_rank % torch.cuda.device_count()]
    elif device not in present and f"{device}:0" not in present:
        raise UsageError(f"there is no device '{device}' here", hint=f"Found: {', '.join(present)}")
    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        # cuBLAS reads this when it starts; without it matrix products are refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    chosen = torch.device(device)
    if chosen.type == "cuda" and place().ranks > 1:
        if chosen.index is None:
            chosen = torch.device("cuda", place().local_rank % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    return Runtime(
        device=chosen,
        ranks=join(chosen, timeout=timeout),
        threads=torch.get_num_threads(),
        deterministic=deterministic,
        precision=best_precision(chosen) if precision == "auto" else precision,
    )


def cpu_capability() -> str:
    """The instruction set of torch's CPU kernels; results are bit-equal only within one set."""
    return str(torch.backends.cpu.get_cpu_capability())


def device_name(device: torch.device) -> str:
    """The kind of device: `cpu`, or a GPU's type and name, whichever of several it is."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return device.type


def versions() -> dict[str, str]:
    """Versions of the libraries that decide pixels and arithmetic."""
    # Our version is that of the running code; the installed one may be an earlier state of it.
    ours = {"distill-cli": __version__, "python": platform.python_version()}
    return {**ours, **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def describe(runtime: Runtime) -> dict[str, Any]:
    """The record of the machine that a run keeps."""
    return {
        "device": str(runtime.device),
        "threads": runtime.threads,
        "deterministic": runtime.deterministic,
        "precision": runtime.precision,
        "cpu_capability": cpu_capability(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "versions": versions(),
    }


@contextmanager
def fast_kernels(runtime: Runtime) -> Iterator[None]:
    """Lets cuDNN choose the fastest kernels by trying them out, with a result that may vary.

    This is for training only: a dump that goes on must give the same labels as before.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not runtime.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
