"""Tasks and their label spaces: what a cell means, and which number stands for it.

A missing label is −100 (classification) or NaN (multilabel, regression); it adds no loss and no score.
Knows nothing of files: callers give cells and places.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from frostline.data.cells import NameReader, read_names, read_number
from frostline.data.table import Column, Table
from frostline.errors import ConfigError, DataError, counted, did_you_mean, listing
from frostline.settings import Settings

Kind = Literal["classification", "multilabel", "regression"]
LabelsN = np.ndarray[Any, np.dtype[Any]]

MISSING_CLASS = -100
TASK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class TaskSettings(Settings):
    """One label column."""

    column: str | None = None
    """Column of the labels; left out: the task's name."""
    kind: Kind = "classification"
    """classification: one label a text; multilabel: any number; regression: a number."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    """The label names in order; left out: those of the training rows, sorted."""
    separator: str | None = Field(default=None, min_length=1)
    """Multilabel: what separates the names in a cell of text."""
    decimal: Literal[".", ","] = "."
    """Regression: what stands before the decimals of a number in a cell of text."""
    weight: float = Field(default=1.0, gt=0)
    """Factor of this task's loss in the sum."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """'balanced': a class weighs by the inverse of its frequency; or a weight for each label."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    head_from: str | None = None
    """Take the head, its labels and pooling from a …ForSequenceClassification model or an earlier bundle: a
    folder, a hub name or a domain."""
    frozen: bool = False
    """The head learns in no phase; it comes from elsewhere."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.labels and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: a name stands twice")
        if self.kind == "regression" and (self.labels or self.class_weights or self.label_smoothing):
            raise ValueError("a regression has no labels, class_weights or label_smoothing")
        if self.kind == "multilabel" and self.label_smoothing:
            raise ValueError("label_smoothing is for kind 'classification'")
        if self.separator and self.kind != "multilabel":
            raise ValueError("separator is for kind 'multilabel'")
        if self.decimal != "." and self.kind != "regression":
            raise ValueError("decimal is for kind 'regression'")
        if self.frozen and not self.head_from:
            raise ValueError("frozen: a head that never learns has to come from somewhere; say head_from")
        if isinstance(self.class_weights, dict) and any(w <= 0 for w in self.class_weights.values()):
            raise ValueError("class_weights: a weight must be above 0")
        return self


class Task(Settings):
    """A task whose label space is known; what `head.json` holds of it.

    Attributes:
        labels: names of the outputs; empty for a regression.
        class_weights: one factor a label, or None.
        target_mean: regression: mean of the training targets; heads learn standardised targets.
        target_std: regression: their standard deviation, above 0.
        temperature: classification: logits are divided by it before they become probabilities.
        thresholds: multilabel: probability from which each label is given; None: 0.5.
    """

    name: str
    column: str
    kind: Kind
    labels: tuple[str, ...] = ()
    separator: str | None = None
    decimal: Literal[".", ","] = "."
    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    target_mean: float = 0.0
    target_std: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    thresholds: tuple[float, ...] | None = None

    @property
    def num_outputs(self) -> int:
        """Width of the head: C, or 1 for a regression."""
        return len(self.labels) or 1

    def uncalibrated(self) -> Task:
        """The task as its logits say, without temperature and thresholds."""
        return self.model_copy(update={"temperature": 1.0, "thresholds": None})

    @property
    def main_score(self) -> str:
        """Name of the score by which this task is judged."""
        return "pearson" if self.kind == "regression" else "macro_f1"


def check_task_names(names: Mapping[str, Any]) -> None:
    """Raises ConfigError for a task name that cannot name a folder, or when there is no task."""
    if not names:
        raise ConfigError('tasks: none. Add one, such as [tasks.sentiment] with column = "sentiment".')
    for name in names:
        if not TASK_NAME.fullmatch(name):
            raise ConfigError(
                f"tasks.{name}: a task's name is a letter followed by letters, digits, - or _ (64 at most)."
            )


def label_column(name: str, settings: TaskSettings | Task) -> Column:
    """How the label column of a task is read."""
    column = settings.column or name
    if settings.kind == "regression":
        return Column(column, lambda: partial(read_number, decimal=settings.decimal), pa.float64())
    if settings.kind == "multilabel":
        return Column(
            column, lambda: lambda cell: read_names(cell, settings.separator), pa.list_(pa.string())
        )
    return Column(column, NameReader, pa.string())


def resolve_task(name: str, settings: TaskSettings, table: Table, *, given: Task | None = None) -> Task:
    """The task with its label space and statistics, from the training rows or from a head from elsewhere.

    Args:
        name: of the task.
        settings: of the task; with `given`, of its kind and labels.
        table: the training rows.
        given: what the outputs of a head from elsewhere mean.

    Raises:
        DataError: no row is labelled, there is one class only, or a column that looks like no label.
    """
    column = settings.column or name
    cells = table.columns[column].drop_null()
    kind = given.kind if given else settings.kind
    counts = _counts(kind, cells)
    own = {key: getattr(settings, key) for key in ("separator", "decimal", "weight", "label_smoothing")}
    if given:
        weights = _class_weights(name, settings, given.labels, counts, len(cells))
        return given.model_copy(update={"name": name, "column": column, "class_weights": weights, **own})
    if not len(cells):
        raise DataError(f"tasks.{name}: column '{column}' has no label in any of {len(table)} training rows.")
    task = Task(name=name, column=column, kind=settings.kind, **own)
    if settings.kind == "regression":
        return task.model_copy(update=_target_statistics(name, cells.to_numpy()))
    labels = settings.labels or tuple(sorted(counts, key=_natural))
    _check_labels(name, column, settings, counts, len(cells))
    weights = _class_weights(name, settings, labels, counts, len(cells))
    return task.model_copy(update={"labels": labels, "class_weights": weights})


def _counts(kind: Kind, cells: pa.ChunkedArray) -> Counter[str]:
    """How often each label is given, in the order in which they appear."""
    if kind == "regression":
        return Counter()
    found = _names(kind, cells)[0].value_counts()
    return Counter(dict(zip(*(found.field(name).to_pylist() for name in ("values", "counts")), strict=True)))


def _natural(label: str) -> tuple[int, float, str]:
    """Sorts numbers by value, before words."""
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def _target_statistics(name: str, targets: LabelsN) -> dict[str, float]:
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(targets.std())
    if not np.isfinite(deviation):
        largest = np.abs(targets).max()
        raise DataError(f"tasks.{name}: the training targets are too large, such as {largest:g}. Scale them.")
    if deviation == 0:
        raise DataError(f"tasks.{name}: every training target is {targets[0]}; there is nothing to learn.")
    return {"target_mean": float(targets.mean()), "target_std": deviation}


def _check_labels(name: str, column: str, settings: TaskSettings, counts: Counter[str], rows: int) -> None:
    if len(counts) < 2:
        raise DataError(
            f"tasks.{name}: column '{column}' has {counted(len(counts), 'label')} ({listing(counts)}) in "
            f"{counted(rows, 'labelled row')}; at least 2 labels are needed."
        )
    if settings.labels is None and len(counts) > max(50, rows // 2):
        raise DataError(
            f"tasks.{name}: column '{column}' has {len(counts)} different labels in {rows} rows, such as "
            f'{listing(counts, most=3)}. For numbers set kind = "regression"; if these are labels, list '
            "them under labels; if they name rows, leave the task out."
        )


def _class_weights(
    name: str, settings: TaskSettings, labels: tuple[str, ...], counts: Counter[str], rows: int
) -> tuple[float, ...] | None:
    given = settings.class_weights
    if given is None:
        return None
    if given == "balanced":
        if settings.kind == "multilabel":  # weight of a positive: as much in all as the negatives
            return tuple((rows - counts[x]) / counts[x] if counts[x] else 1.0 for x in labels)
        return tuple(rows / (len(labels) * counts[x]) if counts[x] else 1.0 for x in labels)
    for label in given:
        if label not in labels:
            raise ConfigError(
                f"tasks.{name}.class_weights: '{label}' is not a label ({listing(labels)})."
                + did_you_mean(label, labels)
            )
    return tuple(given.get(label, 1.0) for label in labels)


def encode_labels(task: Task, table: Table) -> LabelsN:
    """The task's labels as numbers.

    Returns:
        int64 (N,) for a classification, −100 where missing; float32 (N, C) of 0 and 1 for a multilabel
        task and float64 (N,) for a regression, NaN where missing.

    Raises:
        DataError: a label outside the task's label space; the message names file and row.
    """
    column = table.columns[task.column]
    if task.kind == "regression":
        return np.asarray(column.to_numpy(), dtype=np.float64)
    names, row_F = _names(task.kind, column)
    known = pc.SetLookupOptions(value_set=pa.array(task.labels, pa.string()))
    number_F = pc.call_function("index_in", [names], known)
    is_known_F, is_given_F = (one.is_valid().to_numpy(zero_copy_only=False) for one in (number_F, names))
    unknown = np.flatnonzero(is_given_F & ~is_known_F)
    if len(unknown):
        found = Counter(names.take(pa.array(unknown)).to_pylist())
        raise _unknown_labels(task, found, table.where(int(row_F[unknown[0]])))
    if task.kind == "classification":
        return np.asarray(number_F.fill_null(MISSING_CLASS).to_numpy(), dtype=np.int64)
    matrix = np.zeros((len(column), len(task.labels)), dtype=np.float32)
    matrix[column.is_null().to_numpy()] = np.nan
    matrix[row_F, number_F.to_numpy()] = 1
    return matrix


def _names(kind: Kind, column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray[Any, np.dtype[Any]]]:
    """F names of labels of a column, one after the other, and the row of each."""
    whole = column.combine_chunks()
    if kind == "classification":
        return whole, np.arange(len(whole))
    return whole.flatten(), whole.value_parent_indices().to_numpy()


def check_learnable(task: Task, table: Table) -> None:
    """Raises DataError when a sample or a hold-out left a task too few labels to learn from."""
    labels = encode_labels(task, table)
    present = np.unique(labels[is_labelled(labels)])
    fewest = 2 if task.kind == "classification" else 1
    if len(present) < fewest:
        raise DataError(
            f"tasks.{task.name}: of the labels in column '{task.column}' {len(present)} occur in the "
            f"{len(table)} training rows that are left; at least {fewest} must. Raise "
            "data.max_train_samples, give data.validation a file, or label more rows."
        )


def is_labelled(labels: LabelsN) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows have a label, as (N,) booleans."""
    if labels.dtype.kind == "i":
        return np.asarray(labels != MISSING_CLASS)
    missing = np.isnan(labels)
    return np.asarray(~(missing.any(axis=1) if labels.ndim == 2 else missing))


def _unknown_labels(task: Task, found: Counter[str], where: str) -> DataError:
    """Of labels that came, with how often each did; the first one where it says."""
    label, *others = found
    more = listing((f"'{name}' ({found[name]})" for name in others), most=30)
    return DataError(
        f"{where}: label '{label}' is not a label of task '{task.name}' ({listing(task.labels)})."
        + did_you_mean(label, task.labels)
        + (f" Nor are {more}." if others else "")
        + f" Empty such cells, or list every label before training, under tasks.{task.name}.labels."
    )
