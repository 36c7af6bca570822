"""The columns a run needs, out of one or many sources, typed and with the place of every row.

Each column has a reader that turns a raw cell into a value or says what is wrong with it; this module adds
the file and the row. Knows nothing of splits or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from frostline.data.read import Block, iter_blocks
from frostline.data.rows import blocks_of
from frostline.data.spool import Spool, taken
from frostline.errors import DataError, did_you_mean, listing
from frostline.settings import Settings

IntN = np.ndarray[tuple[int], np.dtype[np.int64]]


class Source(Settings):
    """One file, or rows in memory, with its columns renamed to the run's names."""

    path: Path | None = None
    """File to read."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Column of this file -> name in this run, for files that call the same thing differently."""
    rows: Any = Field(default=None, exclude=True, repr=False)
    """Rows in memory instead of a file (Python only)."""

    @model_validator(mode="after")
    def _check_one(self) -> Source:
        if (self.path is None) == (self.rows is None):
            raise ValueError("a source needs a path")
        return self

    def blocks(self) -> Iterator[Block]:
        """Blocks of rows under the run's column names."""
        blocks = iter_blocks(self.path) if self.path else blocks_of(self.rows)
        for block in blocks:
            yield self._renamed(block) if self.rename else block

    def _renamed(self, block: Block) -> Block:
        targets = set(self.rename.values())
        rows = [
            {self.rename.get(k, k): v for k, v in row.items() if k in self.rename or k not in targets}
            for row in block.rows
        ]
        return Block(rows, block.lines)


@dataclass(frozen=True)
class Column:
    """A column to read.

    Attributes:
        name: its name in the rows.
        build_reader: makes the function from a raw cell to a value, None for a missing cell; the function
            raises ValueError for a cell that it refuses, and may remember what it saw in this source.
        type: Arrow type of the values.
        is_required: whether every row must have a value.
        may_be_absent: whether all sources may lack the column, which is then missing in every row.
        key: setting that names it, which a message says; empty: none.
    """

    name: str
    build_reader: Callable[[], Callable[[Any], Any]]
    type: pa.DataType
    is_required: bool = False
    may_be_absent: bool = False
    key: str = ""


@dataclass(frozen=True)
class Table:
    """Columns of N rows, and where each row came from."""

    columns: dict[str, pa.ChunkedArray]
    sources: tuple[str, ...]
    source_N: IntN
    line_N: IntN

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.line_N)

    def where(self, row: int) -> str:
        """Place of a row, as `file:line`, or `data.train:row` for rows in memory."""
        return f"{self.sources[int(self.source_N[row])]}:{self.line_N[row]}"

    def take(self, rows: IntN) -> Table:
        """The table of the given rows, in their order."""
        columns = {name: taken(column, rows) for name, column in self.columns.items()}
        return Table(columns, self.sources, self.source_N[rows], self.line_N[rows])


def read_table(sources: Sequence[Source], columns: Sequence[Column], *, split: str) -> Table:
    """Reads the columns from every source in order; a column that a source lacks is missing there.

    Args:
        sources: files or rows in memory.
        columns: of different names.
        split: what messages call rows in memory, after 'data.'.

    Raises:
        DataError: an indispensable column that no source has, a cell that its reader refuses, a required
            cell that is missing, or no rows at all. The message names file and row.
    """
    source_index: list[np.ndarray[Any, Any]] = []
    lines: list[np.ndarray[Any, Any]] = []
    seen: dict[str, None] = {}
    names = tuple(str(source.path) if source.path else f"data.{split}" for source in sources)
    with ExitStack() as stack:
        spools = {column.name: stack.enter_context(closing(Spool(column.type))) for column in columns}
        for index, source in enumerate(sources):
            readers = {column.name: column.build_reader() for column in columns}
            for block in source.blocks():
                seen.update(dict.fromkeys(name for row in block.rows for name in row))
                for column in columns:
                    spools[column.name].add(_read_cells(names[index], block, column, readers[column.name]))
                source_index.append(np.full(len(block.rows), index, dtype=np.int64))
                lines.append(np.asarray(block.lines, dtype=np.int64))
        if not lines:
            raise DataError(f"{listing(names)}: no rows.")
        _check_columns(names, columns, list(seen))
        data = {name: spool.column() for name, spool in spools.items()}
    table = Table(data, names, np.concatenate(source_index), np.concatenate(lines))
    _check_required(table, columns)
    return table


def _read_cells(source: str, block: Block, column: Column, read: Callable[[Any], Any]) -> pa.Array:
    values = []
    for row, line in zip(block.rows, block.lines, strict=True):
        try:
            values.append(read(row.get(column.name)))
        except ValueError as error:
            raise DataError(f"{source}:{line}: column '{column.name}': {error}.") from error
    return pa.array(values, type=column.type)


def _check_columns(names: Sequence[str], columns: Sequence[Column], seen: list[str]) -> None:
    for column in columns:
        if column.name not in seen and not column.may_be_absent:
            raise DataError(
                f"{listing(names)}: no column '{column.name}'{f' ({column.key})' if column.key else ''}. "
                f"Columns: {listing(seen)}." + did_you_mean(column.name, seen)
            )


def _check_required(table: Table, columns: Sequence[Column]) -> None:
    for column in columns:
        missing = table.columns[column.name].null_count if column.is_required else 0
        if missing:
            nulls = np.flatnonzero(table.columns[column.name].is_null().to_numpy())
            rows = listing((table.where(int(row)) for row in nulls), most=5)
            raise DataError(
                f"column '{column.name}' is null or empty in {missing} of {len(table)} rows: {rows}. "
                "Remove these rows, or fill them."
            )
