"""Where data are. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from distill_cli.files import real_path


def locate(data: str) -> str:
    """A data spec with its path made absolute; also looked up under $DISTILL_DATA."""
    root = os.environ.get("DISTILL_DATA")
    for path in (Path(data), *([Path(root) / data] if root else [])):
        if path.exists():
            return str(real_path(path))
    return data
