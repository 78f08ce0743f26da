"""A subcommand that refuses an option given twice, of which the last would silently count."""

from collections import Counter
from typing import Any

from typer.core import TyperCommand

from parfocal.cli.usage import UsageError


class Command(TyperCommand):
    """A subcommand; options that take several values, such as `--set`, may be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command.

        Raises:
            UsageError: an option with one value is given more than once.
        """
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for param, count in Counter(given).items():
            if count > 1 and not (param.multiple or getattr(param, "is_flag", False)):
                raise UsageError(f"{param.opts[0]} is given {count} times; give it once", ctx=ctx)
        return super().parse_args(ctx, args)
