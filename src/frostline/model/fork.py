"""A private copy of the stages that learn, kept for a head that must not move.

The copy reads the hidden states of the shared stages below it, so its head answers as it did, to the bit.
Knows stages, not why they were copied.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from frostline.model.backbone import Backbone


class Fork(nn.Module):
    """The stages from `depth` upward as they were at a moment; those below are the backbone's own.

    Attributes:
        depth: first stage that is private; L + 1: none yet.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        shared: dict[int, Any] = {id(p): p for p in (*backbone.parameters(), *backbone.buffers())}
        shared[id(backbone.tokenizer)] = backbone.tokenizer
        self.backbone = copy.deepcopy(backbone, shared)
        self.depth = backbone.num_stages

    def own(self, depth: int) -> None:
        """Copies the stages from `depth` up to those that are private already, before they move."""
        stages = range(depth, self.depth)
        modules = [m for stage in stages for m in self.backbone.stage_modules(stage)]
        for module in dict.fromkeys(part for owner in modules for part in owner.modules()):
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
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
