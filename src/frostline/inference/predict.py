"""Files through a model: predictions and embeddings in blocks, with memory that does not grow with the file;
scores, for which labels and logits of all rows are held.

Rows keep their order and columns. A row without text keeps its place: its prediction is empty, its embedding
NaN.

Shapes: N rows, D width of an embedding, C outputs of a head.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from frostline.atomic import new_file
from frostline.data.cells import read_text
from frostline.data.dataset import DataSettings, text_columns
from frostline.data.labels import Task, encode_labels, label_column
from frostline.data.read import Block, Row, column_names, format_of, iter_blocks, schema_of, separator_of
from frostline.data.table import Source, read_table
from frostline.errors import DataError, did_you_mean, listing
from frostline.inference.model import Model, Prediction, decide
from frostline.inference.parts import Numbers, Parts, parts_of
from frostline.inference.write import NpyWriter, checked_target, row_writer

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
    checked_target(target, source=source)
    columns = [name for task in model.tasks.values() for name in _added(task)]
    types = [kind for task in model.tasks.values() for kind in _added_types(task)]

    def answers(values: Numbers) -> list[Row]:
        rows: list[Row] = [{} for _ in next(iter(values.values()))]
        for name, task in model.tasks.items():
            for row, answer, value in zip(rows, decide(task, values[name]), values[name], strict=True):
                row[f"predicted_{name}"] = answer
                if task.kind != "regression":
                    row[f"probability_{name}"] = _probability(task, answer, value)
        return rows

    job = _Job(
        "predictions",
        model,
        source,
        text or model.about.text_column,
        compute=model.predict_proba,
        rows_of=answers,
        watch=watch,
    )
    return _transform(job, target, pa.schema(list(zip(columns, types, strict=True))))


def _probability(task: Task, answer: Prediction, value_C: np.ndarray[Any, Any]) -> float | list[float]:
    """Of the label that is the answer, or of each of several."""
    if isinstance(answer, list):
        return [round(float(value_C[task.labels.index(label)]), 6) for label in answer]
    return round(float(value_C.max()), 6)


def _added(task: Task) -> list[str]:
    names = [f"predicted_{task.name}"]
    return names if task.kind == "regression" else [*names, f"probability_{task.name}"]


def _added_types(task: Task) -> list[pa.DataType]:
    if task.kind == "regression":
        return [pa.float64()]
    types = [pa.string(), pa.float64()]
    return types if task.kind == "classification" else [pa.list_(one) for one in types]


def embed_file(
    model: Model, source: Path, target: Path, *, text: str | None = None, watch: Watch | None = None
) -> FileReport:
    """Writes embeddings: a float32 matrix (N, D) for `.npy`, else the rows with a column `embedding` (JSONL,
    Parquet) or `embedding_0` … (CSV, TSV).

    Args and errors as `predict_file`.
    """
    width = model.network.backbone.width
    kind = checked_target(target, source=source, takes_matrix=True)
    is_flat = kind in {"csv", "tsv"}
    columns = [f"embedding_{i}" for i in range(width)] if is_flat else ["embedding"]

    def rows_of(values: Numbers) -> list[Row]:
        lists = (row.tolist() for row in values["embedding"])
        return [dict(zip(columns, row if is_flat else [row], strict=True)) for row in lists]

    job = _Job(
        "embeddings",
        model,
        source,
        text or model.about.text_column,
        compute=lambda texts: {"embedding": model.encode(texts)},
        rows_of=rows_of,
        watch=watch,
    )
    if kind == "npy":
        return _embed_npy(job, target, width)
    # No list of a fixed size: pyarrow before 26 does not write or read one where a row is missing.
    numbers = pa.float32() if is_flat else pa.list_(pa.float32())
    return _transform(job, target, pa.schema([(name, numbers) for name in columns]))


@dataclass(frozen=True)
class _Job:
    """A file's way through a model.

    Attributes:
        kind: of the numbers.
        model: what computes.
        source: file with the texts.
        column: of the texts.
        compute: from texts to numbers.
        rows_of: from numbers to the columns that are added to each row.
        watch: called with the number of rows done.
    """

    kind: str
    model: Model
    source: Path
    column: str
    compute: Callable[[Sequence[str]], Numbers]
    rows_of: Callable[[Numbers], list[Row]]
    watch: Watch | None

    def start(self, added: list[str]) -> Iterator[Block]:
        """The blocks of the file, once the first is found to be in order."""
        blocks = _checked_blocks(self.source, self.column, added)
        first = next(blocks, None)
        return itertools.chain([first] if first else [], blocks)

    def answered(
        self, blocks: Iterator[Block], parts: Parts, report: FileReport
    ) -> Iterator[tuple[Block, list[str | None], Numbers]]:
        """Each block, its texts, and the numbers of those that are there; counts the rows."""
        for number, block in enumerate(blocks):
            texts = _texts(self.source, block, self.column, report)
            known = [one for one in texts if one is not None]
            yield block, texts, parts.numbers(number, known, self.compute)
            report.num_rows += len(block.rows)
            if self.watch:
                self.watch(report.num_rows)


def _embed_npy(job: _Job, target: Path, width: int) -> FileReport:
    report, blocks = FileReport(0, [], 0), job.start([])
    with (
        parts_of(target, job.model, kind=job.kind) as parts,
        new_file(target) as temporary,
        temporary.open("wb") as stream,
    ):
        writer = NpyWriter(stream, width)
        for _, texts, values in job.answered(blocks, parts, report):
            matrix_ND = np.full((len(texts), width), np.nan, dtype=np.float32)
            matrix_ND[[i for i, one in enumerate(texts) if one is not None]] = values["embedding"]
            writer.write(matrix_ND)
        writer.close()
    return report


def _transform(job: _Job, target: Path, added: pa.Schema) -> FileReport:
    """Writes the rows of a file with columns added."""
    report, blocks = FileReport(0, [], 0), job.start(added.names)
    kind = format_of(target)[0]
    names = [*column_names(job.source), *added.names] if kind in {"csv", "tsv"} else []
    schema = pa.schema([*schema_of(job.source), *added]) if kind == "parquet" else None
    empty = dict.fromkeys(added.names)
    with (
        parts_of(target, job.model, kind=job.kind) as parts,
        row_writer(target, columns=names, separator=separator_of(job.source), schema=schema) as writer,
    ):
        for block, texts, values in job.answered(blocks, parts, report):
            answers = iter(job.rows_of(values))
            pairs = zip(block.rows, texts, strict=True)
            writer.write([row | (empty if one is None else next(answers)) for row, one in pairs])
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


def evaluate_file(model: Model, source: Path, *, text: str | None = None) -> dict[str, Any]:
    """Scores of a model on a labelled file.

    Returns:
        As `scores_with_intervals`: those of `report.json`, 95 % intervals by bootstrap over rows.

    Raises:
        DataError: unreadable, a label that training never saw, a row without text, or no label at all.
    """
    from frostline.training.intervals import scores_with_intervals

    settings = DataSettings(train=source, text=text or model.about.text_column)
    labels = [replace(label_column(name, task), may_be_absent=True) for name, task in model.tasks.items()]
    table = read_table([Source(path=source)], [*text_columns(settings), *labels], split="test")
    encoded = {name: encode_labels(task, table) for name, task in model.tasks.items()}
    logits = model.logits(table.columns[settings.text].to_pylist())
    scores = scores_with_intervals(model.tasks, logits, encoded)
    if not scores["tasks"]:
        wanted = listing(task.column for task in model.tasks.values())
        raise DataError(f"{source}: no row has a label of any task. Columns looked for: {wanted}.")
    return scores
