"""Commands on a finished model: evaluate, predict, embed, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frostline.cli.app import Json, ModelFolder, Output, Precision, TextColumn, app, print_json, watched
from frostline.places import bundle_folder


@app.command()
def evaluate(
    model: ModelFolder,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A labelled file.")],
    text: TextColumn = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Score a model on a labelled file."""
    _check(model, data)
    from frostline.inference.predict import evaluate_file

    scores = evaluate_file(_model(model, precision), data, text=text)
    if as_json:
        return print_json(scores)
    from frostline.terminal import build_console, score_table

    console = build_console()
    console.print(score_table(scores["tasks"], title=f"score {scores['score']:.3f}"))
    for task, column in scores["without_labels"].items():
        console.print(f"no row has a label of '{task}' (column '{column}')", markup=False, highlight=False)
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
    _check(model, data, output)
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
    _check(model, data, output, takes_matrix=True)
    from frostline.inference.predict import embed_file

    _through(embed_file, model, data, output, text, precision, as_json)


@app.command()
def show(model: ModelFolder, as_json: Json = False) -> None:
    """Say what a model is: backbone, tasks, labels, scores."""
    bundle_folder(model)
    from frostline.model.bundle import load_bundle
    from frostline.terminal import show_model

    network, about = load_bundle(model)
    if as_json:
        tasks = {
            name: {"kind": task.kind, "labels": list(task.labels)} for name, task in network.tasks.items()
        }
        described = about.model_dump(mode="json", exclude={"hashes"})
        size = {"layers": network.backbone.num_layers, "width": network.backbone.width}
        return print_json(described | size | {"tasks": tasks})
    return show_model(network, about)


def _check(model: Path, data: Path, output: Path | None = None, *, takes_matrix: bool = False) -> None:
    """Raises before anything heavy is imported: no such model or file, an output that cannot be."""
    from frostline.data.read import checked_format
    from frostline.inference.write import checked_target

    bundle_folder(model)
    checked_format(data)
    if output is not None:
        checked_target(output, source=data, takes_matrix=takes_matrix)


def _model(folder: Path, precision: str) -> Any:
    from frostline.inference.model import load

    return load(folder, precision=precision)  # type: ignore[arg-type]


def _through(
    call: Any, model: Path, data: Path, output: Path, text: str | None, precision: str, as_json: bool
) -> None:
    """Sends a file through a model."""
    from frostline.inference.parts import KEPT, has_parts
    from frostline.terminal import show_file_report

    def pass_through(watcher: Any) -> Any:
        loaded = _model(model, precision)
        watch = watcher and (lambda done: watcher.progress("rows", done, None))
        return loaded.precision, call(loaded, data, output, text=text, watch=watch)

    nothing = "stopped. Nothing was written."
    used, report = watched(
        pass_through,
        as_json=as_json,
        stopped=nothing,
        broken_off=lambda: f"stopped. {KEPT}" if has_parts(output) else nothing,
    )
    if as_json:
        return print_json(
            {
                "output": str(output),
                "rows": report.num_rows,
                "rows_without_text": report.num_empty,
                "precision": used.format,
            }
        )
    return show_file_report(report, output=output, precision=used)
