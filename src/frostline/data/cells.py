"""What a cell means: a text, a group, a label's name, several names, a number, or nothing.

Each reader gives None for a missing cell and raises ValueError, without a place, for one that it refuses;
callers know file and row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([.,]\d{3})+")
_SWAPPED = str.maketrans(".,", ",.")


def read_text(cell: Any) -> str | None:
    """A text, or None for a missing or blank cell. Raises ValueError for anything but text."""
    if is_missing(cell):
        return None
    if not isinstance(cell, str):
        raise ValueError(f"a text is needed, {type(cell).__name__} arrived ({cell!r:.40})")
    return cell


def read_group(cell: Any) -> str | None:
    """A group's name; numbers are taken by their decimal form."""
    return None if is_missing(cell) else str(cell)


def is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: null, NaN or a blank string."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def json_list(cell: str) -> list[Any] | None:
    """The list that a text spells in JSON, as tables without types hold it; None for any other text."""
    if not cell.lstrip().startswith("["):
        return None
    try:
        found = json.loads(cell)
    except ValueError:
        return None
    return found if isinstance(found, list) else None


class NameReader:
    """Reads one label's name; refuses a column that changes between text and numbers."""

    def __init__(self) -> None:
        self.family = ""

    def __call__(self, cell: Any) -> str | None:
        """The name, or None for a missing cell."""
        if is_missing(cell):
            return None
        family = {str: "text", bool: "true/false", int: "numbers", float: "numbers"}.get(type(cell), "")
        if not family:
            raise ValueError(
                f"a label is needed, {type(cell).__name__} arrived ({cell!r:.40}); for several labels a "
                'text set kind = "multilabel"'
            )
        if self.family and family != self.family:
            raise ValueError(f"changes type: {self.family} before, {family} here ({cell!r:.40})")
        self.family = family
        return label_name(cell)


def label_name(cell: str | float | bool) -> str:
    """The name of a label: text as it is, whole numbers without a point, true and false in small letters."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return str(int(cell)) if isinstance(cell, int) or cell.is_integer() else str(cell)


def read_number(cell: Any, *, decimal: str = ".") -> float | None:
    """A finite number, also one written as text with a point or comma before its decimals."""
    if is_missing(cell):
        return None
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        raise ValueError(f"a number is needed, {type(cell).__name__} arrived ({cell!r:.40})")
    try:
        number = float(_with_point(cell) if decimal == "," and isinstance(cell, str) else cell)
    except (ValueError, OverflowError):
        hint = _decimal_hint(cell, decimal)
        raise ValueError(f"'{cell!s:.40}' is not a number{hint}") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise ValueError("a finite number is needed, infinity arrived")
    return number


def _decimal_hint(cell: Any, decimal: str) -> str:
    """What to do where the other mark would make a number of it, or marks may divide thousands."""
    if is_grouped(str(cell)):
        return "; leave out what divides thousands, or set decimal to what stands before decimals"
    swapped = str(cell).translate(_SWAPPED)
    try:
        float(_with_point(swapped) if decimal == "," else swapped)
    except ValueError:
        return ""
    return f" with decimal = '{decimal}', but would be with '{decimal.translate(_SWAPPED)}'"


def is_grouped(cell: str) -> bool:
    """Whether all marks of a number stand before three digits, and may divide thousands."""
    return _THOUSANDS.fullmatch(cell.strip()) is not None


def _with_point(cell: str) -> str:
    """A number's text with a point for its comma; one that has a point already is not what it seems."""
    return "" if "." in cell else cell.replace(",", ".")


def divides(mark: str, names: Collection[str]) -> bool:
    """Whether a mark makes fewer names of some: those that recur in other combinations."""
    parts = {part.strip() for name in names for part in name.split(mark)}
    return any(mark in name for name in names) and 2 <= len(parts) < len(names)


def read_names(cell: Any, separator: str | None) -> list[str] | None:
    """Names of several labels: a list, which may be empty, also in JSON; or a text to divide."""
    if is_missing(cell):
        return None
    if isinstance(cell, str) and (listed := json_list(cell)) is not None:
        cell = listed
    if isinstance(cell, str):
        if separator is None:
            raise ValueError(
                f"'{cell:.40}' is a text; for several labels give a list, or set the task's separator"
            )
        cell = [name.strip() for name in cell.split(separator) if name.strip()]
    if not isinstance(cell, list):
        raise ValueError(f"a list of labels is needed, {type(cell).__name__} arrived ({cell!r:.40})")
    for name in cell:
        if not isinstance(name, str | int | float):
            raise ValueError(f"a list of labels is needed, it holds {type(name).__name__} ({name!r:.40})")
    return [label_name(name) for name in cell]
