"""Dropout on a CPU with masks drawn by NumPy: torch 2.13 draws one number at a time on one core
(docs/experiments.md).

torch's generator gives a seed for each mask, and NumPy's SFC64 (Doty-Humphrey, PractRand) the random bits:
the same seed, the same masks.
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
        if not self.training or input.device.type != "cpu" or not can_drop(self.p):
            return super().forward(input)
        return dropped(input, self.p)


def can_drop(probability: float) -> bool:
    """Whether the probability is neither 0 nor 1 when rounded."""
    return 0 < _threshold(probability) < _LEVELS


def drops_nothing(probability: float) -> bool:
    """Whether the probability is 0 when rounded."""
    return _threshold(probability) == 0


def dropped(input: torch.Tensor, probability: float) -> torch.Tensor:
    """The input with elements dropped, the others scaled so that the mean stays."""
    return input * _mask(input.shape, _threshold(probability), input.dtype)


def _mask(shape: torch.Size, threshold: int, dtype: torch.dtype) -> torch.Tensor:
    """0 with a probability of threshold / 65,536, else the scale."""
    seed = int(torch.randint(2**63 - 1, ()))
    size = shape.numel()
    bits = np.random.SFC64(seed).random_raw(-(-size // 4)).view(np.uint16)[:size]
    scale = torch.tensor(_LEVELS / (_LEVELS - threshold), dtype=dtype)
    # By the bytes of numbers: torch takes ten times as long to make numbers of booleans.
    whole = scale.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).numpy()
    return torch.from_numpy((bits >= threshold) * whole).view(dtype).view(shape)


def _threshold(probability: float) -> int:
    return round(probability * _LEVELS)
