"""What all settings have in common: they are frozen, refuse unknown keys, and are data.

Knows no room's setting: each room defines its own. A module of settings imports nothing heavy, so that a
mistake in a config is told at once.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

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
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError(f"a number is needed, {str(value).lower()} arrived")
        return value
