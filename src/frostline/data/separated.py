"""Rows of CSV and TSV from their lines, by the standard library's parser, which knows the line that it is in.

The first lines tell the separator: spreadsheets of many countries write semicolons. Guesses no types.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from frostline.errors import DataError, counted, listing

SEPARATORS = {"csv": ",", "tsv": "\t"}
_OTHER_SEPARATORS = (";", "\t", "|")
ALL_SEPARATORS = (SEPARATORS["csv"], *_OTHER_SEPARATORS)
_OPENING = r'(?<![^,;\t|\r\n])"'  # elsewhere in a cell a quote is a sign like others
_QUOTED, _UNENDED = re.compile(_OPENING + '(?:[^"]|"")*"'), re.compile(_OPENING)
_TELLING_LINES = 50
_NEVER = "\x1f"  # of files of one column, whose commas need no quotes
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
                found, named = counted(len(cells), "cell"), counted(len(names), "column")
                advice = (
                    "Quote cells that hold it or a line break."
                    if len(cells) > len(names)
                    else "A cell without a value is left empty, not out; one with a line break is quoted."
                )
                raise DataError(
                    f"{path}:{line}: {found}, but the header names {named} ({listing(names)}) by "
                    f"{separator!r}. {advice}"
                )
            yield line, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        reason = "a line ends in CR alone" if "new-line" in str(error) else error
        raise DataError(f"{path}:{line}: not valid {kind.upper()} ({reason}).") from error


def read_header(path: Path, lines: Iterator[str], kind: str) -> list[str]:
    """Names of the columns; arguments and errors as `separated_rows`."""
    return _header(path, _reader(lines, kind)[0])


def find_separator(lines: Iterator[str], kind: str) -> str:
    """What divides the cells, as the first lines tell it; what is usual where they are not divided.

    Args:
        lines: of the file; the first few are read.
        kind: "csv" or "tsv".
    """
    return _separator(list(islice(lines, _TELLING_LINES)), kind) or SEPARATORS[kind]


def _separator(opening: Sequence[str], kind: str) -> str | None:
    """Of the marks between the names the one that divides the most rows into as many cells; None where none
    divides anything, as in a file of one column.
    """
    usual = SEPARATORS[kind]
    whole, *unended = _UNENDED.split(_QUOTED.sub("", "".join(opening)), maxsplit=1)
    names, *rows = whole.splitlines() or [""]
    rows = [row for row in (rows[:-1] if unended else rows) if row.strip()]
    found = [mark for mark in dict.fromkeys((usual, *_OTHER_SEPARATORS)) if mark in names]
    if not rows:
        return next(iter(found), None)
    found = [mark for mark in found if any(mark in row for row in rows)]
    agreeing = {mark: sum(row.count(mark) == names.count(mark) for row in rows) for mark in found}
    return max(found, key=lambda mark: agreeing[mark], default=None)


def _reader(lines: Iterator[str], kind: str) -> tuple[Any, str]:
    csv.field_size_limit(_LONGEST_CELL)  # the module's own limit of 131,072 refuses long documents
    opening = list(islice(lines, _TELLING_LINES))
    separator = _separator(opening, kind) or _NEVER
    return csv.reader(chain(opening, lines), delimiter=separator, strict=True), separator


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = next(reader, None)
    except csv.Error as error:
        reason = "it ends in CR alone" if "new-line" in str(error) else error
        raise DataError(f"{path}:1: not a valid line of columns' names ({reason}).") from error
    if not names:
        raise DataError(f"{path}: is empty; a first line with the columns' names is needed.")
    if names[0].startswith("sep="):
        raise DataError(f"{path}:1: 'sep=' speaks to a spreadsheet alone. Remove the line.")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DataError(f"{path}:1: two columns are called '{name}'. Rename one.")
    return names
