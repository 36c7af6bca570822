"""The entry point: every command, and what a mistake looks like."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from frostline.cli import models, runs, studies
from frostline.cli.app import app

__all__ = ["app", "main", "models", "runs", "studies"]


def main() -> None:
    """Runs a command; a mistake of the user's ends with one paragraph and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from frostline.errors import FrostlineError

    try:
        app()
    except FrostlineError as error:
        if os.environ.get("FROSTLINE_DEBUG"):
            raise
        _leave(str(error), error)
    except OSError as error:
        if os.environ.get("FROSTLINE_DEBUG") or error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _leave(f"{place}{os.strerror(error.errno)}.", error)


def _leave(message: str, error: Exception) -> NoReturn:
    """Ends with a mistake, and with what was noted about it on the way."""
    print(" ".join([f"frostline: {message}", *getattr(error, "__notes__", [])]), file=sys.stderr)
    sys.exit(2)
