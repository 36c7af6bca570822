"""Backbone and heads as one model, and what of it is frozen at the moment.

Knows which stages and heads are frozen, not why: plans decide, `plan/freeze.py` sets it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self, cast

import torch
from torch import nn

from frostline.data.batches import TokenBatch
from frostline.data.labels import Task
from frostline.model.backbone import Backbone
from frostline.model.heads import Head


class MultitaskModel(nn.Module):
    """One backbone, one head a task.

    Attributes:
        frozen_depth: how many leading stages are frozen: 0 … L + 1.
        frozen_heads: names of the tasks whose head is frozen.
    """

    def __init__(self, backbone: Backbone, tasks: tuple[Task, ...], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.tasks = {task.name: task for task in tasks}
        scale = math.sqrt(backbone.width) if backbone.is_normalized else 1.0
        # ModuleDict refuses names that modules have ("type"), so no key is a task's bare name.
        self.heads = nn.ModuleDict(
            {
                f"{task.name}_head": Head(task, width=backbone.width, input_scale=scale, dropout=dropout)
                for task in tasks
            }
        )
        self.frozen_depth = 0
        self.frozen_heads: frozenset[str] = frozenset()

    def head(self, task: str) -> Head:
        """The head of a task."""
        return cast(Head, self.heads[f"{task}_head"])

    def logits(self, embedding_BD: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (B, C) of every task from embeddings."""
        return {name: self.head(name)(embedding_BD) for name in self.tasks}

    def forward(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        """Logits (B, C) of every task from padded tokens."""
        return self.logits(self.backbone(batch))

    def train(self, mode: bool = True) -> Self:
        """Training mode for what learns; what is frozen stays in eval mode, so its dropout sleeps."""
        super().train(False)
        if mode:
            self.training = True
            for module in self.learning_modules():
                module.train()
        return self

    def learning_modules(self) -> Iterator[nn.Module]:
        """Stages above the frost line and heads that are not frozen."""
        for stage in range(self.frozen_depth, self.backbone.num_stages):
            yield from self.backbone.stage_modules(stage)
        for name in self.tasks:
            if name not in self.frozen_heads:
                yield self.head(name)

    def owner_of(self, parameter: str) -> int | str | None:
        """Stage number or task name that a parameter belongs to; None for what no output depends on."""
        if parameter.startswith("backbone."):
            return self.backbone.stage_of[parameter.removeprefix("backbone.")]
        return parameter.split(".")[1].removesuffix("_head")

    def is_frozen(self, parameter: str) -> bool:
        """Whether a parameter must not learn at the moment."""
        owner = self.owner_of(parameter)
        if isinstance(owner, int):
            return owner < self.frozen_depth
        return owner is None or owner in self.frozen_heads
