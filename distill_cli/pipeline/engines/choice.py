"""Which engine a command line names, with its options. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill_cli.errors import UsageError, nearest
from distill_cli.pipeline.engines.protocol import Engine

ENGINES = ("ray", "ray://HOST:PORT", "slurm")
RAY_ADDRESS = re.compile(r"ray://(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")


def engine_named(name: str, options: Sequence[str] = (), *, threads: int = 1) -> Engine:
    """The engine of `--on`; nothing is imported or started yet.

    Args:
        name: As in `ENGINES`.
        options: Its options, KEY=VALUE each.
        threads: Threads of a worker, which its processors are to suit.

    Raises:
        UsageError: There is no such engine, or it has no such option.
    """
    values = parsed(options)
    if name == "ray" or RAY_ADDRESS.fullmatch(name):
        from distill_cli.pipeline.engines.ray_engine import RayEngine, RayOptions

        address = None if name == "ray" else name
        known = {"num_cpus": threads, **chosen(values, RayOptions.__annotations__, name)}
        return RayEngine(address, RayOptions(**known))
    if name == "slurm":
        from distill_cli.pipeline.engines.slurm_engine import SlurmEngine

        return SlurmEngine({"cpus_per_task": threads, **values})
    if name.startswith("ray:"):
        raise UsageError(f"--on {name}: a Ray cluster is named as ray://HOST:PORT")
    raise UsageError(f"--on {name}: there is no such engine. {nearest(name, ENGINES)}")


def parsed(options: Sequence[str]) -> dict[str, Any]:
    """Options of the form KEY=VALUE; whole and decimal numbers are numbers.

    Raises:
        UsageError: One has another form.
    """
    values: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier() or not value.strip():
            raise UsageError(f"--engine-option {text} is not of the form KEY=VALUE")
        values[key] = _number(value.strip())
    return values


def _number(text: str) -> int | float | str:
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d{1,9}\.\d{1,9}", text) else text


def chosen(values: Mapping[str, Any], known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Values of numbers by their keys.

    Raises:
        UsageError: A key is not known, or its value is no number above 0.
    """
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"--on {name} has no option '{key}'. {nearest(key, known)}")
        least = 0 if key.startswith("num_") or key == "retries" else 1
        if isinstance(value, str) or value < least or (isinstance(value, float) and least):
            raise UsageError(
                f"--engine-option {key}={value}: it should be a number from {least} on"
            )
    return dict(values)
