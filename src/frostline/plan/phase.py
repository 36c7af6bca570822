"""The plan as data: phases, and the checks that need no model.

A phase is a stretch of training with one frozen depth, one set of frozen heads and one set of rates. Knows
nothing of models; what depends on their size (`frozen_depth`) is asked with the number of layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from frostline.errors import ConfigError, did_you_mean, listing
from frostline.settings import Settings


class Phase(Settings):
    """One phase. Everything that is not said to learn is frozen."""

    name: str = Field(default="phase", min_length=1)
    """What reports call it."""
    top_layers: int | Literal["all"] = 0
    """How many layers, from the top, learn; "all" includes the embeddings."""
    frozen_heads: tuple[str, ...] = ()
    """Tasks whose head does not learn, and whose loss is not trained on."""
    solver: Literal["adamw", "probe"] = "adamw"
    """probe: solve the heads on stored embeddings (logistic or ridge regression) instead of descending."""
    backbone_lr: float = Field(default=5e-5, gt=0)
    """Rate of the layers that learn."""
    head_lr: float = Field(default=1e-3, gt=0)
    """Rate of the heads."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer learns at this times the rate of the one above it; 1: all alike."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the training texts."""
    warmup_steps: float = Field(default=0.1, ge=0)
    """Steps in which the rates rise from 0; below 1 it is a share of the phase."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """How the rates fall after warm-up: to 0, or not at all."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decay; biases and norms have none."""

    @model_validator(mode="after")
    def _check_alone(self) -> Self:
        if isinstance(self.top_layers, int) and self.top_layers < 0:
            raise ValueError('top_layers: a number of layers from 0, or "all"')
        if self.solver == "probe" and self.top_layers != 0:
            raise ValueError('solver = "probe" needs the whole backbone frozen: top_layers = 0')
        return self

    def frozen_depth(self, num_layers: int) -> int:
        """How many leading stages are frozen: 0 … L + 1."""
        return 0 if self.top_layers == "all" else num_layers + 1 - self.top_layers

    def learning_heads(self, tasks: Collection[str]) -> tuple[str, ...]:
        """Tasks whose head learns, in order."""
        return tuple(name for name in tasks if name not in self.frozen_heads)


class PlanSettings(Settings):
    """A recipe's name, with what to change in it; or phases written out."""

    recipe: str | None = None
    """features | heads | one-head | top-layers | full (see `frostline recipes`)."""
    phases: tuple[Phase, ...] = ()
    """The phases, instead of a recipe."""
    frozen_heads: tuple[str, ...] | None = None
    """With a recipe: heads frozen once they are trained."""
    top_layers: int | Literal["all"] | None = None
    """With a recipe: layers that learn in its last phase."""
    epochs: int | None = Field(default=None, ge=1)
    """With a recipe: epochs of its last phase."""
    backbone_lr: float | None = Field(default=None, gt=0)
    """With a recipe: rate of the layers in its last phase."""
    head_lr: float | None = Field(default=None, gt=0)
    """With a recipe: rate of the heads in its last phase."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.recipe and self.phases:
            raise ValueError("recipe and phases are both given; keep one")
        if self.phases and self.changes():
            raise ValueError(f"{', '.join(self.changes())}: changes a recipe; write it in the phases")
        return self

    def changes(self) -> dict[str, object]:
        """The keys that change the recipe's last phase."""
        keys = ("frozen_heads", "top_layers", "epochs", "backbone_lr", "head_lr")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


def check_plan(phases: Sequence[Phase], *, tasks: Collection[str], num_layers: int) -> None:
    """Raises ConfigError where a plan does not fit the tasks and the backbone, naming phase and key."""
    if not phases:
        raise ConfigError("plan: no phases. Name a recipe, or write [[plan.phases]].")
    for index, phase in enumerate(phases):
        where = f"plan.phases[{index}]"
        for name in phase.frozen_heads:
            if name not in tasks:
                raise ConfigError(
                    f"{where}.frozen_heads: '{name}' is not a task ({listing(tasks)})."
                    + did_you_mean(name, tasks)
                )
        if isinstance(phase.top_layers, int) and phase.top_layers > num_layers:
            raise ConfigError(
                f"{where}.top_layers: {phase.top_layers} layers asked, but this backbone has {num_layers}. "
                'Write "all" to train every layer and the embeddings.'
            )
        if phase.top_layers == 0 and not phase.learning_heads(tasks):
            raise ConfigError(f"{where}: nothing trains: top_layers is 0 and every head is frozen.")
        if not phase.learning_heads(tasks):
            raise ConfigError(f"{where}.frozen_heads: every head is frozen, so no loss is left to train on.")


def plan_warnings(phases: Sequence[Phase]) -> list[str]:
    """What a plan does that its author may not expect, a sentence each."""
    return [
        f"phase '{phase.name}': the {listing(phase.frozen_heads)} head is frozen, but the layers under it "
        "learn: its results will move. Compare its score before and after."
        for phase in phases
        if phase.frozen_heads and phase.top_layers != 0
    ]
