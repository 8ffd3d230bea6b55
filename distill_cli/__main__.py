"""`python -m distill_cli` and the `distill` command."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Runs the command line and exits with its code.

    Ctrl-C at any moment is one line and 130, SIGTERM one line and 143.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, Terminated())
    try:
        # Imported here, and not above: imports take long enough for a Ctrl-C.
        from distill_cli.cli.terminal import guard

        guard()
        from distill_cli.cli.app import run

        run()
    except (KeyboardInterrupt, SystemExit) as end:
        # Python's own end takes a moment too, and would answer a Ctrl-C with a traceback, and SIGTERM
        # without the exit code of what is done.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        from distill_cli.cli.terminal import INTERRUPTED, leave, say_interrupted

        # Typer makes an exit of a Ctrl-C that came while it read the arguments, and says nothing.
        cause = getattr(end.__context__, "__cause__", None)
        if isinstance(end, KeyboardInterrupt) or isinstance(cause, KeyboardInterrupt):
            say_interrupted()
        elif end.code != INTERRUPTED:
            raise
        leave(INTERRUPTED)


class Terminated:
    """Handles SIGTERM where no training or dump does: one line, and the process ends at once.

    Nothing is raised, which imports and destructors could swallow.
    """

    def __init__(self) -> None:
        self.process = os.getpid()

    def __call__(self, number: int, frame: object) -> None:
        """Ends this process; what it was forked into says nothing."""
        code = 128 + number
        try:
            if os.getpid() == self.process:
                terminal = sys.modules.get("distill_cli.cli.terminal")
                if (leave_saying := getattr(terminal, "leave_saying", None)) is not None:
                    # The stream may be in the middle of a line, and refuse another.
                    leave_saying(getattr(terminal, "INTERRUPTION"), code)  # noqa: B009
                os.write(2, b"stopped before anything was begun\n")
        finally:
            os._exit(code)


if __name__ == "__main__":
    main()
