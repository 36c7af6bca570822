"""How a run trains, whatever its plan, and the steps that follow from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from frostline.data.batches import Split, cut, epoch_batches
from frostline.data.labels import is_labelled
from frostline.data.table import IntN
from frostline.model.device import AskedFormat
from frostline.settings import Settings
from frostline.training.store import ActivationSettings


def _as_table(value: Any) -> Any:
    return {"store": value} if isinstance(value, str) else value


class TrainSettings(Settings):
    """Batches, number format, seed and commits."""

    seed: int = Field(default=0, ge=0)
    """Decides the split, the order and the dropout."""
    batch_size: int = Field(default=64, ge=1)
    """Texts of a batch."""
    batch_tokens: int | None = Field(default=None, ge=16)
    """Most padded tokens computed at once: a longer batch is computed in parts, whose gradients add up. Left
    out: 1,024 on a processor, 16,384 on a GPU."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches whose gradients make one step."""
    gradient_checkpointing: bool = False
    """Keep the inputs of layers alone and compute the rest again in the backward pass: the same weights, less
    memory, about a third more time. For long texts or large models."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    activations: Annotated[ActivationSettings, BeforeValidator(_as_table)] = ActivationSettings()
    """auto | always | never, or a table: whether the outputs of frozen stages are stored."""
    precision: AskedFormat = "auto"
    """bf16 | fp32 | auto: measured at start."""
    device: str = "auto"
    """auto | cpu | cuda | mps."""
    select: Literal["best", "last"] = "best"
    """Which weights a phase ends with: those of its best validation score, or the last."""
    save_seconds: float | None = Field(default=None, gt=0)
    """Least time between checkpoints inside a phase; left out: 120, or more where they
    would take over 3 % of the time."""
    each_task_alone: bool = False
    """Train each task by itself too, under the same plan: do the tasks help or hurt each other?"""
    profile: bool = False
    """Measure where the time goes, part by part, for the report."""
    keep_last: int = Field(default=2, ge=2)
    """How many checkpoints are kept; the one before the newest is what a damaged one falls back to."""


def epoch_steps(
    split: Split, settings: TrainSettings, *, epoch: int, heads: Collection[str] | None = None
) -> list[list[IntN]]:
    """Rows of every step of an epoch, each step in parts that are computed one after the other.

    Args:
        split: the training texts.
        settings: of the run, resolved.
        epoch: counted over the whole run.
        heads: tasks that learn from labels; rows without a label of any of them are left out. None: all rows.
    """
    assert settings.batch_tokens is not None, "settings are not resolved"
    length_N = split.tokens.length_N
    used = np.arange(len(split))
    if heads is not None:
        used = np.flatnonzero(np.any([is_labelled(split.labels[name]) for name in heads], axis=0))
    batches = epoch_batches(length_N[used], size=settings.batch_size, seed=settings.seed, epoch=epoch)
    parts = [cut(used[rows], length_N, max_tokens=settings.batch_tokens) for rows in batches]
    size = settings.gradient_accumulation_steps
    return [[rows for batch in parts[i : i + size] for rows in batch] for i in range(0, len(parts), size)]


def part_of(steps: list[list[IntN]], number: int, num_parts: int) -> list[list[IntN]]:
    """One of `num_parts` stretches of an epoch's steps, as equal as can be."""
    start, end = (len(steps) * i // num_parts for i in (number, number + 1))
    return steps[start:end]


def step_seed(settings: TrainSettings, *, step: int, rank: int = 0) -> int:
    """The seed of a step's dropout.

    Args:
        settings: of the run.
        step: counted over the whole run.
        rank: of the process.
    """
    entropy = (settings.seed, step, rank) if rank else (settings.seed, step)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
