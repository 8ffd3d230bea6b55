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


def test_of_epochs_that_few_images_do_not_tell_apart_the_last_is_the_best() -> None:
    """The margin is from the best of all, so that a slow decline does not count as standing still."""
    state, chosen = State(), []
    for accuracy in (0.5, 0.6, 0.55, 0.5, 0.48, 0.95, 0.9, 0.91):
        chosen.append(state.is_best(HeldOut(figures={}, rank=(accuracy, 0.0), images=20)))
        state.epoch += 1
    # √(0.6·0.4/20) is 0.110, √(0.95·0.05/20) is 0.049: it is the best's own.
    assert chosen == [True, True, True, True, False, True, False, True]
    assert state.best_rank[0] == 0.95
