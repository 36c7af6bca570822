"""A starter file from a look at the data: which column is the text, which are labels, of which kind."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import tomli_w

from frostline.data.cells import divides, is_grouped, is_missing, json_list, label_name, read_number
from frostline.data.read import Row, format_of, iter_blocks
from frostline.errors import DataError

_LOOK_ROWS = 4096
_MOST_LABELS, _ROWS_OF_A_WORD = 50, 10  # labels that are words may be more, where each comes so often
_MOST_LEVELS = 12  # decimals with more values are measured, not chosen
_TEXT_NAMES = ("text", "sentence", "content", "body", "review", "title")
_GROUP_NAMES = ("group", "group_id", "document", "doc_id", "author", "user")
_SEPARATORS = (";", "|")
_ANSWERS = ("predicted_", "probability_")  # of `frostline predict`
_MOSTLY = 0.5
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


def build_starter(data: Path) -> str:
    """Text of a TOML file for a data file, or for a folder of train, validation and test files.

    Raises:
        DataError: no usable file, no column of texts, or no column that looks like labels.
    """
    files = _splits(data)
    block = next(iter_blocks(files["train"], block_rows=_LOOK_ROWS), None)
    if block is None:
        raise DataError(f"{files['train']}: no rows.")
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for row in block.rows for name in row):
        columns[name] = [row[name] for row in block.rows if not is_missing(row.get(name))]
    text = _text_column(data, columns)
    group = next((name for name in _GROUP_NAMES if name in columns), None)
    kinds = {
        name: None if name.startswith(_ANSWERS) else _kind(cells)
        for name, cells in columns.items()
        if name not in {text, group}
    }
    tasks = {name: kind for name, kind in kinds.items() if kind is not None}
    if not tasks:
        others = ", ".join(_quoted(name, cells) for name, cells in columns.items() if name != text)
        raise DataError(
            f"{data}: no column looks like labels; beside the texts, '{text}', it has "
            f"{others or 'none'}. Write the file by hand."
        )
    names: dict[str, str] = {}
    for number, column in enumerate(tasks, 1):
        names[_free(_task_name(column, number), names)] = column
    content: dict[str, Any] = {
        "model": {"backbone": "general", "max_length": 128},
        "data": {name: str(path) for name, path in files.items()}
        | {"text": text}
        | ({"group": group} if group else {}),
        "tasks": {name: {"column": column, **tasks[column]} for name, column in names.items()},
        "plan": {"recipe": "top-layers"},
    }
    said = "# frostline plan FILE shows what will happen; frostline train FILE does it.\n"
    beside = [json.dumps(path.name, ensure_ascii=False) for path in files.values() if path != data]
    if beside and not data.is_dir():
        said += f"# Found beside it: {', '.join(beside)}.\n"
    if left := [_quoted(name, columns[name]) for name, kind in kinds.items() if kind is None]:
        said += f"# Columns that do not look like labels: {', '.join(left)}.\n"
    doubts = (doubt for name, kind in kinds.items() for doubt in _doubts(name, columns[name], kind))
    said += "".join(f"# {doubt}\n" for doubt in doubts)
    return f"{said}\n{tomli_w.dumps(content)}"


def _doubts(column: str, cells: list[Any], kind: Row | None) -> Iterator[str]:
    """What may be meant otherwise in a column of numbers."""
    decimal, numbers = _numbers(cells)
    name = json.dumps(column, ensure_ascii=False)
    marked = [cell for cell in cells if isinstance(cell, str) and not cell.isdecimal()]
    if marked and all(is_grouped(cell) for cell in marked):
        yield f"Points or commas in {name} may divide thousands, which are to be left out of numbers."
    elif kind == {} and len(numbers) == len(cells) and not all(isinstance(cell, bool) for cell in cells):
        yield f'{name} holds numbers, taken for classes: kind = "regression" if their order matters.'
    elif not kind and len(cells) > len(numbers) >= _MOSTLY * len(cells):
        odd = next(cell for cell in cells if _as_number(cell, decimal) is None)
        yield f"{name} holds numbers, but for cells such as {json.dumps(odd, ensure_ascii=False)}."


def _quoted(name: str, cells: list[Any]) -> str:
    said = {0: " (empty as far as was looked)", 1: " (one value as far as was looked)"}
    return json.dumps(name, ensure_ascii=False) + said.get(len({str(cell) for cell in cells}), "")


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or its beginning with the first number that makes it one that is not taken."""
    numbered = (f"{name[:58]}_{i}" for i in count(2))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def _splits(data: Path) -> dict[str, Path]:
    if not data.exists():
        raise DataError(f"{data}: no such file or folder.")
    if not data.is_dir():
        format_of(data)
        stem = data.name.partition(".")[0].lower()
        found = _splits(data.parent) if stem in _SPLITS["train"] else {}
        return {"train": data, **{name: path for name, path in found.items() if name != "train"}}
    found = {}
    for path in sorted(data.iterdir()):
        for split, names in _SPLITS.items():
            is_named = path.name.partition(".")[0].lower() in names
            if is_named and split not in found and path.is_file() and _is_table(path):
                found[split] = path
    if "train" not in found:
        raise DataError(
            f"{data}: holds no train file (train.csv, train.jsonl, …). Give the file itself; where tasks "
            "have files of their own, data.train is a list of them."
        )
    return found


