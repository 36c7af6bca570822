"""Rows in memory, of whatever table a program has, in blocks as those of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from frostline.data.read import BLOCK_ROWS, Block, Row, in_blocks, without_surrogates
from frostline.errors import DataError


def rows_of(data: Any) -> Iterable[Row]:
    """Rows of a list of dicts, a `datasets.Dataset`, a pandas or polars DataFrame, or a pyarrow Table.

    Raises:
        DataError: none of these, or an item that is not a dict.
    """
    if hasattr(data, "to_pylist"):  # pyarrow.Table
        data = data.to_pylist()
    elif hasattr(data, "to_list") and hasattr(data, "features"):  # datasets.Dataset
        data = _named_classes(data)
    elif hasattr(data, "to_dicts"):  # polars.DataFrame
        data = data.to_dicts()
    elif hasattr(data, "to_dict") and hasattr(data, "iloc"):  # pandas.DataFrame
        data = data.astype(object).where(data.notna(), None).to_dict("records")
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | dict):
        raise DataError(
            f"data: {type(data).__name__} is no table. Accepted: a file name, a list of dicts, a "
            "datasets.Dataset, a pandas DataFrame, a pyarrow Table."
        )
    for number, row in enumerate(data, 1):
        if not isinstance(row, dict):
            raise DataError(f"row {number}: a dict is needed, {type(row).__name__} arrived.")
        yield without_surrogates({str(key): _plain(value) for key, value in row.items()})


def _named_classes(dataset: Any) -> Iterator[Any]:
    """Rows of a `datasets.Dataset`, class numbers turned into the names that its features give them."""
    names = {key: feature.names for key, feature in dataset.features.items() if hasattr(feature, "int2str")}
    for row in dataset.to_list():
        yield row | {
            key: known[row[key]] if row[key] is not None and row[key] >= 0 else None
            for key, known in names.items()
        }


def _plain(value: Any) -> Any:
    """A NumPy scalar or array as what it holds."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def blocks_of(data: Any, *, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
    """`iter_blocks` for rows in memory."""
    return in_blocks(enumerate(rows_of(data), 1), block_rows=block_rows)
