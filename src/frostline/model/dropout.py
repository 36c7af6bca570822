"""Dropout on a CPU, quicker than torch 2.13 draws it: one number at a time on one core (docs/experiments.md).

The numbers of a mask are those of three stretches of one table of random numbers, combined by exclusive or;
where they begin is drawn from torch's generator: the same seed, the same masks, with any number of threads.
The table is drawn by NumPy's SFC64 (Doty-Humphrey, PractRand).

Shapes: N numbers of a mask.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

_LEVELS = 2**15
_TABLE_SIZE = 2**22
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class FastDropout(nn.Dropout):
    """`torch.nn.Dropout`; on a CPU the probability is rounded to 1/32,768, and what stays scaled by that."""

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
    """0 with a probability of threshold / 32,768, else the scale."""
    number_N = torch.empty(shape.numel(), dtype=torch.int16)
    for part in number_N.split(_TABLE_SIZE // 2):  # type: ignore[no-untyped-call]
        _draw(part)
    # All bits where a random number from 0 to 32,767 is at least the threshold, else none.
    kept_N = number_N.add_(threshold).bitwise_right_shift_(15)
    scale = torch.tensor(_LEVELS / (_LEVELS - threshold), dtype=dtype)
    whole = _INTEGERS[dtype.itemsize]
    return kept_N.to(whole).bitwise_and_(scale.view(whole)).view(dtype).view(shape)


def _draw(number_N: torch.Tensor) -> None:
    """Fills in random numbers r from 0 to 32,767, each as −1 − r; at most as many as the table has."""
    starts = torch.randint(_TABLE_SIZE - len(number_N) + 1, (3,)).tolist()
    first_N, second_N, third_N = (_table()[start : start + len(number_N)] for start in starts)
    torch.bitwise_xor(first_N, second_N, out=number_N).bitwise_xor_(third_N)


@cache
def _table() -> torch.Tensor:
    """Negative numbers; three of them combined are negative again."""
    numbers = np.random.SFC64(0).random_raw(_TABLE_SIZE // 4).view(np.int16)
    return torch.from_numpy(numbers | np.int16(-(2**15)))


def _threshold(probability: float) -> int:
    return round(probability * _LEVELS)
