"""The command line: arguments in, one call each. Heavy modules are imported where they are used."""

from __future__ import annotations

import json
import os
import sys
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
    _print_json({"config": str(output)}) if as_json else print(f"{text}\nwritten to {output}")


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the named plans: what learns, why, what it costs, when to use it."""
    from frostline.plan.recipes import recipes as all_recipes

    if as_json:
        return _print_json({name: recipe.model_dump(mode="json") for name, recipe in all_recipes().items()})
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
    from frostline.dry_run import dry_run
    from frostline.terminal import build_console, show_dry_run

    place = picture or config.with_suffix(".plan.png")
    found = dry_run(_load(config, changes), picture=place)
    if as_json:
        return _print_json({**found.content(), "picture": str(place)})
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
    from frostline import run as runs

    folder = output or Path("runs") / config.stem
    flags = {"each_task_alone": alone, "profile": profile}
    changes = [*(changes or []), *(f"train.{name}=true" for name, is_set in flags.items() if is_set)]
    _watched(
        lambda show: runs.train(
            _load(config, changes), output=folder, start_from=bundle, overwrite=overwrite, show=show
        ),
        folder,
        as_json,
    )


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")], as_json: Json = False
) -> None:
    """Go on with a run that was stopped or killed."""
    from frostline import run as runs

    _watched(lambda show: runs.resume(run, show=show), run, as_json)


@app.command()
def evaluate(
    model: ModelFolder,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A labelled file.")],
    text: TextColumn = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Score a model on a labelled file."""
    from frostline.inference.predict import evaluate_file

    scores = evaluate_file(_model(model, precision), data, text=text)
    if as_json:
        return _print_json(scores)
    from frostline.terminal import build_console, score_table

    build_console().print(score_table(scores["tasks"], title=f"score {scores['score']:.3f}"))
    return None


@app.command()
def predict(
    model: ModelFolder,
    data: Annotated[Path, typer.Argument(metavar="INPUT", help="A file with texts.")],
    output: Output,
    text: TextColumn = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Write the rows of a file with predictions added."""
    from frostline.inference.predict import predict_file

    _through(predict_file, model, data, output, text, precision, as_json)


@app.command()
def embed(
    model: ModelFolder,
    data: Annotated[Path, typer.Argument(metavar="INPUT", help="A file with texts.")],
    output: Output,
    text: TextColumn = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Write the embeddings of a file's texts, as .npy or beside the rows."""
    from frostline.inference.predict import embed_file

    _through(embed_file, model, data, output, text, precision, as_json)


@app.command()
def show(model: ModelFolder, as_json: Json = False) -> None:
    """Say what a model is: backbone, tasks, labels, scores."""
    from frostline.model.bundle import load_bundle
    from frostline.terminal import show_model

    network, about = load_bundle(model)
    if as_json:
        tasks = {
            name: {"kind": task.kind, "labels": list(task.labels)} for name, task in network.tasks.items()
        }
        described = about.model_dump(mode="json", exclude={"hashes"})
        size = {"layers": network.backbone.num_layers, "width": network.backbone.width}
        return _print_json(described | size | {"tasks": tasks})
    return show_model(network, about)


def _load(config: Path, changes: list[str] | None) -> Any:
    from frostline.config import Config, parse_change

    return Config.load(config, changes=dict(parse_change(change) for change in changes or []))


def _model(folder: Path, precision: str) -> Any:
    from frostline.inference.model import load

    return load(folder, precision=precision)  # type: ignore[arg-type]


def _watched(call: Any, folder: Path, as_json: bool) -> None:
    """Runs a training call with progress for people, or prints its report for machines."""
    from frostline.errors import Interrupted
    from frostline.terminal import Watcher, build_console

    is_first = os.environ.get("RANK", "0") == "0"  # of those that torchrun started
    watcher = None if as_json or not is_first else Watcher(build_console())
    try:
        run = call(watcher)
    except Interrupted as stop:
        print(
            f"stopped after a step; the state is saved. Go on with: frostline resume {folder}",
            file=sys.stderr,
        )
        raise typer.Exit(128 + stop.signal) from None
    finally:
        if watcher:
            watcher.close()
    _print_json(run.report) if as_json and is_first else None


def _through(
    call: Any, model: Path, data: Path, output: Path, text: str | None, precision: str, as_json: bool
) -> None:
    """Sends a file through a model."""
    from frostline.terminal import Watcher, build_console, show_file_report

    loaded = _model(model, precision)
    watcher = Watcher(build_console())
    try:
        watch = None if as_json else lambda done: watcher.progress("rows", done, None)
        report = call(loaded, data, output, text=text, watch=watch)
    finally:
        watcher.close()
    if as_json:
        return _print_json(
            {
                "output": str(output),
                "rows": report.num_rows,
                "rows_without_text": report.num_empty,
                "precision": loaded.precision.format,
            }
        )
    return show_file_report(report, output=output, precision=loaded.precision)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


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
        print(f"frostline: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if os.environ.get("FROSTLINE_DEBUG") or error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"frostline: {place}{os.strerror(error.errno)}.", file=sys.stderr)
        sys.exit(2)
