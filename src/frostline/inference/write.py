"""Rows out to CSV, TSV, JSONL, Parquet or `.npy`, block by block; the file appears when it is whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from frostline.atomic import new_file
from frostline.data.read import Row, format_of
from frostline.data.separated import ALL_SEPARATORS
from frostline.errors import DataError


class RowWriter(Protocol):
    """Takes blocks of rows in order."""

    def write(self, rows: list[Row]) -> None:
        """Appends rows."""

    def close(self) -> None:
        """Ends the file."""


def checked_target(target: Path, *, source: Path, takes_matrix: bool = False) -> str:
    """Format of a file to be written: one of `FORMATS`, or 'npy'.

    Args:
        target: the file.
        source: that it is made of.
        takes_matrix: whether `.npy` is a format too.

    Raises:
        DataError: a link, a folder, the source itself, or an unknown format.
    """
    if target.is_symlink():
        raise DataError(f"{target}: is a link to {target.readlink()}. Give that name, or another output.")
    if source.resolve() == target.resolve():
        raise DataError(f"{target}: is the input too. Give another output.")
    if target.is_dir():
        raise DataError(f"{target}: is a folder. Give the name of a file.")
    if takes_matrix and target.suffix.lower() == ".npz":
        raise DataError(f"{target}: not a format of embeddings. Take .npy: one matrix of float32.")
    if takes_matrix and target.suffix.lower() == ".npy":
        return "npy"
    try:
        return format_of(target)[0]
    except DataError as error:
        if not takes_matrix:
            raise
        raise DataError(f"{error} Or .npy: one matrix of float32.") from error


@contextmanager
def row_writer(
    path: Path, *, columns: Sequence[str] = (), separator: str = ",", schema: pa.Schema | None = None
) -> Iterator[RowWriter]:
    """A writer for the format of the name; the file takes its name when the block ends well.

    Args:
        path: where to; gzipped when it ends in .gz.
        columns: names of all columns, for CSV and TSV.
        separator: of cells, for CSV.
        schema: names and types of all columns, for Parquet.
    """
    kind, is_gzipped = format_of(path)
    with new_file(path) as temporary, _opened(temporary, is_gzipped=is_gzipped) as stream:
        writer: RowWriter
        if kind == "jsonl":
            writer = _JsonlWriter(stream)
        elif kind == "parquet":
            assert schema is not None, "Parquet needs a schema"
            writer = _ParquetWriter(stream, schema)
        else:
            writer = _CsvWriter(stream, columns, "\t" if kind == "tsv" else separator)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def _opened(path: Path, *, is_gzipped: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if not is_gzipped:
            yield raw
            return
        # No name and no time in the header: the same rows give the same bytes.
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
            yield cast(IO[bytes], stream)


class _JsonlWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, rows: list[Row]) -> None:
        self._stream.write("".join(_json(row) + "\n" for row in rows).encode())

    def close(self) -> None:
        """Nothing to end."""


class _CsvWriter:
    def __init__(self, stream: IO[bytes], columns: Sequence[str], separator: str) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
        self._columns = columns
        self._writers = {
            quoting: csv.writer(self._text, delimiter=separator, lineterminator="\n", quoting=quoting)
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        }
        has_mark = any(mark in name for name in columns for mark in ALL_SEPARATORS)
        self._write_row(list(columns), is_risky=has_mark)  # so that the separator can be told

    def write(self, rows: list[Row]) -> None:
        for row in rows:
            self._write_row([_cell(row.get(name)) for name in self._columns])

    def _write_row(self, cells: list[Any], *, is_risky: bool = False) -> None:
        # A lone carriage return is left unquoted by the module before Python 3.13.
        is_risky = is_risky or any(isinstance(cell, str) and "\r" in cell for cell in cells)
        self._writers[csv.QUOTE_ALL if is_risky else csv.QUOTE_MINIMAL].writerow(cells)

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return _json(value)
    return "" if value is None else value


def _json(value: Any) -> str:
    """JSON of one line; numbers that it cannot hold, as NaN, are null."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _ParquetWriter:
    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(stream, schema)

    def write(self, rows: list[Row]) -> None:
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema))

    def close(self) -> None:
        self._writer.close()


class NpyWriter:
    """Appends rows of a float32 matrix (N, D) to a `.npy` file whose N is known at the end."""

    def __init__(self, stream: IO[bytes], width: int) -> None:
        self._stream, self._width, self._num_rows = stream, width, 0
        self._head()

    def _head(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._num_rows, self._width)}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def write(self, matrix_ND: np.ndarray[Any, Any]) -> None:
        """Appends rows."""
        self._stream.write(np.ascontiguousarray(matrix_ND, dtype="<f4").tobytes())
        self._num_rows += len(matrix_ND)

    def close(self) -> None:
        """Writes N into the head, which NumPy pads so that its length stays the same."""
        self._stream.seek(0)
        self._head()
