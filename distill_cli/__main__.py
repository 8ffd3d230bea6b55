"""`python -m distill_cli` and the `distill` command."""

from __future__ import annotations


def main() -> None:
    """Runs the command line and exits with its code."""
    from distill_cli.cli.app import run

    run()


if __name__ == "__main__":
    main()