def _is_table(path: Path) -> bool:
    try:
        format_of(path)
    except DataError:
        return False
    return True


def _text_column(data: Path, columns: dict[str, list[Any]]) -> str:
    texts = {
        name: sum(len(cell) for cell in cells) / len(cells)
        for name, cells in columns.items()
        if cells and all(isinstance(cell, str) for cell in cells)
    }
    if not texts:
        raise DataError(f"{data}: no column of texts.")
    known = [name for name in _TEXT_NAMES if name in texts]
    found = known[0] if known else max(texts, key=lambda name: texts[name])
    kind = _kind(columns[found])
    if not known and kind is not None and kind.get("separator") != ",":  # sentences have commas too
        raise DataError(
            f"{data}: no column of texts; the longest, '{found}', looks like labels. Write the file by hand."
        )
    return found


def _kind(cells: list[Any]) -> Row | None:
    """Settings of a task (none for a classification), or None for a column that is no label."""
    if not cells:
        return None
    if all(isinstance(json_list(cell) if isinstance(cell, str) else cell, list) for cell in cells):
        return {"kind": "multilabel"}
    if not all(isinstance(cell, str | int | float | bool) for cell in cells):
        return None
    distinct = {label_name(cell) for cell in cells}
    for separator in _SEPARATORS:
        if divides(separator, distinct):
            return {"kind": "multilabel", "separator": separator}
    decimal, numbers = _numbers(cells)
    is_measured = len(numbers) == len(cells) and not all(number.is_integer() for number in numbers)
    are_words = not numbers
    most = max(_MOST_LABELS, len(cells) // _ROWS_OF_A_WORD if are_words else 0)
    is_few = 2 <= len(distinct) <= min(most, max(2, len(cells) // 3))
    if is_few and not (is_measured and len(distinct) > _MOST_LEVELS):
        return {}
    if not is_measured:
        parts = {part.strip() for name in distinct for part in name.split(",")}
        is_divided = are_words and divides(",", distinct) and len(parts) <= most
        return {"kind": "multilabel", "separator": ","} if is_divided else None
    return {"kind": "regression"} | ({"decimal": decimal} if decimal == "," else {})


def _numbers(cells: list[Any]) -> tuple[str, list[float]]:
    """The decimal mark by which more cells are numbers, and these. Commas before three digits each may divide
    thousands, and tell nothing.
    """
    found = {
        mark: [number for cell in cells if (number := _as_number(cell, mark)) is not None] for mark in ".,"
    }
    commas = [cell for cell in cells if isinstance(cell, str) and "," in cell]
    is_told = not all(is_grouped(cell) for cell in commas)
    decimal = "," if is_told and len(found[","]) > len(found["."]) else "."
    return decimal, found[decimal]


def _as_number(cell: Any, decimal: str) -> float | None:
    try:
        return float(cell) if isinstance(cell, bool) else read_number(cell, decimal=decimal)
    except ValueError:
        return None


def _task_name(column: str, number: int) -> str:
    """A name that a task may have: Latin letters without their accents, digits, _ for other ASCII signs; of a
    column without a letter or digit of these, its number.
    """
    plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in plain)
    if not any(letter.isalnum() for letter in name):
        return f"task_{number}"
    return name[:64] if name[:1].isalpha() else f"task_{name}"[:64]
