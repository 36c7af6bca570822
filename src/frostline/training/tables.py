"""Gradients of large embedding tables on a CPU: gathered by row, and given to the optimizer in one buffer.

torch makes a dense gradient of a whole table for every backward pass, in fresh memory whose pages the system
has to clear, for the rows that a batch reads: a twentieth of a step of all layers (docs/experiments.md).
Knows tables and their rows, no texts.

Shapes: V rows of a table, D width, U rows that a step reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

# A vocabulary has ten million; tables of places and types have too few to be worth it.
_FEWEST_NUMBERS = 2**20


class EmbeddingGradients:
    """The gradients of a model's large tables; the numbers are those of torch, up to the order of a sum.

    Not for several processes, whose sum has rows of them all.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tables = [
            module
            for module in model.modules()
            if isinstance(module, nn.Embedding) and module.weight.numel() >= _FEWEST_NUMBERS
        ]
        self._kept: dict[nn.Embedding, tuple[torch.Tensor, torch.Tensor]] = {}

    @contextmanager
    def by_row(self) -> Iterator[None]:
        """Backward passes in the block add up the rows that they met.

        At its end each table that learns has its dense gradient (V, D), which lasts until the next block.
        """
        tables = [table for table in self._tables if _learns(table)]
        self._kept = {table: kept for table, kept in self._kept.items() if table in tables}
        with ExitStack() as stack:
            for table in tables:
                table.sparse = True
                stack.callback(setattr, table, "sparse", False)
                hook = table.weight.register_post_accumulate_grad_hook(_without_repeats)  # type: ignore[no-untyped-call]
                stack.callback(hook.remove)
            yield
        for table in tables:
            grad = table.weight.grad
            if grad is not None and grad.is_sparse:  # dense where the weight itself was read too
                table.weight.grad = self._dense(table, grad.coalesce())

    def _dense(self, table: nn.Embedding, grad_VD: torch.Tensor) -> torch.Tensor:
        """The buffer of a table with the rows of a gradient, all others zero."""
        rows_U = grad_VD.indices()[0]
        if table not in self._kept:
            self._kept[table] = torch.zeros_like(table.weight), rows_U
        buffer_VD, earlier_U = self._kept[table]
        buffer_VD[earlier_U] = 0
        buffer_VD[rows_U] = grad_VD.values()
        self._kept[table] = buffer_VD, rows_U
        return buffer_VD


def _learns(table: nn.Embedding) -> bool:
    return table.weight.requires_grad and table.weight.device.type == "cpu"


def _without_repeats(weight: torch.Tensor) -> None:
    """Adds up rows that were met several times before they take more memory than the table."""
    if weight.grad is not None and weight.grad.is_sparse and weight.grad._nnz() > len(weight):
        weight.grad = weight.grad.coalesce()
