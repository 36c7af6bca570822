"""Commands that ask which plan is right: compare, advise, drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frostline.cli.app import (
    Changes,
    ConfigFile,
    Json,
    Precision,
    TextColumn,
    app,
    load_config,
    print_json,
    watched,
)


@app.command()
def compare(
    config: ConfigFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The study's folder.")],
    scenarios: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            "-s",
            metavar="NAME",
            help="A recipe, one-head:TASK, own, or a TOML file with a plan; repeatable. Else features, "
            "heads, one-head of each task, top-layers, gradual and full.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each scenario.")] = 1,
    yardstick: Annotated[
        str | None,
        typer.Option("--yardstick", help="What to compare with; else full, or the dearest."),
    ] = None,
    changes: Changes = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a study that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Train several plans on the same rows and say which one to take; goes on where it was stopped."""
    asked = load_config(config, changes)
    from frostline.study import compare as studies
    from frostline.terminal import build_console, show_comparison

    found = watched(
        lambda show: studies.compare(
            asked,
            output=output,
            scenarios=scenarios,
            seeds=seeds,
            yardstick=yardstick,
            overwrite=overwrite,
            show=show,
        ),
        as_json=as_json,
        stopped="stopped; the same command goes on where it was.",
    )
    if as_json:
        return print_json(found.content)
    return show_comparison(build_console(), found.content, folder=output)


@app.command()
def advise(
    config: ConfigFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else CONFIG.advice.toml.")
    ] = None,
    changes: Changes = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Say before any training which plan the data wants, and write it as a file that train takes."""
    from frostline.errors import ConfigError

    place = output or config.with_suffix(".advice.toml")
    if place.exists() and not overwrite:
        raise ConfigError(f"{place}: exists. Give another --output, or --overwrite.")
    asked = load_config(config, changes)
    from frostline.atomic import write_text
    from frostline.study.advise import advice_file
    from frostline.study.advise import advise as look
    from frostline.terminal import build_console, show_advice

    advice = watched(
        lambda show: look(asked, show=show), as_json=as_json, stopped="stopped; nothing was written."
    )
    write_text(place, advice_file(asked, advice))
    if as_json:
        return print_json({**advice.content(), "config": str(place)})
    return show_advice(build_console(), advice.content(), place=place)


@app.command()
def drift(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="general, a folder, or an earlier model.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="A bundle, or a run's folder.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file with texts to look at.")],
    text: TextColumn = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Say what training did to the embeddings: must a corpus be embedded again?"""
    from frostline.study.drift import drift_of_file, drift_sentences

    found = drift_of_file(before, after, data, text=text, precision=precision)  # type: ignore[arg-type]
    if as_json:
        return print_json(found.content())
    for sentence in drift_sentences(found.content()):
        print(sentence)
    return None
