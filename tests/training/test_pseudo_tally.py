"""Labels that training makes up, counted: against a loop, from tables, and over a break."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill_cli.training.pseudo_tally import PseudoLabelTally
from distill_cli.training.run_log import RunLog
from distill_cli.training.state import State
from distill_cli.training.tally import Tally
from distill_cli.types import PSEUDO_LABELS, Batch, PseudoLabelCounts, PseudoLabels
from tests.objectives.steps import batch_of
from tests.training.test_device_steps import (
    COMMON,
    DATA,
    SETTINGS,
    STEPS,
    objective_of,
    played,
    tabled,
    taken,
    trainer,
)
from tests.training.test_device_steps import folder as folder

N, K = 40, 5
NAMES = "abcde"


def drawn(seed: int, rows: int = 12) -> tuple[PseudoLabels, Batch]:
    generator = torch.Generator().manual_seed(seed)
    index_B = torch.randperm(N, generator=generator)[:rows]
    label_B = torch.randint(0, K, (rows,), generator=generator)
    hidden = torch.rand(rows, generator=generator) < 0.6
    class_B = torch.randint(0, K, (rows,), generator=generator)
    accepted = hidden & (torch.rand(rows, generator=generator) < 0.5)
    batch = batch_of(label_B.masked_fill(hidden, -1), index_B=index_B)
    return PseudoLabels(class_B=class_B, accepted_B=accepted), batch


def truth(seed: int = 0) -> Tensor:
    """Of a third nobody knows."""
    return torch.randint(-2, K, (N,), generator=torch.Generator().manual_seed(seed)).clamp(min=-1)


@pytest.mark.parametrize("truth_N", [None, truth()], ids=["no truth", "truth"])
def test_counts_are_those_of_a_loop(truth_N: Tensor | None) -> None:
    """In the same memory from the first step on, and over a break after every step."""
    tally, seen, known, right, classes = PseudoLabelTally(), 0, 0, 0, [0] * K
    tally.truth_N = truth_N
    assert tally.means() == {}
    assert tally.epoch(1, NAMES) is None
    for seed in range(15):
        labels, batch = drawn(seed, rows=seed)
        tally.note(labels, batch, K)
        assert tally.counts is not None
        place = tally.counts.data_ptr()
        for row in range(seed):
            seen += int(batch.target_B[row]) < 0
            label = int(labels.class_B[row])
            if not labels.accepted_B[row]:
                continue
            classes[label] += 1
            true = -1 if truth_N is None else int(truth_N[batch.index_B[row]])
            known, right = known + (true >= 0), right + (true == label)
        if seed % 4 == 3:
            again = PseudoLabelTally(tally.state_dict())
            again.truth_N, tally = truth_N, again
        else:
            assert tally.counts.data_ptr() == place
    found = tally.epoch(3, NAMES)
    assert found == PseudoLabelCounts(
        epoch=3,
        seen=seen,
        accepted=sum(classes),
        known=known,
        right=right,
        classes=dict(zip(NAMES, classes, strict=True)),
    )
    shares = [count / sum(classes) for count in classes]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(K)
    expected = {"accepted": sum(classes) / seen, "accepted_entropy": entropy}
    assert tally.means() == pytest.approx(expected)
    assert found is not None
    assert PseudoLabelCounts.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert (found.to_json()["accuracy"] is None) == (truth_N is None)
    assert found.accuracy is None or found.accuracy == pytest.approx(right / known)
    tally.clear()
    assert tally.state_dict() == []
    assert tally.means() == {"accepted": 0.0, "accepted_entropy": 0.0}


def test_no_figure_but_the_honest_ones_knows_a_hidden_label() -> None:
    tallies = [PseudoLabelTally() for _ in range(2)]
    for other, tally in enumerate(tallies):
        tally.truth_N = torch.where(truth() < 0, -1, (truth() + other) % K)
        for step in range(5):
            tally.note(*drawn(step), K)
    one, two = tallies
    assert one.means() == two.means()
    first, second = one.epoch(1, NAMES), two.epoch(1, NAMES)
    assert first is not None
    assert second is not None
    assert first.right != second.right
    assert replace(first, right=0, known=0) == replace(second, right=0, known=0)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"epoch": 1},
        [],
        {"epoch": -1, "seen": 1, "accepted": 1, "known": 0, "right": 0, "accuracy": 0, "classes": {}},
        {"epoch": 1, "seen": 1, "accepted": 1, "known": 0, "right": 0, "accuracy": 0, "classes": []},
        {"epoch": 1, "seen": 1, "accepted": 1, "known": 0, "right": 0, "accuracy": 0, "classes": {"a": 0.5}},
    ],
)  # fmt: skip
def test_other_lines_are_malformed(line: object) -> None:
    with pytest.raises(ValueError, match=r"pseudo-labels|counts"):
        PseudoLabelCounts.from_json(line)


def test_the_log_is_cut_back_to_finished_epochs(tmp_path: Path) -> None:
    """By the numbers of its lines: a length would tell a checkpoint of hidden labels."""
    log = RunLog(tmp_path)
    state = State(step=1, tally=Tally())
    log.cut_back(state)
    assert not log.pseudo_labels.exists()
    log.epoch(state, {"val_top1": 0.5}, 0.1, NAMES)
    assert not log.pseudo_labels.exists(), "no label was made up"
    for epoch in range(4):
        state.epoch = epoch
        state.pseudo_labels.truth_N = truth(epoch)
        state.pseudo_labels.note(*drawn(epoch), K)
        log.epoch(state, {"val_top1": 0.5}, 0.1, NAMES)
    lines = log.pseudo_labels.read_bytes().splitlines(keepends=True)
    for epochs, kept in ((9, 4), (4, 4), (2, 2), (0, 0)):
        log.pseudo_labels.write_bytes(b"".join(lines))
        log.cut_back(State(epoch=epochs))
        assert log.pseudo_labels.read_bytes() == b"".join(lines[:kept])
    for broken in (lines[0] + lines[1][:-1], lines[0] + b"{", lines[0] + b"\xff\n" + lines[1]):
        log.pseudo_labels.write_bytes(broken)
        log.cut_back(State(epoch=9))
        assert log.pseudo_labels.read_bytes() == lines[0]


@pytest.mark.parametrize("name", ["pseudo-label", *[key for key in SETTINGS if "kl" not in key]])
def test_steps_from_tables_and_a_recording_count_as_the_host(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """Over the end of an epoch; most are accepted somewhere, and some are right."""
    options = {**COMMON, **DATA, **objective_of(name)}
    runs = [trainer(folder, tmp_path, **options) for _ in range(3)]
    ways = (runs[0]._steps_on_host, tabled(runs[1]).epoch, played(runs[2]).epoch)
    found = []
    for run, steps in zip(runs, ways, strict=True):
        torch.manual_seed(7)
        taken(run, steps, STEPS)
        found.append(run.state.pseudo_labels.epoch(1, run.network.class_names))
    assert found[0] == found[1] == found[2]
    assert found[0] is not None
    assert 0 < found[0].right < found[0].known == found[0].accepted <= found[0].seen
    assert runs[0].state.means()["accepted"] == found[0].accepted / found[0].seen
    assert (tmp_path / "0" / PSEUDO_LABELS).exists() is False, "no epoch has ended in the loop"
