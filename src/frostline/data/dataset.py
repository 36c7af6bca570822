"""From the data settings to tables of training, validation and test, and the tasks they define."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field

from frostline.data.cells import read_group, read_text
from frostline.data.labels import (
    Task,
    TaskSettings,
    check_learnable,
    encode_labels,
    label_column,
    resolve_task,
)
from frostline.data.read import checked_format
from frostline.data.splits import hold_out, leaks, sample
from frostline.data.table import Column, Source, Table, read_table
from frostline.errors import ConfigError
from frostline.settings import Settings


def _as_sources(value: Any) -> Any:
    """A path, a source table, a list of these, or rows in memory -> list of sources."""
    if value is None or isinstance(value, Source):
        return value if value is None else (value,)
    if isinstance(value, str | Path):
        return ({"path": value},)
    if isinstance(value, dict):
        return (value,)
    if isinstance(value, list | tuple) and value and all(_names_source(item) for item in value):
        return tuple({"path": item} if isinstance(item, str | Path) else item for item in value)
    if not isinstance(value, Iterable) and not hasattr(value, "to_pylist"):
        raise ValueError(f"a file, a list of files, or rows are needed, {type(value).__name__} arrived")
    return ({"rows": list(value) if isinstance(value, Iterator) else value},)


def _names_source(item: Any) -> bool:
    return isinstance(item, str | Path | Source) or (
        isinstance(item, dict) and set(item) <= {"path", "rename"}
    )


Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_sources)]


class DataSettings(Settings):
    """Where texts and labels are."""

    train: Sources
    """A file, or a list; with other column names: { path = "a.csv", rename = { label = "topic" } }."""
    validation: Sources | None = None
    """Left out: held out of train, stratified, seeded, groups and repeated texts kept together."""
    test: Sources | None = None
    """Looked at once, after training."""
    text: str = "text"
    """Column of the texts."""
    group: str | None = None
    """Column whose equal values must not be on both sides of a split (a document, an author)."""
    validation_fraction: float = Field(default=0.1, gt=0, le=0.5)
    """Share to hold out when validation is left out."""
    max_train_samples: int | None = Field(default=None, ge=1)
    """Most training rows, drawn at random by the seed; left out: all. For a quick trial of a plan."""
    split_seed: int | None = Field(default=None, ge=0)
    """Decides what is held out and drawn; left out: `train.seed` does. For seeds compared on equal rows."""

    def check_files(self) -> None:
        """Raises DataError where a file of any split is not there, or of no known format."""
        for source in (*self.train, *(self.validation or ()), *(self.test or ())):
            if source.path:
                checked_format(source.path)


@dataclass(frozen=True)
class Tables:
    """The splits as tables, the tasks, and what the user should know about them."""

    splits: dict[str, Table]
    tasks: tuple[Task, ...]
    warnings: tuple[str, ...]


def text_columns(settings: DataSettings) -> list[Column]:
    """The columns of every split that are no labels."""
    columns = [Column(settings.text, lambda: read_text, pa.string(), is_required=True)]
    if settings.group:
        columns.append(Column(settings.group, lambda: read_group, pa.string()))
    return columns


def load_tables(
    settings: DataSettings,
    tasks: Mapping[str, TaskSettings],
    *,
    seed: int,
    given: Mapping[str, Task] | None = None,
) -> Tables:
    """Reads all splits and resolves the tasks from the training rows.

    Args:
        settings: where the data is.
        tasks: their columns.
        seed: of samples and hold-outs, where the settings have none.
        given: by task, what a head from elsewhere answers; its column may be absent.

    Raises:
        DataError: anything unusable in a file; the message names file and row, or column.
    """
    check_columns(settings, tasks)
    seed = seed if settings.split_seed is None else settings.split_seed
    given = given or {}
    columns = [
        replace(one, key=key)
        for one, key in zip(text_columns(settings), ("data.text", "data.group"), strict=False)
    ]
    for name, one in tasks.items():
        column, key = label_column(name, one), f"tasks.{name}.column"
        columns.append(replace(column, may_be_absent=name in given, key=key))
    whole = read_table(settings.train, columns, split="train")
    resolved = tuple(resolve_task(name, one, whole, given=given.get(name)) for name, one in tasks.items())
    if settings.max_train_samples is not None:
        whole = whole.take(sample(len(whole), most=settings.max_train_samples, seed=seed))
    splits = {"train": whole}
    held = [c if c.is_required else replace(c, may_be_absent=True) for c in columns]
    if settings.validation is not None:
        splits["validation"] = read_table(settings.validation, held, split="validation")
    if settings.test is not None:
        splits["test"] = read_table(settings.test, held, split="test")
    for table in splits.values():
        for task in resolved:
            encode_labels(task, table)  # refuse an unknown label before anything is computed
    warnings = leaks(splits, [c.name for c in text_columns(settings)])
    if settings.validation is None:
        splits = {
            **_hold_out(settings, resolved, whole, seed),
            **{k: v for k, v in splits.items() if k == "test"},
        }
    for task in resolved:
        if task.name not in given:
            check_learnable(task, splits["train"])
    return Tables(splits, resolved, tuple(warnings))


def check_columns(settings: DataSettings, tasks: Mapping[str, TaskSettings]) -> None:
    """Raises ConfigError where two things are read from one column."""
    owners = {settings.text: "data.text"}
    if settings.group == settings.text:
        raise ConfigError(
            "data.group: is the column of the texts; leave it out, repeated texts stay together."
        )
    if settings.group:
        owners[settings.group] = "data.group"
    for name, task in tasks.items():
        column = task.column or name
        if column in owners:
            raise ConfigError(
                f"tasks.{name}.column: '{column}' is read by {owners[column]} already. Name another column."
            )
        owners[column] = f"tasks.{name}"


def _hold_out(settings: DataSettings, tasks: tuple[Task, ...], table: Table, seed: int) -> dict[str, Table]:
    train, held = hold_out(
        table,
        fraction=settings.validation_fraction,
        seed=seed,
        labels={task.name: encode_labels(task, table) for task in tasks},
        text=settings.text,
        group=settings.group,
    )
    return {"train": table.take(train), "validation": table.take(held)}
