"""Rows of CSV, TSV, JSONL and Parquet files, each also gzipped, in blocks, with the place each came from.

The standard library parses the text formats, because its parsers know the line they are in and guess no
types; pyarrow parses Parquet. Knows nothing of tasks: what a cell means is the caller's.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from frostline.data.separated import SEPARATORS, find_separator, read_header, separated_rows
from frostline.errors import DataError

Row = dict[str, Any]

BLOCK_ROWS = 4096
_BLOCK_LENGTH = 16 * 2**20  # characters
FORMATS = ("csv", "tsv", "jsonl", "parquet")
_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x19]")
_BEGINNINGS = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive",
    b"\x1f\x8b": "a gzip file, whose name should end in .gz",
    b"PAR1": "a Parquet file, whose name should end in .parquet",
}


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one source.

    Attributes:
        rows: column name to value; text formats give what the file holds, CSV and TSV only strings.
        lines: for each row, the line it starts in (text formats) or its number (Parquet), from 1.
        schema: the columns' types, where the format has them.
    """

    rows: list[Row]
    lines: list[int]
    schema: pa.Schema | None = None


def format_of(path: Path) -> tuple[str, bool]:
    """Format of a file by its name, and whether it is gzipped.

    Raises:
        DataError: the ending is none of the known ones.
    """
    suffixes = [s.lower() for s in path.suffixes]
    is_gzipped = bool(suffixes) and suffixes[-1] == ".gz"
    if is_gzipped:
        suffixes = suffixes[:-1]
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise DataError(
            f"{path}: cannot tell the format from the name. Accepted endings: {', '.join(_SUFFIXES)}, "
            "each with or without .gz."
        )
    return _SUFFIXES[suffixes[-1]], is_gzipped


def checked_format(path: Path) -> tuple[str, bool]:
    """Format of a file that is there, and whether it is gzipped.

    Raises:
        DataError: no such file, or unknown format.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder. Give a file in it.")
    found = format_of(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file." if not path.exists() else f"{path}: is not a file.")
    return found


def iter_blocks(path: Path, *, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
    """Yields the rows of a file in order, `block_rows` at a time, fewer where they are long; memory does not
    grow with the file.

    Raises:
        DataError: no such file, unknown format, or a row that cannot be parsed (its line is named).
    """
    kind, is_gzipped = checked_format(path)
    with _opened(path, is_gzipped=is_gzipped) as stream:
        if kind == "parquet":
            yield from _parquet_blocks(path, stream, block_rows)
        else:
            lines = _decoded(path, stream)
            numbered = _jsonl_rows(path, lines) if kind == "jsonl" else separated_rows(path, lines, kind)
            yield from in_blocks(numbered, block_rows=block_rows)


def column_names(path: Path) -> list[str]:
    """Names of a file's columns, in order of appearance; JSONL is read through, for any row may bring one."""
    kind, is_gzipped = format_of(path)
    if kind in {"csv", "tsv"}:
        with _opened(path, is_gzipped=is_gzipped) as stream:
            return read_header(path, _decoded(path, stream), kind)
    names: dict[str, None] = {}
    for block in iter_blocks(path):
        if block.schema is not None:
            return list(block.schema.names)
        names.update(dict.fromkeys(name for row in block.rows for name in row))
    return list(names)


def separator_of(path: Path) -> str:
    """What divides the cells of a CSV file; of a file in another format, a comma."""
    kind, is_gzipped = format_of(path)
    if kind != "csv":
        return SEPARATORS["csv"]
    with _opened(path, is_gzipped=is_gzipped) as stream:
        return find_separator(_decoded(path, stream), kind)


def schema_of(path: Path) -> pa.Schema:
    """Names and types of a file's columns: text in CSV and TSV; for JSONL, inferred from all rows.

    Raises:
        DataError: a column of a JSONL file changes type.
    """
    if format_of(path)[0] in {"csv", "tsv"}:
        return pa.schema([(name, pa.string()) for name in column_names(path)])
    schema = pa.schema([])
    for block in iter_blocks(path):
        if block.schema is not None:
            return block.schema
        names = dict.fromkeys(name for row in block.rows for name in row)
        try:
            arrays = [pa.array([row.get(name) for row in block.rows]) for name in names]
            found = pa.schema([(name, array.type) for name, array in zip(names, arrays, strict=True)])
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"{path}: a column changes type in lines {block.lines[0]} to {block.lines[-1]} ({error}), "
                "which Parquet cannot hold. Write JSONL instead."
            ) from error
    return schema


