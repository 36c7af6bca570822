"""The plan as data: phases, and the checks that need no model.

A phase is a stretch of training with one set of frozen heads and one set of rates, at one frozen depth or,
where it thaws, at several in turn. Knows nothing of models; what depends on their size is asked with the
number of layers L.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from frostline.settings import Settings

TopLayers = int | Literal["all"]
Protection = Literal["none", "distill", "fork"]

# What a phase that solves its heads has no use for.
_DESCENT_KEYS = (
    "backbone_lr", "head_lr", "layer_decay", "layer_lrs", "head_lrs", "epochs", "min_steps",
    "evaluations_per_epoch", "until", "thaw", "warmup_steps", "lr_scheduler_type", "weight_decay",
)  # fmt: skip
_MOST_EPOCHS = 100  # that `min_steps` may ask for


class Until(Settings):
    """When a phase, or a depth of one that thaws, has learned what it can: the plateau."""

    patience: int = Field(default=2, ge=1)
    """Evaluations without an improvement that make a plateau."""
    min_delta: float = Field(default=0.002, ge=0)
    """What counts as an improvement: more than this above the best so far."""
    monitor: str | dict[str, float] = "mean"
    """mean (of the tasks' main scores) | a task | { task = weight } | all (tasks flat) | any (task flat)."""


class Thaw(Settings):
    """How the frost line moves down, at each plateau or evaluation."""

    layers: int = Field(default=1, ge=1)
    """Layers that wake at once, from the top downward."""
    patience: int | None = Field(default=None, ge=0)
    """Evaluations without an improvement after which the line moves; 0: it moves at each; left out: that of
    `until`, which also ends the phase."""
    to: TopLayers = "all"
    """Where the line ends: how many top layers learn at last; "all" includes the embeddings."""


class Guard(Settings):
    """Watches the frozen heads at each evaluation, while the layers under them learn."""

    tolerance: float = Field(default=0.01, ge=0, le=1)
    """How much of its main score on validation a frozen head may lose; without labels there, how many of its
    answers may change, as a share; of a regression, 1 − their correlation."""
    action: Literal["stop", "rollback", "warn"] = "stop"
    """stop: the phase ends | rollback: it ends with the best weights that kept the tolerance | warn: it is
    said."""


class Band(Settings):
    """A rate for some layers, counted from 0 at the bottom."""

    layers: str
    """A half-open range such as "0:8", "8:" or, in shares of the depth, "0%:67%"."""
    lr: float = Field(gt=0)
    """Rate of these layers; embeddings take that of layer 0."""

    @field_validator("layers")
    @classmethod
    def _check_range(cls, layers: str) -> str:
        if not re.fullmatch(r"(\d+%?)?:(\d+%?)?", layers):
            raise ValueError(f"a range such as '0:8' or '0%:50%' is needed, '{layers}' arrived")
        return layers

    def members(self, num_layers: int) -> range:
        """Layers of the band, from 0 to L − 1; may reach beyond the last."""
        first, _, last = self.layers.partition(":")
        return range(_layer(first or "0", num_layers), _layer(last or "100%", num_layers))


def _layer(bound: str, num_layers: int) -> int:
    return round(int(bound[:-1]) / 100 * num_layers) if bound.endswith("%") else int(bound)


class Phase(Settings):
    """One phase. Everything that is not said to learn is frozen."""

    name: str = Field(default="phase", min_length=1)
    """What reports call it."""
    top_layers: TopLayers = 0
    """How many layers, from the top, learn; "all" includes the embeddings."""
    frozen_heads: tuple[str, ...] = ()
    """Tasks whose head does not learn, and whose loss is not trained on."""
    protect: Protection = "none"
    """What keeps the answers of frozen heads while layers learn. distill: their divergence from what they
    were is part of the loss | fork: they keep a private copy of the stages that learn | none."""
    distill_weight: float = Field(default=2.0, gt=0)
    """Factor of that divergence."""
    guard: Guard | None = None
    """Ends the phase, or says so, when a frozen head loses more than it may."""
    solver: Literal["adamw", "probe"] = "adamw"
    """probe: solve the heads on stored embeddings (logistic or ridge regression) instead of descending, but
    for those that this would raise by less than .002."""
    temperature: float = Field(default=1.0, ge=1)
    """What the logits of a classification's solved head are divided by, where it descends in a later phase:
    answers stay, but less sure of themselves, so that layers which wake have more to learn."""
    backbone_lr: float = Field(default=5e-5, gt=0)
    """Rate of the layers that learn."""
    head_lr: float = Field(default=1e-3, gt=0)
    """Rate of the heads."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer learns at this times the rate of the one above it; 1: all alike."""
    layer_lrs: tuple[Band, ...] = ()
    """Rates of bands of layers by hand, instead of `backbone_lr` and `layer_decay`."""
    head_lrs: dict[str, float] = Field(default_factory=dict)
    """Rates of single heads, by task, instead of `head_lr`."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the training texts; with `until`, at most."""
    min_steps: int | None = Field(default=None, ge=1)
    """Where few rows make fewer steps than this, epochs are added until there are as many, 100 at most, and
    each is evaluated less often."""
    evaluations_per_epoch: int = Field(default=1, ge=1)
    """How often the validation split is scored in an epoch, at equal distances."""
    until: Until | None = None
    """Ends the phase at a plateau of the validation score, or moves the frost line where `thaw` says how."""
    thaw: Thaw | None = None
    """Moves the frost line down at each plateau; the phase ends when it has arrived and the score is flat."""
    warmup_steps: float = Field(default=0.1, ge=0)
    """Steps in which the rates rise from 0; below 1 it is a share of the phase. What wakes has its own."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """How the rates fall after warm-up: to 0 at the end of `epochs`, or not at all."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decay; biases and norms have none."""
    activations: Literal["auto", "always", "never"] = "auto"
    """Whether the outputs of the frozen stages are stored in this phase; auto: what `train.activations`
    says."""

    @model_validator(mode="after")
    def _check_alone(self) -> Self:
        if isinstance(self.top_layers, int) and self.top_layers < 0:
            raise ValueError('top_layers: a number of layers from 0, or "all"')
        if self.solver == "probe" and self.top_layers != 0:
            raise ValueError('solver = "probe" needs the whole backbone frozen: top_layers = 0')
        if self.solver == "probe":
            self._refuse(_DESCENT_KEYS, 'solver = "probe" does not descend, so it has no')
        else:
            self._refuse(("temperature",), 'solver = "adamw" solves no head, so it has no')
        if self.top_layers == 0 and self.thaw is None:
            self._refuse(
                ("backbone_lr", "layer_decay", "layer_lrs", "protect", "distill_weight", "guard"),
                "no layer learns here, so there is no",
            )
        if self.protect != "distill":
            self._refuse(("distill_weight",), f'protect = "{self.protect}" has no')
        if self.protect == "fork" and self.guard:
            raise ValueError('guard: protect = "fork" lets no frozen head move, so there is nothing to guard')
        if self.top_layers in (0, "all") and self.thaw is None:
            self._refuse(("activations",), "no stage is frozen under one that learns, so there is no")
        if self.layer_lrs:
            self._refuse(
                ("backbone_lr", "layer_decay"), "layer_lrs gives every layer its rate, so there is no"
            )
        if any(rate <= 0 for rate in self.head_lrs.values()):
            raise ValueError("head_lrs: a rate must be above 0")
        self._check_thaw()
        return self

    def _refuse(self, keys: Collection[str], reason: str) -> None:
        """Refuses keys that would have no effect; one at its default, as resolved files write it, passes."""
        for key in keys:
            field = type(self).model_fields[key]
            if getattr(self, key) != field.get_default(call_default_factory=True):
                raise ValueError(f"{reason} {key}")

    def _check_thaw(self) -> None:
        if self.thaw is None:
            return
        if self.until is None:
            raise ValueError("thaw moves the line at a plateau; say with until what that is")
        if self.top_layers == "all":
            raise ValueError('thaw: nothing is left to wake, top_layers is "all" from the start')
        if self.thaw.to != "all" and self.thaw.to <= self.top_layers:
            raise ValueError(
                f"thaw.to: {self.thaw.to} layers are no more than the {self.top_layers} of the start"
            )

    def with_epochs_for(self, steps_per_epoch: int, *, label_share: float = 1.0) -> Self:
        """The phase with the epochs that `min_steps` asks for.

        Args:
            steps_per_epoch: of its rows.
            label_share: of the tasks, those that a row has a label of, in the mean. Where tasks have rows of
                their own a step teaches each of them less; they need the steps that each would have alone.

        It is evaluated about as often in all, but once an epoch at least, and once a step at most: nothing
        has changed between two evaluations without one.
        """
        steps = max(1, steps_per_epoch)
        needed = math.ceil(round((self.min_steps or 0) / (steps * label_share), 6))  # 60.000001 is 60
        epochs = max(self.epochs, min(_MOST_EPOCHS, needed))
        evaluations = min(steps, math.ceil(self.evaluations_per_epoch * self.epochs / epochs))
        changes = {"epochs": epochs, "evaluations_per_epoch": evaluations, "min_steps": None}
        return self.model_copy(update=changes)

    def depths(self, num_layers: int) -> tuple[int, ...]:
        """Frozen depths of the phase in turn: how many leading stages are frozen, 0 … L + 1."""
        start = _depth(self.top_layers, num_layers)
        if self.thaw is None:
            return (start,)
        end = _depth(self.thaw.to, num_layers)
        last_layer = max(end, 1)  # the embeddings wake in a move of their own
        steps = range(start, last_layer, -self.thaw.layers)
        return tuple(dict.fromkeys([*steps, last_layer, end]))

    @property
    def exposed_heads(self) -> tuple[str, ...]:
        """Frozen heads over layers that learn: what they answer moves unless they are protected."""
        return self.frozen_heads if self.top_layers != 0 or self.thaw else ()

    def taught_heads(self, tasks: Collection[str]) -> tuple[str, ...] | None:
        """Heads from whose labelled rows the phase learns; None where it learns from every row."""
        return None if self.protect == "distill" and self.exposed_heads else self.learning_heads(tasks)

    def learning_heads(self, tasks: Collection[str]) -> tuple[str, ...]:
        """Tasks whose head learns, in order."""
        return tuple(name for name in tasks if name not in self.frozen_heads)


def temperatures_of(phases: Sequence[Phase], tasks: Collection[str]) -> dict[str, float]:
    """That of the first phase, by task, for heads that descend in one of those after it."""
    first, *later = phases
    descending = (one.learning_heads(tasks) for one in later if one.solver == "adamw")
    return {name: first.temperature for names in descending for name in names}


def _depth(top_layers: TopLayers, num_layers: int) -> int:
    return 0 if top_layers == "all" else num_layers + 1 - top_layers


class PlanSettings(Settings):
    """A recipe's name, with what to change in its main phase; or phases written out.

    The main phase is the last one, or the one before heads are solved again.
    """

    recipe: str | None = None
    """A named plan (see `frostline recipes`)."""
    phases: tuple[Phase, ...] = ()
    """The phases, instead of a recipe."""
    frozen_heads: tuple[str, ...] | None = None
    """With a recipe: heads frozen once they are trained."""
    top_layers: TopLayers | None = None
    """With a recipe: layers that learn in its main phase."""
    epochs: int | None = Field(default=None, ge=1)
    """With a recipe: epochs of its main phase."""
    backbone_lr: float | None = Field(default=None, gt=0)
    """With a recipe: rate of the layers in its main phase."""
    head_lr: float | None = Field(default=None, gt=0)
    """With a recipe: rate of the heads in its main phase."""
    protect: Protection | None = None
    """With a recipe: what keeps the answers of frozen heads in its main phase."""
    guard: Guard | None = None
    """With a recipe: watches the frozen heads in its main phase."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.recipe and self.phases:
            raise ValueError("recipe and phases are both given; keep one")
        if self.phases and self.changes():
            raise ValueError(f"{', '.join(self.changes())}: changes a recipe; write it in the phases")
        return self

    def changes(self) -> dict[str, object]:
        """The keys that change the recipe's main phase."""
        keys = ("frozen_heads", "top_layers", "epochs", "backbone_lr", "head_lr", "protect", "guard")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
