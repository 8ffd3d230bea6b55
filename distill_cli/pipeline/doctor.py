"""Whether this machine and installation can do the work: `distill doctor`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from distill_cli import runtime
from distill_cli.data.dataset import open_dataset
from distill_cli.errors import reason
from distill_cli.models import InputSpec, create_network


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: The name of the check.
        ok: Whether it is as it should be.
        finding: The finding, in words.
    """

    what: str
    ok: bool
    finding: str


def check_machine() -> list[Check]:
    """Every check; a failing one does not stop the others."""
    checks = [
        Check(name, finding != "not installed", finding)
        for name, finding in runtime.versions().items()
    ]
    checks.append(Check("CPU kernels", True, runtime.cpu_capability()))
    checks.append(Check("threads", True, str(torch.get_num_threads())))
    checks.extend(_device(name) for name in runtime.devices())
    checks.append(_digits())
    root = os.environ.get("DISTILL_DATA")
    if root is not None:
        checks.append(Check("DISTILL_DATA", Path(root).is_dir(), root))
    return checks


def _device(name: str) -> Check:
    try:
        view = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
        network = create_network("mlp_8x1", class_names=("a", "b"), view=view).to(name)
        network(torch.zeros(2, 1, 8, 8, device=name)).sum().backward()
    except (RuntimeError, AssertionError) as error:
        return Check(f"device {name}", False, reason(error))
    precision = runtime.best_precision(torch.device(name))
    finding = f"a forward and backward pass worked; --precision auto means {precision}"
    return Check(f"device {name}", True, finding)


def _digits() -> Check:
    dataset = open_dataset("digits")
    sizes = f"{len(dataset.fit_rows)} to train on, {len(dataset.val.label_N)} held out"
    return Check("digits", True, f"{sizes}, {len(dataset.test.label_N)} test")