@contextmanager
def _opened(path: Path, *, is_gzipped: bool) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as raw:
            if is_gzipped:
                with gzip.open(raw, "rb") as stream:
                    yield stream  # type: ignore[misc]
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is not a whole gzip file ({error}).") from error
    except PermissionError as error:
        raise DataError(f"{path}: may not be read ({error.strerror}).") from error


def in_blocks(numbered: Iterable[tuple[int, Row]], *, block_rows: int) -> Iterator[Block]:
    """Cuts rows, each with its line, into blocks of `block_rows`, or fewer where they are long."""
    rows: list[Row] = []
    lines: list[int] = []
    length = 0
    for line, row in numbered:
        rows.append(row)
        lines.append(line)
        length += _length(row)
        if len(rows) == block_rows or length > _BLOCK_LENGTH:
            yield Block(rows, lines)
            rows, lines, length = [], [], 0
    if rows:
        yield Block(rows, lines)


def _length(value: Any) -> int:
    """Characters of all texts in a row."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | dict):
        return sum(_length(item) for item in (value.values() if isinstance(value, dict) else value))
    return 0


def _decoded(path: Path, stream: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: byte {line[error.start]:#04x} is not UTF-8 (at byte {error.start + 1} of "
                f"the line). {_way_to_utf8(line)}"
            ) from error


def _way_to_utf8(line: bytes) -> str:
    """What else the file of a line is likely to be, and what to do then."""
    for beginning, name in _BEGINNINGS.items():
        if line.startswith(beginning):
            return f"The file begins as {name}. Give a file of one of the formats {', '.join(_SUFFIXES)}."
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "It begins as UTF-16 does: convert it, iconv -f UTF-16 -t UTF-8."
    if _NO_TEXT.search(line):
        return "Bytes beside it belong to no text. Is it another kind of file?"
    return "Save the file as UTF-8; if it is in WINDOWS-1252, iconv -f WINDOWS-1252 -t UTF-8 converts it."


def _jsonl_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: not a JSON object ({error}). Each line must hold one object, such as "
                '{"text": "…", "label": "…"}.'
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a JSON object is needed, {type(row).__name__} arrived.")
        # Only an escape can bring a lone surrogate into a text that was decoded as UTF-8.
        yield number, without_surrogates(row) if "\\u" in line else row


def without_surrogates(value: Any) -> Any:
    """The value with every lone surrogate replaced by U+FFFD: tokenizers and UTF-8 refuse them."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value


def _parquet_blocks(path: Path, stream: IO[bytes], block_rows: int) -> Iterator[Block]:
    source: Any = stream if stream.seekable() and isinstance(stream, io.BufferedReader) else None
    try:
        parquet = pq.ParquetFile(source or pa.BufferReader(stream.read()))
        number = 1
        for batch in _parquet_batches(parquet, block_rows):
            rows = batch.to_pylist()
            yield Block(rows, list(range(number, number + len(rows))), parquet.schema_arrow)
            number += len(rows)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: no UTF-8, or nanoseconds
        reason = str(error).partition(". Install")[0]
        raise DataError(f"{path}: not a readable Parquet file ({reason}).") from error


def _parquet_batches(parquet: pq.ParquetFile, block_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of `block_rows`, or fewer of long ones: by the mean of their group, then by their own size."""
    for index in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(index)
        mean = group.total_byte_size // max(1, group.num_rows)
        size = max(1, min(block_rows, _BLOCK_LENGTH // max(1, mean)))
        for batch in parquet.iter_batches(batch_size=size, row_groups=[index]):
            part = max(1, len(batch) // (1 + batch.nbytes // _BLOCK_LENGTH))
            yield from (batch.slice(start, part) for start in range(0, len(batch), part))
