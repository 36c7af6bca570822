"""Copies of single stages: private ones for a head that must not move, bf16 ones of what is frozen.

Stages that are not copied are shared, so a copy costs what it holds. Knows stages, not why they were copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from frostline.model.backbone import Backbone


def share(backbone: Backbone) -> Backbone:
    """A copy that has every parameter, buffer and the tokenizer in common with the backbone."""
    shared: dict[int, Any] = {id(p): p for p in (*backbone.parameters(), *backbone.buffers())}
    shared[id(backbone.tokenizer)] = backbone.tokenizer
    return copy.deepcopy(backbone, shared)


def make_private(backbone: Backbone, stages: Iterable[int], *, dtype: torch.dtype | None = None) -> None:
    """Replaces the parameters of some stages by frozen copies.

    Args:
        backbone: changed; what it had in common with another stays the other's.
        stages: their numbers.
        dtype: of the copies of the transformer's matrices; None: as they were. Norms, embeddings and what
            follows the transformer stay as they were.
    """
    inside = {id(m) for m in backbone.transformer.modules() if isinstance(m, nn.Linear)}
    modules = [
        module for stage in stages for owner in backbone.stage_modules(stage) for module in owner.modules()
    ]
    for module in dict.fromkeys(modules):
        for name, parameter in module.named_parameters(recurse=False):
            value = parameter.detach().to(dtype if id(module) in inside else None, copy=True)
            setattr(module, name, nn.Parameter(value, requires_grad=False))


class Fork(nn.Module):
    """The stages from `depth` upward as they were at a moment; those below are the backbone's own.

    A head that reads them answers as it did, to the bit.

    Attributes:
        depth: first stage that is private; L + 1: none yet.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = share(backbone)
        self.depth = backbone.num_stages

    def own(self, depth: int) -> None:
        """Copies the stages from `depth` up to those that are private already, before they move."""
        make_private(self.backbone, range(depth, self.depth))
        self.depth = min(self.depth, depth)

    def suffix(self, states: torch.Tensor, mask_BL: torch.Tensor, *, depth: int) -> torch.Tensor:
        """`Backbone.suffix` through the private stages; `depth` is at most that of the fork."""
        return self.backbone.suffix(states, mask_BL, depth=depth)

    def private_weights(self) -> dict[str, torch.Tensor]:
        """Parameters of the private stages by their name in the backbone."""
        return {
            name: parameter
            for name, parameter in self.backbone.named_parameters()
            if (stage := self.backbone.stage_of[name]) is not None and stage >= self.depth
        }
