"""Finished runs whose model was removed: no way leads on but to train anew. Torch-free."""

from __future__ import annotations

from pathlib import Path

from distill_cli.errors import ArtifactError
from distill_cli.report.run_folder import RESULT

FILES = ("config.json", "model.safetensors")


def check_not_gone(run: Path) -> None:
    """Refuses a run that is done and has lost its model: it can be neither used nor gone on with.

    Raises:
        ArtifactError: With the way to have it again.
    """
    if (run / RESULT).is_file() and not all((run / "model" / name).exists() for name in FILES):
        raise ArtifactError(f"{run} is done, but its model is gone: --overwrite trains it anew")
