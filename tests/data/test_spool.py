"""Columns in memory and in a temporary file: the same values, whatever their size."""

import numpy as np
import pyarrow as pa
import pytest

from frostline.data import spool
from frostline.data.spool import Spool, taken
from frostline.errors import DataError

VALUES = ["a", None, "große Sätze", "", "𝄞", *map(str, range(50))]


def gathered(kind=None, pieces=7):
    made = Spool(kind or pa.string())
    for part in np.array_split(np.arange(len(VALUES)), pieces):
        made.add(pa.array([VALUES[i] for i in part], type=kind or pa.string()))
    return made.column()


@pytest.fixture(params=[0, 100, 2**20], ids=["file", "late file", "memory"])
def column(request, monkeypatch):
    monkeypatch.setattr(spool, "MOST_BYTES", request.param)
    return gathered()


def test_values_come_back_in_order(column):
    assert column.to_pylist() == VALUES


def test_a_large_column_lies_in_no_memory_of_its_own(monkeypatch):
    monkeypatch.setattr(spool, "MOST_BYTES", 0)
    before = pa.total_allocated_bytes()
    made = Spool(pa.string())
    for _ in range(100):
        made.add(pa.array(["x" * 10_000] * 10))
    column = made.column()
    assert pa.total_allocated_bytes() - before < 100_000 and column.nbytes > 9_000_000


@pytest.mark.parametrize("rows", [[], [3], [0, 1, 2, 8, 9, 54], [54, 0, 0, 30, 31], list(range(55))])
def test_rows_are_taken_in_their_order(column, rows):
    assert taken(column, np.asarray(rows, dtype=np.int64)).to_pylist() == [VALUES[i] for i in rows]


def test_lists_and_columns_without_a_value(monkeypatch):
    monkeypatch.setattr(spool, "MOST_BYTES", 0)
    kind, made = pa.list_(pa.string()), Spool(pa.list_(pa.string()))
    for piece in ([["a", "b"], None], [[]]):
        made.add(pa.array(piece, type=kind))
    assert made.column().to_pylist() == [["a", "b"], None, []]
    assert Spool(pa.string()).column().to_pylist() == []


def test_without_a_folder_for_temporary_files_memory_is_taken(monkeypatch):
    monkeypatch.setattr(spool, "MOST_BYTES", 0)
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", missing)
    assert gathered().to_pylist() == VALUES


def missing(**_):
    raise FileNotFoundError(2, "No usable temporary directory found")


def test_a_full_disk_is_told_as_such(monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "MOST_BYTES", 0)
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", full)
    with pytest.raises(DataError, match="No space left on device.*TMPDIR"):
        gathered()
