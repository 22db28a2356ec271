"""Groups of commands, and what wrong usage of one says, alike in every version of click."""

from __future__ import annotations

from difflib import get_close_matches

import click


class BareCommandError(click.UsageError):
    """A group of commands was called without one: its help is what is wanted."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__("Missing command", ctx)
        self.help = ctx.get_help()


class CommandGroup(click.Group):
    """A group that says which command or option was probably meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; where there are none, help is wanted."""
        # Before 8.2, click shows the help by itself and takes that for a success.
        if not args and not self.invoke_without_command and not ctx.resilient_parsing:
            raise BareCommandError(ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown name is refused with the nearest one."""
        name = args[0] if args else ""
        names = self.list_commands(ctx)
        if name and not name.startswith("-") and name not in names:
            near = get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)


def usage_message(error: click.UsageError) -> str:
    """Return the message of an error about usage, without a full stop."""
    if isinstance(error, click.NoSuchOption):  # click's own words depend on its version
        name, names = error.option_name, error.possibilities or ()
        # A name of which it is the end or the beginning, before one with similar letters.
        whole = [each for each in names if name.strip("-") in each.strip("-").split("-")]
        near = whole or get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"No such option {error.option_name!r}.{hint}".rstrip(".")
    return error.format_message().rstrip(".")
