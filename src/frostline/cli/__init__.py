"""The command line: arguments in, one call each."""

from frostline.cli.entry import main

__all__ = ["main"]
