"""How work in progress is counted."""

from __future__ import annotations

from collections.abc import Callable

# Called with (done, in all) as work goes on.
Count = Callable[[int, int], None]
