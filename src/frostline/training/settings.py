"""How a run trains, whatever its plan."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from frostline.cache import cache_folder
from frostline.settings import AskedFormat, Settings


def _as_table(value: Any) -> Any:
    return {"store": value} if isinstance(value, str) else value


class ActivationSettings(Settings):
    """What is done with the outputs of frozen stages."""

    store: Literal["auto", "always", "never"] = "auto"
    """auto: stored for a phase where it is measured to be faster."""
    max_bytes: int = Field(default=16 * 2**30, ge=0)
    """Most bytes of all stores; the ones that were not used for the longest go first."""
    folder: str | None = None
    """Where the stores of all runs lie; left out: FROSTLINE_CACHE, or frostline in the user's cache."""

    def place(self) -> Path:
        """The folder of the stores."""
        return Path(self.folder).expanduser() if self.folder else cache_folder("activations")

    def can_write(self) -> bool:
        """Whether the folder is there, or can be made, and takes files."""
        try:
            self.place().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.place()):
                return True
        except OSError:
            return False


class TrainSettings(Settings):
    """Batches, number format, seed and commits."""

    seed: int = Field(default=0, ge=0)
    """Decides the split, the order and the dropout."""
    batch_size: int = Field(default=64, ge=1)
    """Texts of a batch."""
    batch_tokens: int | None = Field(default=None, ge=16)
    """Most padded tokens computed at once: a longer batch is computed in parts, whose gradients add up. Left
    out: 1,024 on a processor (2,048 in bf16), 16,384 on a GPU."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches whose gradients make one step."""
    gradient_checkpointing: bool = False
    """Keep the inputs of layers alone and compute the rest again in the backward pass: the same weights, less
    memory, about a third more time. For long texts or large models."""
    cuda_graphs: bool = True
    """On a GPU, record the kernels of layers that learn once for a shape of batch and replay them: faster,
    for as much memory again as activations and these layers' gradients take. Lengths are made multiples of 8
    then, which changes what dropout draws."""
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
