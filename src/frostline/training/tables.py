"""Gradients of large embedding tables on a CPU: gathered by row, and given to the optimizer in one buffer.

torch makes a dense gradient of a whole table for every backward pass, in fresh memory whose pages the system
has to clear, for the few hundred rows of a batch: a twentieth of a step of all layers (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_LARGE = 2**20


class EmbeddingGradients:
    """The gradients of a model's large tables; the numbers are those of torch, up to the order of a sum.

    Not for several processes, whose sum has rows of them all.
    """

    def __init__(self, model: nn.Module, *, is_on: bool = True) -> None:
        self._tables = [
            module
            for module in model.modules()
            if is_on and isinstance(module, nn.Embedding) and module.weight.numel() >= _LARGE
        ]
        self._kept: dict[nn.Embedding, tuple[torch.Tensor, torch.Tensor]] = {}

    @contextmanager
    def by_row(self) -> Iterator[None]:
        """Backward passes in the block add up the rows that they met.

        At its end each table that learns has its dense gradient, which lasts until the next block.
        """
        tables = [one for one in self._tables if one.weight.requires_grad and one.weight.device.type == "cpu"]
        for table in tables:
            table.sparse = True
        try:
            yield
        finally:
            for table in tables:
                table.sparse = False
        for table in tables:
            if table.weight.grad is not None:
                table.weight.grad = self._dense(table, table.weight.grad.coalesce())

    def _dense(self, table: nn.Embedding, grad: torch.Tensor) -> torch.Tensor:
        """The buffer of a table with the rows of a gradient, all others zero."""
        rows = grad.indices()[0]
        if table not in self._kept:
            self._kept[table] = torch.zeros_like(table.weight), rows
        buffer, last = self._kept[table]
        buffer[last] = 0
        buffer[rows] = grad.values()
        self._kept[table] = buffer, rows
        return buffer
