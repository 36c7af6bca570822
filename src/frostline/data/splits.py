"""Hold-out split and the check that splits share no text and no group.

A split is stratified, seeded, and keeps groups together; without a group column, rows of the same text are
a group, so that no text is on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from frostline.data.labels import MISSING_CLASS, LabelsN, is_labelled
from frostline.data.table import IntN, Table
from frostline.errors import DataError

_MOST_STRATA = 100
_REGRESSION_BINS = 5


def hold_out(
    table: Table, *, fraction: float, seed: int, labels: Mapping[str, LabelsN], text: str, group: str | None
) -> tuple[IntN, IntN]:
    """Rows of training and of validation, each sorted.

    Groups are drawn, stratified by what most of their rows are labelled; one that alone is larger than the
    share to hold out stays in training.

    Args:
        table: all rows.
        fraction: share of the rows to hold out; met approximately where groups are large.
        seed: of the draw.
        labels: encoded labels of each task; their combinations are kept in proportion.
        text: column of the texts, whose repeats stay together when `group` is None.
        group: column whose equal values stay on one side.

    Raises:
        DataError: too few rows or groups to hold any out.
    """
    group_N = _group_ids(table, group or text)
    sizes = np.bincount(group_N)
    small = np.flatnonzero(sizes <= max(1, fraction * len(table)))
    if not len(small) or len(sizes) < max(2, round(1 / fraction)):
        raise DataError(
            f"data.validation_fraction: {len(sizes)} different {'groups' if group else 'texts'} are too few "
            f"to hold {fraction:.0%} out. Give data.validation a file, or more rows."
        )
    num_held = min(len(small), round(len(small) * fraction * len(table) / int(sizes[small].sum())))
    held = _draw(small, _majority(_strata(labels, len(table)), group_N)[small], max(1, num_held), seed)
    is_held_N = np.isin(group_N, held)
    return np.flatnonzero(~is_held_N), np.flatnonzero(is_held_N)


def _draw(groups: IntN, stratum: IntN, number: int, seed: int) -> IntN:
    """`number` of the groups, stratified where the strata are large enough."""
    if number >= len(groups):
        return groups
    from sklearn.model_selection import StratifiedShuffleSplit  # a second, which a config does not need

    strata = _without_rare(stratum, fewest=2, most=min(number, len(groups) - number))
    parts = StratifiedShuffleSplit(n_splits=1, test_size=number, random_state=seed)
    return np.asarray(groups[next(parts.split(groups, strata))[1]])


def _majority(stratum_N: IntN, group_N: IntN) -> IntN:
    """The most frequent stratum of every group's rows."""
    pairs, counts = np.unique(np.stack([group_N, stratum_N]), axis=1, return_counts=True)
    order = np.lexsort((-counts, pairs[0]))
    _, first = np.unique(pairs[0][order], return_index=True)
    return np.asarray(pairs[1][order][first])


def sample(num_rows: int, *, most: int, seed: int) -> IntN:
    """At most `most` of the rows 0 … `num_rows` − 1, drawn at random, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(num_rows)[:most])


def _group_ids(table: Table, column: str) -> IntN:
    """A number for each row, equal where the column is equal; a missing group is a group of its own."""
    missing = _is_missing(table, column)
    _, first, ids = np.unique(_digests(table.columns[column]), return_index=True, return_inverse=True)
    ids = np.argsort(np.argsort(first))[ids]  # numbered in the order of their first rows
    ids[missing] = len(first) + np.arange(int(missing.sum()))
    return np.unique(ids, return_inverse=True)[1]


def _digests(names: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """64 bits of each value, equal for equal ones: less memory than the values themselves."""
    values = (value or "" for chunk in names.chunks for value in chunk.to_pylist())
    found = (hashlib.blake2b(value.encode(), digest_size=8).digest() for value in values)
    return np.frombuffer(b"".join(found), dtype=np.uint64)


def _is_missing(table: Table, column: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(table.columns[column].is_null().to_numpy())


def _strata(labels: Mapping[str, LabelsN], num_rows: int) -> IntN:
    """A number for each combination of labels, regressions in bins; a task with too many is left out."""
    strata = np.zeros(num_rows, dtype=np.int64)
    for values in labels.values():
        codes = _codes(values)
        if strata.any() and (int(strata.max()) + 1) * (int(codes.max()) + 1) > _MOST_STRATA:
            continue
        strata = strata * (int(codes.max()) + 1) + codes
    return strata


def _codes(labels: LabelsN) -> IntN:
    if labels.dtype.kind == "i":
        return np.where(labels == MISSING_CLASS, -1, labels).astype(np.int64) + 1
    known = is_labelled(labels)
    if labels.ndim == 2:
        return np.where(known, 1 + np.argmax(np.nan_to_num(labels), axis=1), 0).astype(np.int64)
    edges = np.quantile(labels[known], np.linspace(0, 1, _REGRESSION_BINS + 1)[1:-1]) if known.any() else []
    return np.where(known, 1 + np.digitize(np.nan_to_num(labels), edges), 0).astype(np.int64)


def _without_rare(strata: IntN, *, fewest: int, most: int) -> IntN:
    """Strata with fewer than `fewest` rows, and all but the `most` largest, joined into the largest one."""
    _, index, counts = np.unique(strata, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    return np.where((counts[index] < fewest) | (rank[index] >= most), int(np.argmax(counts)), index)


def leaks(tables: Mapping[str, Table], columns: Sequence[str]) -> list[str]:
    """One sentence for each pair of splits that share a text or a group; empty when none do."""
    sentences: list[str] = []
    values = {
        (name, column): (_digests(table.columns[column]), ~_is_missing(table, column))
        for name, table in tables.items()
        for column in columns
    }
    for first, second in combinations(tables, 2):
        for column in columns:
            (known, is_known), (ours, is_ours) = values[first, column], values[second, column]
            rows = np.flatnonzero(np.isin(ours, known[is_known]) & is_ours)
            if len(rows):
                sentences.append(_leak(tables, first, second, column, list(rows)))
    return sentences


def _leak(tables: Mapping[str, Any], first: str, second: str, column: str, rows: list[int]) -> str:
    return (
        f"{len(rows)} of {len(tables[second])} {second} rows have a '{column}' that {first} has too (first: "
        f"{tables[second].where(rows[0])}): the {second} scores are too good by what was memorised."
    )
