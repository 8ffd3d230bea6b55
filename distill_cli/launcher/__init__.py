"""Starts the ranks of `--ranks` by torch's own launcher, on one machine or as one of several."""

from distill_cli.launcher.attempts import Ended, Launcher, begin_rank
from distill_cli.launcher.machines import Machines

__all__ = ["Ended", "Launcher", "Machines", "begin_rank"]
