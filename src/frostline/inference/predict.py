"""Files through a model: predictions and embeddings in blocks, with memory that does not grow with the file;
scores, for which labels and logits of all rows are held.

Rows keep their order and columns. A row without text keeps its place: its prediction is empty, its embedding
NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from frostline.atomic import new_file
from frostline.data.cells import read_text
from frostline.data.dataset import DataSettings, text_columns
from frostline.data.labels import Task, encode_labels, label_column
from frostline.data.read import Block, Row, column_names, format_of, iter_blocks, schema_of
from frostline.data.table import Source, read_table
from frostline.errors import DataError, did_you_mean, listing
from frostline.inference.model import Model, decide
from frostline.inference.write import NpyWriter, row_writer

Watch = Callable[[int], None]


@dataclass
class FileReport:
    """What a pass over a file did.

    Attributes:
        num_rows: rows read and written.
        empty_rows: places of rows without text, the first five.
        num_empty: how many rows had no text.
    """

    num_rows: int
    empty_rows: list[str]
    num_empty: int


def predict_file(
    model: Model, source: Path, target: Path, *, text: str | None = None, watch: Watch | None = None
) -> FileReport:
    """Writes the rows of a file with `predicted_<task>` and `probability_<task>` added.

    Args:
        model: loaded.
        source: CSV, TSV, JSONL or Parquet, each also gzipped.
        target: the same formats.
        text: column of the texts; None: that of the training data.
        watch: called with the number of rows done.

    Raises:
        DataError: a file that cannot be read, no such column, or a column that would be overwritten.
    """
    columns = [name for task in model.tasks.values() for name in _added(task)]
    types = [kind for task in model.tasks.values() for kind in _added_types(task)]

    def answers(texts: list[str]) -> list[Row]:
        values = model.predict_proba(texts)
        rows: list[Row] = [{} for _ in texts]
        for name, task in model.tasks.items():
            for row, answer, value in zip(rows, decide(task, values[name]), values[name], strict=True):
                row[f"predicted_{name}"] = answer
                if task.kind == "classification":
                    row[f"probability_{name}"] = round(float(value.max()), 6)
        return rows

    column = text or model.about.text_column
    return _transform(
        source, target, column, columns, pa.schema(list(zip(columns, types, strict=True))), answers, watch
    )


def _added(task: Task) -> list[str]:
    names = [f"predicted_{task.name}"]
    return [*names, f"probability_{task.name}"] if task.kind == "classification" else names


def _added_types(task: Task) -> list[pa.DataType]:
    answer = {"regression": pa.float64(), "multilabel": pa.list_(pa.string())}.get(task.kind, pa.string())
    return [answer, pa.float64()] if task.kind == "classification" else [answer]


def embed_file(
    model: Model, source: Path, target: Path, *, text: str | None = None, watch: Watch | None = None
) -> FileReport:
    """Writes embeddings: a float32 matrix (N, D) for `.npy`, else the rows with a column `embedding` (JSONL,
    Parquet) or `embedding_0` … (CSV, TSV).

    Args and errors as `predict_file`.
    """
    column = text or model.about.text_column
    if target.suffix == ".npy":
        return _embed_npy(model, source, target, column, watch)
    width = model.network.backbone.width
    if target.suffix == ".npz":
        raise DataError(f"{target}: not a format of embeddings. Take .npy: one matrix of float32.")
    if format_of(target)[0] in {"csv", "tsv"}:
        columns = [f"embedding_{i}" for i in range(width)]
        schema = pa.schema([(name, pa.float32()) for name in columns])
        return _transform(
            source,
            target,
            column,
            columns,
            schema,
            lambda texts: [dict(zip(columns, row.tolist(), strict=True)) for row in model.encode(texts)],
            watch,
        )
    schema = pa.schema([("embedding", pa.list_(pa.float32(), width))])
    return _transform(
        source,
        target,
        column,
        ["embedding"],
        schema,
        lambda texts: [{"embedding": row.tolist()} for row in model.encode(texts)],
        watch,
    )


def _embed_npy(model: Model, source: Path, target: Path, column: str, watch: Watch | None) -> FileReport:
    report = FileReport(0, [], 0)
    with new_file(target) as temporary, temporary.open("wb") as stream:
        writer = NpyWriter(stream, model.network.backbone.width)
        for block in _checked_blocks(source, column, []):
            texts = _texts(source, block, column, report)
            matrix_ND = np.full((len(texts), model.network.backbone.width), np.nan, dtype=np.float32)
            known = [i for i, one in enumerate(texts) if one is not None]
            if known:
                matrix_ND[known] = model.encode([one for one in texts if one is not None])
            writer.write(matrix_ND)
            _count(report, block, watch)
        writer.close()
    return report


def _transform(
    source: Path,
    target: Path,
    column: str,
    added: list[str],
    added_types: pa.Schema,
    answer: Callable[[list[str]], list[Row]],
    watch: Watch | None,
) -> FileReport:
    if source.resolve() == target.resolve():
        raise DataError(f"{target}: is the input too. Give another output.")
    report = FileReport(0, [], 0)
    blocks = _checked_blocks(source, column, added)
    first = next(blocks, None)
    kind = format_of(target)[0]
    names = [*column_names(source), *added] if kind in {"csv", "tsv"} else []
    schema = pa.schema([*schema_of(source), *added_types]) if kind == "parquet" else None
    with row_writer(target, columns=names, schema=schema) as writer:
        for block in itertools.chain([first] if first else [], blocks):
            texts = _texts(source, block, column, report)
            answers = iter(answer([one for one in texts if one is not None]))
            empty = dict.fromkeys(added)
            rows = [
                row | (empty if one is None else next(answers))
                for row, one in zip(block.rows, texts, strict=True)
            ]
            writer.write(rows)
            _count(report, block, watch)
    return report


def _checked_blocks(source: Path, column: str, added: list[str]) -> Iterator[Block]:
    is_first = True
    for block in iter_blocks(source):
        if is_first:
            names = list(dict.fromkeys(name for row in block.rows for name in row))
            if column not in names:
                raise DataError(
                    f"{source}: no column '{column}'. Columns: {listing(names)}."
                    + did_you_mean(column, names)
                    + " Name the column of the texts with --text."
                )
            for name in added:
                if name in names:
                    raise DataError(f"{source}: has a column '{name}' already. Remove or rename it.")
        is_first = False
        yield block


def text_blocks(source: Path, column: str) -> Iterator[list[str | None]]:
    """The texts of a file, block by block; None where a row has none.

    Raises:
        DataError: a file that cannot be read, no such column, or a cell that is no text.
    """
    report = FileReport(0, [], 0)
    for block in _checked_blocks(source, column, []):
        yield _texts(source, block, column, report)


def _texts(source: Path, block: Block, column: str, report: FileReport) -> list[str | None]:
    texts: list[str | None] = []
    for row, line in zip(block.rows, block.lines, strict=True):
        try:
            texts.append(read_text(row.get(column)))
        except ValueError as error:
            raise DataError(f"{source}:{line}: column '{column}': {error}.") from error
        if texts[-1] is None:
            report.num_empty += 1
            if len(report.empty_rows) < 5:
                report.empty_rows.append(f"{source}:{line}")
    return texts


def _count(report: FileReport, block: Block, watch: Watch | None) -> None:
    report.num_rows += len(block.rows)
    if watch:
        watch(report.num_rows)


def evaluate_file(model: Model, source: Path, *, text: str | None = None) -> dict[str, Any]:
    """Scores of a model on a labelled file.

    Returns:
        `{"score": mean of main scores, "tasks": {name: scores}}`, tasks without a label left out; each task's
        `intervals` are 95 % intervals of its scores (bootstrap over rows).

    Raises:
        DataError: unreadable, a label that training never saw, a row without text, or no label at all.
    """
    from frostline.training.evaluate import mean_score, score_tasks
    from frostline.training.intervals import add_intervals

    settings = DataSettings(train=source, text=text or model.about.text_column)
    labels = [replace(label_column(name, task), may_be_absent=True) for name, task in model.tasks.items()]
    table = read_table([Source(path=source)], [*text_columns(settings), *labels], split="test")
    encoded = {name: encode_labels(task, table) for name, task in model.tasks.items()}
    logits = model.logits(table.columns[settings.text].to_pylist())
    scores = add_intervals(model.tasks, score_tasks(model.tasks, logits, encoded), logits, encoded)
    if not scores:
        wanted = listing(task.column for task in model.tasks.values())
        raise DataError(f"{source}: no row has a label of any task. Columns looked for: {wanted}.")
    return {"score": mean_score(model.tasks, scores), "tasks": scores}
