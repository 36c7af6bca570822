"""Linear layers with what follows them in one operator: GELU, or the sum with the layer's input.

For passes in bf16 without a gradient on a CPU, where a separate GELU costs a seventh of what the product
before it does: the states of a feed-forward layer do not fit a core's cache (docs/experiments.md). oneDNN
does it on its way out of the product, and rounds once instead of twice. Knows modules, not stages.

Shapes: B texts, L tokens, D and E widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

# What torch's own compiler makes of such pairs on a CPU.
_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def fuse(model: nn.Module) -> None:
    """Gives feed-forward and output modules of BERT's family a `forward` that may take the fused operators.

    Modules are known by the names and kinds of their children, which these families share. Parameters, names
    and modes stay; passes with a gradient, in float32 or on other devices stay to the bit.
    """
    if _LINEAR is None or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for module in cast(Iterator[Any], model.modules()):
        names = {name for name, _ in module.named_children()}
        if names == {"dense", "intermediate_act_fn"} and _is_gelu(module.intermediate_act_fn):
            module.forward = MethodType(_activated, module)
        elif names == {"dense", "LayerNorm", "dropout"}:
            module.forward = MethodType(_added, module)
        elif names == {"dropout", "lin1", "lin2", "activation"} and _is_gelu(module.activation):
            module.ff_chunk = MethodType(_fed, module)


def _activated(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, L, E) from (B, L, D)."""
    if not _can_fuse(self.dense, hidden_states):
        activated: torch.Tensor = self.intermediate_act_fn(self.dense(hidden_states))
        return activated
    return _gelu_of(self.dense, hidden_states)


def _added(self: Any, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
    """(B, L, D) from (B, L, E) and what is added, (B, L, D)."""
    is_dropping = self.dropout.training and self.dropout.p > 0
    if is_dropping or input_tensor.dtype != torch.bfloat16 or not _can_fuse(self.dense, hidden_states):
        total = self.dropout(self.dense(hidden_states)) + input_tensor
    else:
        weights = self.dense.weight, self.dense.bias
        total = _LINEAR.binary(hidden_states, input_tensor, *weights, "add")
    normalized: torch.Tensor = self.LayerNorm(total)
    return normalized


def _fed(self: Any, input: torch.Tensor) -> torch.Tensor:
    """(B, L, D) from the same: the feed-forward part of DistilBERT."""
    is_fused = _can_fuse(self.lin1, input)
    wide_BLE = _gelu_of(self.lin1, input) if is_fused else self.activation(self.lin1(input))
    fed: torch.Tensor = self.dropout(self.lin2(wide_BLE))
    return fed


def _gelu_of(linear: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    fused: torch.Tensor = _LINEAR(states, linear.weight, linear.bias, "gelu", [], "none")
    return fused


def _can_fuse(linear: nn.Linear, states: torch.Tensor) -> bool:
    """Whether a product is in bf16, on a CPU, and for no gradient."""
    return (
        type(linear) is nn.Linear
        and states.dtype == linear.weight.dtype == torch.bfloat16
        and states.device.type == "cpu"
        and not torch.is_grad_enabled()
    )


def _is_gelu(activation: nn.Module) -> bool:
    """Whether it is GELU by the error function, and not one of its approximations."""
    return getattr(activation, "act", None) is F.gelu or (
        type(activation) is nn.GELU and activation.approximate == "none"
    )
