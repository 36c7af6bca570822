"""Stands in for CUDA graphs where there is no GPU: what torch computes inside `graph` is written down, operator by
operator, and computed again into the same memory at each replay.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ADDS_UP = torch.ops.aten._foreach_add_.List


class CUDAGraph(TorchDispatchMode):
    """The operators of a capture, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A GPU computes nothing while it records, so that what adds to memory from before must not either.
        result = None if func is ADDS_UP else func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Computes everything again from what its inputs hold now."""
        with torch.no_grad():
            for func, args, kwargs, result in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


class Recorder:
    """What `torch.cuda` is asked for while passes are recorded."""

    NAMES = (
        "CUDAGraph", "Stream", "current_stream", "device", "get_rng_state", "graph", "graph_pool_handle",
        "set_rng_state", "stream",
    )  # fmt: skip
    CUDAGraph = CUDAGraph

    def graph(self, graph: CUDAGraph, **_: Any) -> CUDAGraph:
        return graph

    def Stream(self, device: Any = None) -> Recorder:
        return self

    def current_stream(self) -> Recorder:
        return self

    def wait_stream(self, other: Recorder) -> None:
        assert other is self

    def stream(self, stream: Recorder) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    device = stream

    def graph_pool_handle(self) -> int:
        return 0

    def get_rng_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)
