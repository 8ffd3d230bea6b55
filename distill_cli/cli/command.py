"""Commands that say what a repeated option did, and refuse to be one of several racing processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from distill_cli.cli.terminal import escape, mute_follower, say
from distill_cli.errors import UsageError
from distill_cli.launched import PROCESSES, by_option, place

# Parameters that may be given again, and whose values no commas join.
APART = ("require", "assignments", "engine_options")


# Options of which nothing is a value: an empty list.
MAY_BE_EMPTY = ("augment",)
# The key under which a command that takes no recipe leaves its options for the one place that shows hints.
OPTIONS = "distill.options"


class Command(TyperCommand):
    """A verb. Options that take one value take the last one given, and a line says so."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the arguments."""
        typed = list(args)
        try:
            if not ctx.resilient_parsing:
                self._refuse_empty(ctx, typed)
            rest: list[str] = super().parse_args(ctx, args)
        except typer.TyperException as error:
            if "unexpected extra argument" in str(error) and (line := self._spread(ctx, typed)):
                raise UsageError(line) from None
            raise
        if not ctx.resilient_parsing and "ranks" in ctx.params:
            _begin_rank()
        if not ctx.resilient_parsing and not ctx.params.get("quiet"):
            for line in self._repeated(ctx, typed):
                say(f"[bold]note:[/bold] {escape(line)}")
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Does the work."""
        if "recipe_file" not in ctx.params:
            # Hints of what reads data and networks speak to trainings, which have all that they name.
            params: list[Any] = self.get_params(ctx)
            ctx.meta[OPTIONS] = {name for option in params for name in option.opts}
        return super().invoke(ctx)

    def _refuse_empty(self, ctx: Any, args: list[str]) -> None:
        """Refuses an empty text, which a path would take for the folder it is in, and others for nothing.

        Raises:
            UsageError: With the option or argument.
        """
        values, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        params: list[Any] = self.get_params(ctx)
        for param in params:
            value = values.get(param.name)
            if param.name in MAY_BE_EMPTY:
                continue
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                is_option = param.param_type_name == "option"
                name = max(param.opts, key=len) if is_option else param.name.upper()
                raise UsageError(f"{name}: must not be empty")

    def _spread(self, ctx: Any, args: list[str]) -> str | None:
        """What to type where a blank stands between the values of one option; None where none does."""
        params: list[Any] = self.get_params(ctx)
        options = {
            name: option
            for option in params
            if getattr(option, "multiple", False)
            for name in option.opts
        }
        for number, word in enumerate(args):
            flag, joined, first = word.partition("=")
            values = [first, *args[number + 1 :]] if joined else args[number + 1 :]
            if flag in options and len(values) > 1 and not values[1].startswith("-"):
                again = f"{flag} {values[0]} {flag} {values[1]}"
                if options[flag].name in APART:
                    return f"{flag} takes one value at a time: {again}"
                return f"{flag} takes commas, or is given again: {flag} {values[0]},{values[1]} or {again}"
        return None

    def _repeated(self, ctx: Any, args: list[str]) -> list[str]:
        """A line for each option that is given several times and keeps one value."""
        values, _, order = self.make_parser(ctx).parse_args(args=args)
        lines = []
        option: Any
        for option, times in Counter(order).items():
            if times == 1 or option.param_type_name != "option" or option.multiple:
                continue
            if not option.is_flag:
                name = max(option.opts, key=len)
                often = "twice" if times == 2 else f"{times} times"
                lines.append(f"{name} is given {often}; the last counts: {values[option.name]}")
            elif option.secondary_opts:
                names = " and ".join([*option.opts, *option.secondary_opts])
                last = option.opts if values[option.name] else option.secondary_opts
                lines.append(f"of {names} the last counts: {last[0]}")
        return lines


def _begin_rank() -> None:
    """Begins what several ranks can do, as one of them; where there is one, nothing is to be done.

    Raises:
        DistillError: An attempt before ended in a way that this one would.
    """
    if place().ranks == 1:
        return
    from distill_cli.cli.attempts import look_back

    if not by_option():
        mute_follower()
    look_back()


class VerbApp(typer.Typer):
    """The commands of a verb's module."""

    def __init__(self, **options: Any) -> None:
        super().__init__(add_completion=False, **options)

    def command(  # type: ignore[override]
        self, name: str | None = None, **options: Any
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Registers a function as a `Command`."""
        return super().command(name, cls=Command, **options)


def refuse_ranks() -> None:
    """Refuses to be one of several processes that each would do all of the work.

    Raises:
        UsageError: torchrun, or another launcher by its variables, started more than one.
    """
    processes = place().ranks
    if processes == 1:
        return
    raise UsageError(
        f"this command is the work of one process, and {processes} were started, each of which would do "
        f"all of it ({PROCESSES}={processes})",
        hint="Start it once, without torchrun",
    )
