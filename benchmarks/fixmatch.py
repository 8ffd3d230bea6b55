"""`python -m benchmarks.fixmatch`: FixMatch and FreeMatch on CIFAR-10, as far as one core goes.

A small network for a few hundred steps: the papers train WRN-28-2 for 2^20. Every row has the same
labels and the same number of steps; test is looked at once. Runs that are done are kept.
"""

from __future__ import annotations

from typing import Any

LABELLED, UNLABELLED = 16, 112  # images of a step
WEAK = ["crop:4", "flip"]
PSEUDO: dict[str, Any] = {"name": "pseudo-label"}
# USB's 0.999 looks back over a thousand steps, more than there are.
MOMENTUM = 0.99
METHODS: dict[str, list[dict[str, Any]]] = {
    "ce": [{"name": "ce"}],
    "FixMatch": [{"name": "ce"}, {**PSEUDO, "threshold": 0.95}],
    "FreeMatch": [
        {"name": "ce"},
        {**PSEUDO, "adaptive": True, "fairness": 0.001, "momentum": MOMENTUM},
    ],
}
