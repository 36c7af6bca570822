"""The command line's application, and what its commands share.

Heavy modules are imported where they are used.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="frostline",
    help="Fine-tune one text encoder for several tasks at once, under a plan of what is frozen when.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes round the help would load a Markdown parser: a third of its time
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="A bundle, or a run's folder.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key; as often as wanted.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the texts.")]
Precision = Annotated[str, typer.Option("--precision", help="auto | bf16 | fp32")]
Debug = typer.Option("--debug", help="Show the traceback of an error.")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"frostline {version('frostline')}")
        raise typer.Exit


Version = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")


@app.callback()
def _settings(debug: Annotated[bool, Debug] = False, version: Annotated[bool, Version] = False) -> None:
    if debug:
        os.environ["FROSTLINE_DEBUG"] = "1"


def load_config(config: Path, changes: list[str] | None) -> Any:
    """The config of a file with the changes of the command line, its data files seen to be there.

    Call it before anything heavy is imported: a mistake is told at once.
    """
    from frostline.config import Config, parse_change

    loaded = Config.load(config, changes=dict(parse_change(change) for change in changes or []))
    loaded.data.check_files()
    return loaded


def watched(
    call: Callable[[Any], Any],
    *,
    as_json: bool,
    stopped: str,
    broken_off: Callable[[], str] | None = None,
) -> Any:
    """What a long call returns; people see its events, machines nothing.

    Args:
        call: is given what shows events, or None.
        as_json: for machines.
        stopped: what to say when Ctrl-C or SIGTERM ended it; the exit code is that of the signal.
        broken_off: gives what to say when either came where the call does not listen for it, such as before
            training; else `stopped` is said.
    """
    from frostline.errors import Interrupted
    from frostline.signals import answering
    from frostline.terminal import build_console
    from frostline.watcher import Watcher

    watcher = None if as_json or not is_first() else Watcher(build_console())
    try:
        with answering(_break_off) if _is_alone() else nullcontext():
            return call(watcher)
    except Interrupted as stop:
        print(stopped, file=sys.stderr)
        raise typer.Exit(128 + stop.signal) from None
    except KeyboardInterrupt as stop:
        print(broken_off() if broken_off else stopped, file=sys.stderr)
        raise typer.Exit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None
    finally:
        if watcher:
            watcher.close()


def _break_off(number: int, _: object) -> None:
    """Leaves a call as Ctrl-C does: what is half-written is removed on the way."""
    raise KeyboardInterrupt(number)


def _is_alone() -> bool:
    """Whether this is the only process; one of several may wait where no handler of Python runs."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def is_first() -> bool:
    """Whether this process writes and talks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: Any) -> None:
    """Prints what machines read."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
