"""Dropout whose masks are drawn fast on a CPU.

torch 2.13 draws them there one number at a time on one core, a sixth of a training step of two layers
(docs/experiments.md). Here torch's generator gives a seed for each mask, and NumPy's SFC64 (Doty-Humphrey,
PractRand) the random bits: the same seed of a step gives the same masks, as before.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_LEVELS = 2**16


class FastDropout(nn.Dropout):
    """`torch.nn.Dropout`; on a CPU the probability is rounded to 1/65,536, and what stays scaled by that."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The input with elements dropped in training mode, of the same shape and type."""
        threshold = round(self.p * _LEVELS)
        if not self.training or input.device.type != "cpu" or not 0 < threshold < _LEVELS:
            return super().forward(input)
        mask = _is_kept(input.shape, threshold).to(input.dtype).mul_(_LEVELS / (_LEVELS - threshold))
        return input * mask


def _is_kept(shape: torch.Size, threshold: int) -> torch.Tensor:
    """Booleans, True with a probability of 1 − threshold / 65,536."""
    seed = int(torch.randint(2**63 - 1, ()))
    size = shape.numel()
    bits = np.random.SFC64(seed).random_raw(-(-size // 4)).view(np.uint16)[:size]
    return torch.from_numpy(bits >= threshold).view(shape)


def draw_masks_fast(module: nn.Module) -> None:
    """Replaces every `torch.nn.Dropout` in a module; parameters, names and modes stay."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))
