"""Commands that make a run: init, recipes, plan, train, resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from frostline.cli.app import Changes, ConfigFile, Json, app, is_first, load_config, print_json, watched
from frostline.places import check_run_folder


@app.command()
def init(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A data file, or a folder of train, validation, test.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("frostline.toml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a starter file from a look at the data."""
    from frostline.atomic import write_text
    from frostline.errors import ConfigError
    from frostline.starter import build_starter

    text = build_starter(data)
    if output.exists() and not overwrite:
        raise ConfigError(f"{output}: exists. Give another --output, or --overwrite.")
    write_text(output, text)
    print_json({"config": str(output)}) if as_json else print(f"{text}\nwritten to {output}")


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the named plans: what learns, why, what it costs, when to use it."""
    from frostline.plan.recipes import recipes as all_recipes

    if as_json:
        return print_json({name: recipe.model_dump(mode="json") for name, recipe in all_recipes().items()})
    for name, recipe in all_recipes().items():
        print(f"{name}\n  learns  {recipe.learns}\n  when    {recipe.when}")
        print(f"  why     {recipe.why}\n  cost    {recipe.cost}\n")
    return None


@app.command()
def plan(
    config: ConfigFile,
    changes: Changes = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Write the picture to this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Dry run: what will learn at which rate, and about how long it takes. Nothing is trained."""
    asked = load_config(config, changes)
    from frostline.dry_run import dry_run
    from frostline.terminal import build_console, show_dry_run

    place = picture or config.with_suffix(".plan.png")
    found = dry_run(asked, picture=place)
    if as_json:
        return print_json({**found.content(), "picture": str(place)})
    return show_dry_run(build_console(), found, picture=place)


@app.command()
def train(
    config: ConfigFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run's folder; else runs/NAME.")
    ] = None,
    changes: Changes = None,
    bundle: Annotated[
        Path | None, typer.Option("--from", metavar="MODEL", help="Start from a finished model's heads too.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--each-task-alone", help="Train each task by itself too, to compare.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time goes, part by part.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Train a plan; leaves a run's folder with the model, the report and the pictures."""
    flags = {"each_task_alone": alone, "profile": profile}
    changes = [*(changes or []), *(f"train.{name}=true" for name, is_set in flags.items() if is_set)]
    asked = load_config(config, changes)
    from frostline import run as runs

    folder = output or Path("runs") / config.stem
    _carry_out(
        lambda show: runs.train(asked, output=folder, start_from=bundle, overwrite=overwrite, show=show),
        folder,
        as_json,
    )


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")], as_json: Json = False
) -> None:
    """Go on with a run that was stopped or killed."""
    check_run_folder(run)
    from frostline import run as runs

    _carry_out(lambda show: runs.resume(run, show=show), run, as_json)


def _carry_out(call: Callable[[Any], Any], folder: Path, as_json: bool) -> None:
    """A training call with progress for people, or its report for machines."""
    stopped = f"stopped after a step; the state is saved. Go on with: frostline resume {folder}"
    go_on = f"stopped. Go on with: frostline resume {folder}"
    run = watched(
        call,
        as_json=as_json,
        stopped=stopped,
        broken_off=lambda: go_on if (folder / "config.toml").is_file() else "stopped; nothing was trained.",
    )
    if as_json and is_first():
        print_json(run.report)
