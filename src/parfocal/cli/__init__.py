"""The command line: one subcommand, one library call."""

from parfocal.cli.program import main

__all__ = ["main"]
