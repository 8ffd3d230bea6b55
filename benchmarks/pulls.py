"""`python -m benchmarks.pulls [CASE…]`: how hard each objective pulls at its defaults, docs/pulls.md.

Of cases that are named, the others stay as the page has them. Minutes on two processors. A test compares the page with what it measures, and asks a reason of every default that pulls next to
nothing or leaves labels without a say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.gradients import DEFAULTS, EPOCHS, NETWORKS, OTHERS, RATES, Pull, pull
from distill_cli.files import write_text
from distill_cli.objectives import OBJECTIVES

PAGE = Path(__file__).parents[1] / "docs/pulls.md"
LEAST, MOST = 0.01, 10.0
RANGE = (f"{100 * LEAST:g} %", f"{100 * MOST:,.0f} %")
CASES = {**DEFAULTS, **OTHERS}
# Why an objective at its published weights pulls otherwise than `LEAST` to `MOST` of cross-entropy.
REASONS = {
    "dkd": "β = 8 is the authors' for CIFAR-100. A run begins with a weight of 0, which grows over "
    "its first twelfth; here it has grown.",
    "nkd": "The authors' for CIFAR-100: γ = 3.5 before T² = 9, of the classes beside the label. Theirs "
    "for ImageNet, 1.5 at T = 1, are in the table too.",
    "dist": "The authors' weight. Answers of an untrained network hardly differ, and correlations "
    "are blind to how little: what would turn them is a step of any size.",
    "logit-standardisation": "The authors' weight, 9 · T². Logits of an untrained network hardly "
    "differ, and are divided by their own deviation.",
    "hint": "Public benchmarks' weight, of a layer's values and not of labels. The regressor is untrained "
    "too, and so far from the teacher's layer.",
    "attention": "The authors' weight, β = 1,000, of maps that are normalised: it falls as they "
    "begin to resemble each other. A layer of vectors has one position, whose map is always 1: "
    "nothing can be learnt from it, and `attention` is for networks with maps.",
    "similarity": "The authors' weight, 3,000. Samples all resemble each other in an untrained "
    "network.",
    "feature-norm-kd": "λ² = 9 of the authors. Features of an untrained network are short, and the "
    "logits are divided by their length.",
}

PAIRS = "\n".join(
    f"The {name} is `{own}`, its teacher `{other}`, their rate {RATES[name]:g}."
    for name, (own, other) in NETWORKS.items()
)
HEAD = f"""# How hard each objective pulls

Made by `python -m benchmarks.pulls`; a test compares the figures with what it measures, and fails
where an objective at its defaults pulls with less than {RANGE[0]} or more than {RANGE[1]} of cross-entropy's
gradient and nothing is said about it below.

The norm of an objective's gradient over the student's parameters, with its usual weight and all its
terms but without the cross-entropy beside it, is averaged over ten fixed batches of sixty digits and
divided by that of cross-entropy at weight 1 (on sigmoid targets of the sum of the labels' binary
ones) on the same batches. *Untrained* and *trained* are shares of cross-entropy's on the untrained
network; *then* is the share of cross-entropy's on the same trained network. Weights that grow during
a warm-up have grown. Trained: {EPOCHS} passes over the digits with the objective and what stands
beside it by default, Adam, batches with as many samples of each class, fp32 on a CPU.
{PAIRS}

What counts is the larger of the two moments, on each network by itself: an objective may begin at 0
(`selective` keeps the labels of which the network is sure), and most die down as what they ask for
is reached. One that pulls at neither moment does nothing; one whose larger share is huge leaves
labels without a say.
"""
COLUMNS = [f"{name}, {moment}" for name in NETWORKS for moment in ("untrained", "trained", "then")]
Pulls = Mapping[tuple[str, str], Pull]


def share(value: float | None) -> str:
    """As `12.3 %`."""
    assert value is not None, "the page has both moments"
    return f"{100 * value:,.0f} %" if value >= 1 else f"{100 * value:.3g} %"


def complaints(pulls: Pulls, reasons: Mapping[str, str]) -> list[str]:
    """Faults of the defaults among these, given by case and network, or of the reasons."""
    outside = [
        (case, network)
        for (case, network), found in pulls.items()
        if case in DEFAULTS and not LEAST <= found.most <= MOST
    ]
    wrong = [
        f"{case} pulls with {share(pulls[case, network].most)} of cross-entropy on {network}"
        for case, network in outside
        if case not in reasons
    ]
    cases = {case for case, _ in outside}
    return wrong + [f"{case} needs no reason" for case in reasons if case not in cases]


def page(pulls: Pulls) -> str:
    """docs/pulls.md."""
    lines = [
        HEAD,
        f"| objective | weight | {' | '.join(COLUMNS)} |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for case in CASES:
        found = [pulls[case, network] for network in NETWORKS]
        cells = [share(value) for each in found for value in (each.start, each.end, each.beside)]
        weight = OBJECTIVES[case.split(", ")[0]].info.default_weights.objective
        lines.append(f"| {case} | {weight:g} | {' | '.join(cells)} |")
    lines += ["", f"## Outside {' to '.join(RANGE)}", ""]
    for case, reason in REASONS.items():
        figures = ", ".join(
            f"{share(pulls[case, network].most)} on {network}"
            for network in NETWORKS
            if not LEAST <= pulls[case, network].most <= MOST
        )
        lines.append(f"- `{case}`, {figures}. {reason}")
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[tuple[str, str], Pull]:
    """The figures of a page, by case and network."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 + len(COLUMNS) and cells[0] in CASES:
            values = [float(re.sub(r"[ ,%]", "", cell)) / 100 for cell in cells[2:]]
            for place, network in enumerate(NETWORKS):
                start, end, beside = values[3 * place : 3 * place + 3]
                found[cells[0], network] = Pull(start=start, end=end, beside=beside)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {'; '.join(CASES)}")
    asked = parser.parse_args().cases
    if not CASES.keys() >= set(asked):
        parser.error(f"of {'; '.join(CASES)}")
    torch.set_num_threads(1)
    pulls = read(PAGE.read_text()) if asked else {}
    for case in asked or CASES:
        for network in NETWORKS:
            pulls[case, network] = pull(network, case)
    write_text(PAGE, page(pulls))
    if wrong := complaints(pulls, REASONS):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
