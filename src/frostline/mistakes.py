"""What is wrong with settings, a sentence a key: what arrived, what is accepted, the nearest known key.

Knows settings as pydantic describes them, none by itself but the words that other tools have for some.
"""

from __future__ import annotations

import json
import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from frostline.errors import did_you_mean

_SYNONYMS = {
    "body_lr": "backbone_lr",
    "encoder_lr": "backbone_lr",
    "learning_rate": "backbone_lr",
    "lr": "head_lr",
    "unfreeze": "top_layers",
    "freeze": "frozen_heads",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "body": "backbone",
    "encoder": "backbone",
    "max_seq_length": "max_length",
    "dev": "validation",
    "val": "validation",
}

_OR_TABLE = " Or write a table."

# Parts of a place in pydantic's errors that are no keys: which type of a union was tried.
_UNION_MEMBER = re.compile(r"(int|float|str|bool|function-.*|(literal|dict|list|tuple|constrained-.*)\[.*\])")


def explanations(
    error: ValidationError, *, settings: type[BaseModel], within: tuple[str, ...] = ()
) -> list[str]:
    """A sentence for each key that is wrong; what a union of types refuses many times is said once.

    Args:
        error: of settings, or of a part of them.
        settings: the whole, in which keys are looked up.
        within: keys that lead to this part.
    """
    sentences: dict[str, str] = {}
    for detail in error.errors():
        inner = [part for part in detail["loc"] if not _UNION_MEMBER.fullmatch(str(part))]
        location = [*within, *inner]
        place = json.dumps(location)
        if place not in sentences:
            sentences[place] = _explain(detail, location, settings)
        elif detail["type"] == "dict_type" and not sentences[place].endswith(_OR_TABLE):
            sentences[place] += _OR_TABLE
    return list(sentences.values())


def _explain(detail: Any, location: list[Any], whole: type[BaseModel]) -> str:
    """Key, what is wrong, what arrived, the nearest known key."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if detail["type"] == "extra_forbidden":
        known = _known_keys(whole, location[:-1])
        word = str(location[-1])
        near = _SYNONYMS.get(word, "")
        tables = [name for name, field in whole.model_fields.items() if _is_settings(field.annotation)]
        elsewhere = [
            f"{table}.{one}"
            for one in (word, near)
            for table in tables
            if len(location) <= 2 and one in _known_keys(whole, [table])
        ]
        found = [near] if near in known else elsewhere or _listed(whole, location)
        hint = f" Did you mean '{found[0]}'?" if found else did_you_mean(word, known)
        return f"{key}: unknown key.{hint} Known here: {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{key}: is missing."
    if detail["type"] in {"model_type", "dict_type"}:
        keys = (
            f" Known here: {', '.join(_known_keys(whole, location))}."
            if detail["type"] == "model_type"
            else ""
        )
        return f"{key}: a table of keys is needed, {detail['input']!r:.60} arrived.{keys}"
    if detail["type"] == "too_short":
        return f"{key}: {detail['ctx']['min_length']} or more are needed, {detail['input']!r:.60} arrived."
    if detail["type"] == "tuple_type":
        return f"{key}: a list is needed, such as [{json.dumps(str(detail['input']), ensure_ascii=False)}]."
    arrived = (
        ""
        if detail["type"] == "value_error" or isinstance(detail["input"], dict)
        else f", {detail['input']!r:.60} arrived"
    )
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    return f"{key}: {message[0].lower()}{message[1:]}{arrived}."


def _listed(whole: type[BaseModel], location: list[Any]) -> list[str]:
    """Where settings in a list of a table have a key that the table has not: in the first of them."""
    if len(location) != 2:
        return []
    table, word = location
    lists = {
        name: _settings_in(field.annotation)
        for name, field in _settings_at(whole, [table]).model_fields.items()
        if get_origin(field.annotation) is tuple
    }
    return [f"{table}.{name}.0.{word}" for name, one in lists.items() if one and word in one.model_fields]


def _settings_at(whole: type[BaseModel], location: list[Any]) -> Any:
    settings: Any = whole
    for part in location:
        if isinstance(part, str) and part in settings.model_fields:
            settings = _settings_in(settings.model_fields[part].annotation) or settings
    return settings


def _known_keys(whole: type[BaseModel], location: list[Any]) -> list[str]:
    """Keys of the settings at a place."""
    return list(_settings_at(whole, location).model_fields)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _settings_in(annotation: Any) -> Any:
    if _is_settings(annotation):
        return annotation
    for inner in get_args(annotation):
        found = _settings_in(inner)
        if found:
            return found
    return None
