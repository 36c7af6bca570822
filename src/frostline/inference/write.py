"""Rows out to CSV, TSV, JSONL, Parquet or `.npy`, block by block; the file appears when it is whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from frostline.atomic import new_file
from frostline.data.read import Row, format_of
from frostline.errors import DataError


class RowWriter(Protocol):
    """Takes blocks of rows in order."""

    def write(self, rows: list[Row]) -> None:
        """Appends rows."""

    def close(self) -> None:
        """Ends the file."""


@contextmanager
def row_writer(path: Path, *, columns: list[str], schema: pa.Schema | None) -> Iterator[RowWriter]:
    """A writer for the format of the name; the file takes its name when the block ends well.

    Args:
        path: where to; gzipped when it ends in .gz.
        columns: names of all columns, for CSV, TSV and Parquet.
        schema: types of all columns, for Parquet; None: taken from the first rows.
    """
    kind, is_gzipped = format_of(path)
    with new_file(path) as temporary, _opened(temporary, is_gzipped=is_gzipped) as stream:
        writer: RowWriter
        if kind == "jsonl":
            writer = _JsonlWriter(stream)
        elif kind == "parquet":
            writer = _ParquetWriter(stream, path, columns, schema)
        else:
            writer = _CsvWriter(stream, path, columns, "\t" if kind == "tsv" else ",")
        yield writer
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
        lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
        self._stream.write("".join(line + "\n" for line in lines).encode())

    def close(self) -> None:
        """Nothing to end."""


class _CsvWriter:
    def __init__(self, stream: IO[bytes], path: Path, columns: list[str], separator: str) -> None:
        self._path = path
        self._text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
        self._writer = csv.DictWriter(self._text, columns, delimiter=separator, lineterminator="\n")
        self._writer.writeheader()

    def write(self, rows: list[Row]) -> None:
        try:
            self._writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
        except ValueError as error:
            raise DataError(
                f"{self._path}: a later row has columns that the first lack ({error}). Write JSONL instead."
            ) from error

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else value


class _ParquetWriter:
    def __init__(self, stream: IO[bytes], path: Path, columns: list[str], schema: pa.Schema | None) -> None:
        self._stream, self._path, self._columns, self._schema = stream, path, columns, schema
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: list[Row]) -> None:
        try:
            table = pa.Table.from_pylist(
                [{c: row.get(c) for c in self._columns} for row in rows], self._schema
            )
        except pa.ArrowException as error:
            raise DataError(f"{self._path}: a column changes type ({error}). Write JSONL instead.") from error
        if self._writer is None:
            self._schema = table.schema
            self._writer = pq.ParquetWriter(self._stream, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._stream, self._schema or pa.schema([]))
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
