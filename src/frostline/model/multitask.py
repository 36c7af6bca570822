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
from frostline.model.fork import Fork
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
        self.forks = nn.ModuleDict()
        self.frozen_depth = 0
        self.frozen_heads: frozenset[str] = frozenset()

    def set_head(self, head: Head) -> None:
        """Puts a head in the place of its task's."""
        self.tasks[head.task.name] = head.task
        self.heads[f"{head.task.name}_head"] = head

    def set_task(self, task: Task) -> None:
        """Changes what the outputs of a head mean, such as its temperature."""
        self.tasks[task.name] = task
        self.head(task.name).task = task

    def fork(self, task: str, *, depth: int) -> Fork:
        """Gives a head stages of its own from `depth` upward; those that it has already stay as they are."""
        name = f"{task}_fork"
        if name not in self.forks:
            self.forks[name] = Fork(self.backbone)
        fork = cast(Fork, self.forks[name])
        fork.own(depth)
        return fork

    def fork_of(self, task: str) -> Fork | None:
        """The private stages of a head, if it has any."""
        name = f"{task}_fork"
        return cast(Fork, self.forks[name]) if name in self.forks else None

    @property
    def fork_depth(self) -> int:
        """The lowest depth from which a head has stages of its own; L + 1 without one."""
        depths = [cast(Fork, fork).depth for fork in self.forks.values()]
        return min(depths, default=self.backbone.num_stages)

    def head(self, task: str) -> Head:
        """The head of a task."""
        return cast(Head, self.heads[f"{task}_head"])

    def logits(self, embedding_BD: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (B, C) of every task that reads the shared embedding; one with a fork does not."""
        return {name: self.head(name)(embedding_BD) for name in self.tasks if self.fork_of(name) is None}

    def embeddings(
        self, states: torch.Tensor, mask_BL: torch.Tensor, *, depth: int
    ) -> dict[str | None, torch.Tensor]:
        """Embeddings (B, D) from what the shared prefix of a depth returned: the shared one under None, and
        one for each task with a fork.

        Args:
            states: see `Backbone.suffix`.
            mask_BL: of their tokens.
            depth: at most `fork_depth`.
        """
        found: dict[str | None, torch.Tensor] = {None: self.backbone.suffix(states, mask_BL, depth=depth)}
        for name in self.tasks:
            fork = self.fork_of(name)
            if fork is not None:
                found[name] = fork.suffix(states, mask_BL, depth=depth)
        return found

    def all_logits(self, embeddings: dict[str | None, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Logits (B, C) of every task from `embeddings`."""
        return {name: self.head(name)(embeddings.get(name, embeddings[None])) for name in self.tasks}

    def forward(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        """Logits (B, C) of every task from padded tokens."""
        depth = self.fork_depth
        states = self.backbone.prefix(batch, depth=depth) if depth else batch.ids_BL
        return self.all_logits(self.embeddings(states, batch.mask_BL, depth=depth))

    def to_format(self, dtype: torch.dtype) -> Self:
        """Itself, with the transformer's weights, and those of forks, in a number format."""
        for backbone in (self.backbone, *(cast(Fork, fork).backbone for fork in self.forks.values())):
            backbone.to_format(dtype)
        return self

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
        """Stage number or task name that a parameter belongs to; None for a fork's, and for what no output
        depends on, neither of which ever learns.
        """
        if parameter.startswith("forks."):
            return None
        if parameter.startswith("backbone."):
            return self.backbone.stage_of[parameter.removeprefix("backbone.")]
        return parameter.split(".")[1].removesuffix("_head")

    def is_frozen(self, parameter: str) -> bool:
        """Whether a parameter must not learn at the moment."""
        owner = self.owner_of(parameter)
        if isinstance(owner, int):
            return owner < self.frozen_depth
        return owner is None or owner in self.frozen_heads
