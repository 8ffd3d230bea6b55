"""The root command: finds the verb that was called, and turns every error into one line."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from distill_cli import __version__
from distill_cli.cli import synonyms
from distill_cli.cli.command import OPTIONS
from distill_cli.cli.muting import unmute
from distill_cli.cli.terminal import (
    INTERRUPTED,
    escape,
    say,
    say_interrupted,
    say_stopped,
)
from distill_cli.errors import DistillError, StoppedError, fitting, is_interrupt, nearest, reason
from distill_cli.files import BAD_PATH, DISK_FULL
from distill_cli.launched import place

# Verb → module and the line that `distill --help` shows; the module is imported when called.
VERBS: dict[str, tuple[str, str]] = {
    "teacher": ("teacher", "Train a network with hard labels."),
    "cache-soft-labels": ("cache_soft_labels", "Store what teachers say of every view."),
    "student": ("student", "Train a student from one teacher or several."),
    "hint-init": ("hint_init", "Start a student from a middle layer of its teacher."),
    "self-train": ("self_train", "Rounds of networks that label the images for the next."),
    "evaluate": ("evaluate", "Accuracy, NLL, ECE, agreement with a teacher."),
    "predict": ("predict", "Classes and probabilities of images."),
    "compare": ("compare", "A table of runs; seeds are grouped."),
    "runs": ("runs", "The runs of a folder: which are done, and which go on."),
    "report": ("report", "One self-contained HTML page of a run."),
    "cache": ("cache", "Describe, check, join, import, export and share soft-label caches."),
    "export": ("export", "Weights at their bits, or ONNX, in INT8 too; checked."),
    "calibrate": ("calibrate", "Give classes their share of the answers, without labels."),
    "audit": ("audit", "Samples to look at: mislabelled, there twice, hard."),
    "query": ("query", "Which images to label next."),
    "noise": ("noise", "Estimate how often labels are wrong."),
    "recipes": ("recipes", "List, show, copy, validate and run recipes."),
    "models": ("models", "Where the layers of a network can be tapped."),
    "methods": ("methods", "The objectives there are."),
    "doctor": ("doctor", "Check this machine and installation."),
    "demo": ("demo", "Two teachers and their students on real digits, in a minute."),
}

EXAMPLE = """
[bold]In a minute:[/bold]

  distill teacher train --data digits --model mlp_256x2 --out runs/a

  distill student --teachers runs/a --model mlp_16x1

  distill compare runs/a runs/student-1
"""


class DistillGroup(TyperGroup):
    """Imports only the verb that is called; renders errors; maps exceptions to exit codes."""

    listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """All verbs, in the order of a first use."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb's command; while help is made, a stub that costs nothing."""
        if cmd_name not in VERBS:
            return None
        module, summary = VERBS[cmd_name]
        if self.listing:
            return TyperCommand(name=cmd_name, help=summary)
        verb: typer.Typer = import_module(f"distill_cli.cli.{module}").app
        command = typer.main.get_command(verb)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Root help, without importing any verb."""
        self.listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self.listing = False

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Completions of verbs, without importing any."""
        self.listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self.listing = False

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Reads the root's own options; a wrong one is one line, as any other fault."""
        try:
            return super().make_context(*args, **options)
        except typer.TyperException as error:
            if _is_help(error):
                raise
            fail(synonyms.explain(error, None), getattr(error, "exit_code", 2))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Answers an unknown verb with the right one."""
        name = args[0]
        if ctx.resilient_parsing:
            # The shell asks for completions.
            return super().resolve_command(ctx, args)
        if name not in VERBS and not name.startswith("-"):
            hint = synonyms.VERBS.get(name) or nearest(name, VERBS)
            fail(f"there is no command '{name}'. {hint}", 2)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the verb; whatever goes wrong becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except StoppedError as stopped:
            # A stop that was asked for is no error.
            say_stopped(str(stopped))
            raise typer.Exit(stopped.exit_code) from None
        except DistillError as error:
            hint = _fitting(error.hint, ctx)
            line = str(error) if hint == error.hint else str(DistillError(error.message, hint=hint))
            fail(line, error.exit_code, ended=error.ended)
        except typer.TyperException as error:
            if _is_help(error):
                raise
            fail(synonyms.explain(error, ctx.invoked_subcommand), getattr(error, "exit_code", 2))
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if is_interrupt(error):
                say_interrupted()
                raise typer.Exit(INTERRUPTED) from None
            text, hint, code = unexpected(error)
            fail(str(DistillError(text, hint=_fitting(hint, ctx))), code)


def _fitting(hint: str | None, ctx: Any) -> str | None:
    """What the verb at hand can do of a hint."""
    return fitting(hint, ctx.meta[OPTIONS]) if OPTIONS in ctx.meta else hint


def _is_help(error: Exception) -> bool:
    """Whether a group was called without a command: its help is shown already, and typer ends with 2."""
    # typer has its own copy of this class, or click's, by its version.
    return type(error).__name__ == "NoArgsIsHelpError"


def unexpected(error: BaseException) -> tuple[str, str | None, int]:
    """Message, hint and exit code of an error that is not ours."""
    text = reason(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"disk full: {text}", "What was saved before is intact; --resume goes on", 1
    if isinstance(error, OSError) and error.errno in BAD_PATH and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}", None, 2
    # Recognised by name and text: importing torch only to catch its error would cost seconds, and on CPUs it
    # raises a plain RuntimeError.
    starved = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if starved or "can't allocate memory" in text:
        return "out of memory", "Use a smaller --batch-size, or --accumulate 2 or more", 1
    if text.startswith("DataLoader worker"):
        # torch raises this from a signal handler, wherever the program stands.
        return "a worker that reads images died", "Try fewer --workers, or a smaller batch", 1
    if os.environ.get("DISTILL_DEBUG"):
        traceback.print_exc()
    hint = "Set DISTILL_DEBUG=1 to see where, and please report it"
    return f"internal error: {type(error).__name__}: {text}", hint, 1


def fail(message: str, code: int, *, ended: dict[str, Any] | None = None) -> NoReturn:
    """Prints one line on stderr and ends the process with this exit code; of several ranks one prints it.

    Args:
        message: The line.
        code: The exit code.
        ended: What another rank left of its end, where that is why this one ends.
    """
    line: str | None = message
    if place().ranks > 1:
        from distill_cli.meeting import line_of

        line = line_of(message, code, word=ended)
        if line is not None:
            unmute()
    if line is not None:
        say(f"[bold red]error:[/bold red] {escape(line)}")
    raise typer.Exit(code)


app = typer.Typer(
    cls=DistillGroup,
    rich_markup_mode="rich",
    no_args_is_help=True,
    # All verbs inherit them.
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distill {__version__}")
        raise typer.Exit


@app.callback(help="Teach networks with better labels than one-hot ones." + "\n" + EXAMPLE)
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


def run() -> None:
    """The console entry point."""
    if not sys.stderr.isatty() and not sys.stdout.isatty():
        # Typer forces colour under some CI variables; a pipe or a log file wants plain text.
        os.environ.setdefault("_TYPER_FORCE_DISABLE_TERMINAL", "1")
    try:
        app(prog_name="distill")
    finally:
        # Of a command that did not compute, there is nobody to part from.
        if (meeting := sys.modules.get("distill_cli.meeting")) is not None:
            meeting.part()
