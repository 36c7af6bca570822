"""Rows of CSV and TSV from their lines, by the standard library's parser, which knows the line that it is in.

The first two lines tell the separator: spreadsheets of many countries write semicolons. Guesses no types.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from frostline.errors import DataError, listing

SEPARATORS = {"csv": ",", "tsv": "\t"}
_OTHER_SEPARATORS = (";", "\t", "|")
ALL_SEPARATORS = (*SEPARATORS.values(), *_OTHER_SEPARATORS)
_QUOTED = re.compile('"[^"]*"')
_LONGEST_CELL = 2**31 - 1


def separated_rows(path: Path, lines: Iterator[str], kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by column name, each with the line that it starts in.

    Args:
        path: of the file, for messages.
        lines: all of its lines.
        kind: "csv" or "tsv".

    Raises:
        DataError: a row that cannot be parsed; its line is named.
    """
    reader, separator = _reader(lines, kind)
    names = _header(path, reader)
    line = 1
    try:
        while True:
            line = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}:{line}: {len(cells)} cells, but the header names {len(names)} columns "
                    f"({listing(names)}) by {separator!r}. Quote cells that hold it or a line break."
                )
            yield line, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid {kind.upper()} ({error}).") from error


def read_header(path: Path, lines: Iterator[str], kind: str) -> list[str]:
    """Names of the columns; arguments and errors as `separated_rows`."""
    return _header(path, _reader(lines, kind)[0])


def find_separator(lines: Iterator[str], kind: str) -> str:
    """What divides the names, and the next line into as many cells; if nothing does, what is usual.

    Args:
        lines: of the file; the first two are read.
        kind: "csv" or "tsv".
    """
    return _separator(list(islice(lines, 2)), kind)


def _separator(opening: Sequence[str], kind: str) -> str:
    usual = SEPARATORS[kind]
    names, *others = (_QUOTED.sub("", line) for line in opening) if opening else [""]
    found = [mark for mark in dict.fromkeys((usual, *_OTHER_SEPARATORS)) if mark in names]
    row = others[0] if others else ""
    if not row.strip() or '"' in row:  # none, or one that goes on in the next line
        return next(iter(found), usual)
    agreeing = [mark for mark in found if row.count(mark) == names.count(mark)]
    dividing = [mark for mark in found if mark in row]
    return next(iter([*agreeing, *dividing]), usual)


def _reader(lines: Iterator[str], kind: str) -> tuple[Any, str]:
    csv.field_size_limit(_LONGEST_CELL)  # the module's own limit of 131,072 refuses long documents
    opening = list(islice(lines, 2))
    separator = _separator(opening, kind)
    return csv.reader(chain(opening, lines), delimiter=separator, strict=True), separator


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}:1: not a valid line of columns' names ({error}).") from error
    if not names:
        raise DataError(f"{path}: is empty; a first line with the columns' names is needed.")
    if names[0].startswith("sep="):
        raise DataError(f"{path}:1: 'sep=' speaks to a spreadsheet alone. Remove the line.")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DataError(f"{path}:1: two columns are called '{name}'. Rename one.")
    return names
