"""Where a run stands: which epoch is the best."""

from __future__ import annotations

from distill_cli.training.state import HeldOut, State


def test_of_equal_epochs_the_first_is_the_best() -> None:
    state = State()
    ranks = [(0.5, -1.0), (0.7, -0.9), (0.7, -0.9), (0.7, -1.2), (0.6, -0.1)]
    chosen = []
    for epoch, rank in enumerate(ranks):
        state.epoch = epoch
        chosen.append(state.is_best(HeldOut(figures={"val_top1": rank[0]}, rank=rank)))
    assert chosen == [True, True, False, False, False]
    assert (state.best_epoch, state.best, state.best_rank) == (1, {"val_top1": 0.7}, [0.7, -0.9])
