"""`python -m distill_cli` and the `distill` command."""

from __future__ import annotations

import signal


def main() -> None:
    """Runs the command line and exits with its code; Ctrl-C at any moment is one line and 130."""
    try:
        # Imported here, and not above: imports take long enough for a Ctrl-C.
        from distill_cli.cli.terminal import guard

        guard()
        from distill_cli.cli.app import run

        run()
    except (KeyboardInterrupt, SystemExit) as end:
        # Python's own end takes a moment too, and would answer a Ctrl-C with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from distill_cli.cli.terminal import INTERRUPTED, leave, say_interrupted

        # Typer makes an exit of a Ctrl-C that came while it read the arguments, and says nothing.
        cause = getattr(end.__context__, "__cause__", None)
        if isinstance(end, KeyboardInterrupt) or isinstance(cause, KeyboardInterrupt):
            say_interrupted()
        elif end.code != INTERRUPTED:
            raise
        leave(INTERRUPTED)


if __name__ == "__main__":
    main()
