"""eval.safetensors: a teacher's logits of evaluation rows, and a few views to compare with.

Shapes: P views of the probe.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from distill_cli.cache.pixel_probe import VIEWS
from distill_cli.cache.plan import Plan
from distill_cli.cache.safetensors_header import Header, read_header
from distill_cli.errors import ArtifactError, counted


def read_evaluation(path: Path, plan: Plan) -> dict[str, Tensor]:
    """The tensors of eval.safetensors by name, checked against the plan.

    Raises:
        ArtifactError: It is no file of evaluation rows under this plan.
    """
    header = read_header(path)
    fault = _fault(header, plan)
    if fault is not None:
        raise ArtifactError(f"{path} is not what the plan says: {fault}")
    with safe_open(path, framework="pt") as file:
        tensors = {name: torch.as_tensor(file.get_tensor(name)) for name in header.spans}
    for name, limit in (("probe.index", plan.dataset.rows), ("probe.view", plan.views)):
        if name in tensors and not bool(((tensors[name] >= 0) & (tensors[name] < limit)).all()):
            raise ArtifactError(f"{path}: '{name}' goes beyond {limit}")
    for name in ("val.logits", "test.logits"):
        if name in tensors and not bool(tensors[name].isfinite().all()):
            raise ArtifactError(f"{path}: '{name}' holds NaN or infinity")
    return tensors


def _fault(header: Header, plan: Plan) -> str | None:
    """The first difference from a file of evaluation rows under this plan; None where none is."""
    spec, classes = plan.view_spec, len(plan.dataset.class_names)
    groups = {
        "val": {"val.logits": ("F32", (classes,)), "val.target": ("I64", ())},
        "test": {"test.logits": ("F32", (classes,)), "test.target": ("I64", ())},
        "probe": {
            "probe.index": ("I64", ()),
            "probe.view": ("I64", ()),
            "probe.images": ("U8", (spec.channels, spec.height, spec.width)),
        },
    }
    known = {name for group in groups.values() for name in group}
    if extra := sorted(header.spans.keys() - known):
        return f"it holds '{extra[0]}'"
    for kind, group in groups.items():
        present = group.keys() & header.spans.keys()
        if present and present != group.keys():
            return f"it lacks '{min(group.keys() - present)}'"
        spans = {name: header.spans[name] for name in present}
        rows = {span.shape[:1] for span in spans.values()}
        for name, span in spans.items():
            dtype, shape = group[name]
            if span.dtype != dtype or len(span.shape) != 1 + len(shape) or span.shape[1:] != shape:
                return f"'{name}' is {span.dtype} {span.shape}"
        if len(rows) > 1:
            return f"its {kind} rows are not as many in each tensor"
        if kind == "probe" and rows and not 1 <= next(iter(rows))[0] <= VIEWS:
            return f"its probe has {counted(next(iter(rows))[0], 'view')}"
    return None
