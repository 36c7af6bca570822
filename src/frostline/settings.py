"""What all settings have in common: they are frozen, refuse unknown keys, and are data.

Knows no room's setting: each room defines its own. A module of settings imports nothing heavy, so that a
mistake in a config is told at once.
"""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

AskedFormat = Literal["auto", "bf16", "fp32"]
"""A number format to compute in; auto: what this machine is measured to be fast in."""


class Settings(BaseModel):
    """Base of every room's settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_answers_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """True would be taken for 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = set(get_args(annotation) if get_origin(annotation) in {Union, UnionType} else [annotation])
        if isinstance(value, dict):
            kinds = {get_args(kind)[-1] for kind in kinds if get_origin(kind) is dict}
        values = value.values() if isinstance(value, dict) else [value]
        answer = next((one for one in values if isinstance(one, bool)), None)
        if answer is not None and bool not in kinds and kinds & {int, float}:
            raise ValueError(f"a number is needed, {str(answer).lower()} arrived")
        return value
