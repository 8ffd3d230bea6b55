"""How the training in a run's folder ended, for whoever looks there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distill_cli.errors import DistillError, InternalError
from distill_cli.files import remove, write_json
from distill_cli.ranks import blame
from distill_cli.report.run_folder import OUTCOME


@contextmanager
def outcome_kept(run: Path) -> Iterator[None]:
    """Has a run's folder say how the training in it ended, unless it finishes; of ranks, on which one."""
    remove(run / OUTCOME)
    try:
        yield
    except DistillError as error:
        # A disk that is full has nothing to add to what it was full for.
        with suppress(InternalError):
            outcome = {"code": error.exit_code, "message": str(error), **blame(error)}
            write_json(run / OUTCOME, outcome)
        raise
