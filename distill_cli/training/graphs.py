"""The step as a CUDA graph: recorded once, then launched as a whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch

from distill_cli.errors import UsageError, reason

# Steps that are taken before the recording, on which libraries choose their kernels and make what
# they keep. They are ordinary steps: a recording computes nothing, so that nothing is taken twice.
WARM_UP = 3
# Steps below which `auto` does not record: a recording takes as long as some of them.
WORTH_IT = 200


class StepGraphs:
    """Takes steps: a few eagerly, then as a recording, equal to the bit.

    A step that draws one of several teachers is recorded for each; the recordings share their
    memory, since no two run at once.

    Args:
        device: A CUDA device.
        must: Whether a step that cannot be recorded is an error; else it stays eager.
        tell: Shows a person a line.
        quiet: Called before a recording: waits for other threads that use the device.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        must: bool,
        tell: Callable[[str], None] = lambda text: None,
        quiet: Callable[[], None] = lambda: None,
    ) -> None:
        self.device, self.must, self.tell, self.quiet = device, must, tell, quiet
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)
        self.recorded: dict[int, torch.cuda.CUDAGraph] = {}
        self.taken: Counter[int] = Counter()
        self.failed = False

    def take(self, body: Callable[[int], None], step: int, variant: int) -> None:
        """Takes one step.

        Args:
            body: Takes the step that is due; its argument is the step's number.
            step: That number.
            variant: Which recording the step belongs to.
        """
        graph = self.recorded.get(variant)
        if graph is None and not self.failed and self.taken[variant] >= WARM_UP:
            graph = self._record(body, step)
            if graph is not None:
                self.recorded[variant] = graph
        if graph is None:
            self.taken[variant] += 1
            self._eagerly(body, step)
        else:
            graph.replay()

    def _eagerly(self, body: Callable[[int], None], step: int) -> None:
        """On the stream that records: gradients must not be waited for by another one."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            body(step)
        current.wait_stream(self.stream)

    def _record(self, body: Callable[[int], None], step: int) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        self.quiet()
        try:
            # What another thread asks of the device meanwhile is no part of the recording, and no fault.
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                body(step)
        except RuntimeError as error:
            if self.must:
                raise UsageError(
                    f"--graphs on: this step cannot be recorded: {reason(error)}"
                ) from None
            self.failed = True
            generator = cuda_generator(self.device)
            # A recording that fails leaves it waiting for the end of the recording.
            generator.graphsafe_set_state(generator.clone_state())
            self.tell(f"steps are taken one operation at a time: {reason(error)}")
            return None
        return graph


Wanted = Literal["auto", "on", "off"]


def has_graphs(device: torch.device) -> bool:
    """Whether steps can be recorded on a device."""
    return device.type == "cuda"


def check_wanted(wanted: Wanted, device: torch.device, cause: str | None) -> None:
    """Refuses what `--graphs on` asks for and cannot be.

    Args:
        wanted: The option.
        device: Where steps are taken.
        cause: Why these steps cannot be recorded; None where they can.

    Raises:
        UsageError: With the cause.
    """
    if wanted != "on":
        return
    if not has_graphs(device):
        raise UsageError(f"--graphs on: CUDA graphs need a GPU of NVIDIA's, not {device.type}")
    if cause is not None:
        raise UsageError(f"--graphs on: {cause}", hint="Leave --graphs out, or choose off")


def cuda_generator(device: torch.device) -> Any:
    """The generator that kernels of a CUDA device draw from."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def room_on(device: torch.device) -> float:
    """Bytes of a device's memory that what is looked up there may take: half of what is free."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return free / 2
