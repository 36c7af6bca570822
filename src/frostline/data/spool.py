"""A column gathered piece by piece: in memory while it is small, else in a temporary file that is mapped.

The pages of a mapped file are the system's to take back, so a long column of texts costs address space and
not memory, where the folder of temporary files (TMPDIR) lies on a disk. The file has no name and goes with
the process.
"""

from __future__ import annotations

import mmap
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO

import numpy as np
import pyarrow as pa

from frostline.errors import DataError

MOST_BYTES = 32 * 2**20
_PIECE_ROWS = 4096


class Spool:
    """Pieces of one column, in order; `column` ends it."""

    def __init__(self, kind: pa.DataType) -> None:
        self._schema = pa.schema([("column", kind)])
        self._pieces: list[pa.Array] = []
        self._size = 0
        self._most = MOST_BYTES
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchFileWriter | None = None

    def add(self, piece: pa.Array) -> None:
        """Appends values.

        Raises:
            DataError: there is no room for the temporary file.
        """
        self._pieces.append(piece)
        self._size += piece.nbytes
        if self._size > self._most:
            self._write()

    def _write(self) -> None:
        with _explained():
            if self._writer is None:
                try:
                    self._file = tempfile.TemporaryFile(prefix="frostline-")  # noqa: SIM115 (stays open)
                except FileNotFoundError:  # no folder for such files: memory it is
                    self._most = sys.maxsize
                    return
                self._writer = pa.ipc.new_file(self._file, self._schema)
            for piece in self._pieces:
                self._writer.write_batch(pa.record_batch([piece], schema=self._schema))
        self._pieces = []

    def column(self) -> pa.ChunkedArray:
        """All values.

        Raises:
            DataError: there is no room for the temporary file.
        """
        if self._writer is None or self._file is None:
            return pa.chunked_array(self._pieces, type=self._schema.field(0).type)
        with _explained():
            self._writer.close()
            self._file.flush()
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self.close()
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all().column(0)

    def close(self) -> None:
        """Lets the temporary file go; columns that were given stay."""
        if self._file is not None:
            self._file.close()


def taken(column: pa.ChunkedArray, row_M: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.ChunkedArray:
    """The given rows of a column, in their order."""
    with closing(Spool(column.type)) as spool:
        for piece in _taken_pieces(column, row_M):
            spool.add(piece)
        return spool.column()


def _taken_pieces(
    column: pa.ChunkedArray, row_M: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Iterator[pa.Array]:
    """Runs of rows of one chunk: ChunkedArray.take would copy the whole column first."""
    ends = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    for start in range(0, len(row_M), _PIECE_ROWS):
        rows = row_M[start : start + _PIECE_ROWS]
        chunks = np.searchsorted(ends, rows, side="right") - 1
        cuts = np.flatnonzero(np.diff(chunks)) + 1
        for part, chunk in zip(np.split(rows, cuts), chunks[np.r_[0, cuts]], strict=True):
            yield column.chunk(int(chunk)).take(pa.array(part - ends[chunk]))


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"temporary file: {error.strerror or error}. Long columns are kept in one; free some space, or "
            "set TMPDIR to a folder on a larger disk."
        ) from error
