"""What all settings have in common: they are frozen, refuse unknown keys, and are data.

Knows no room's setting: each room defines its own. A module of settings imports nothing heavy, so that a
mistake in a config is told at once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

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
