"""Linear layers with what follows them in one operator: GELU, the sum with the layer's input, or the bias of
queries, keys and values; and one conversion to bf16 of what these are made of, instead of three.

Operators are fused for products in bf16 without a gradient on a CPU, where a separate GELU costs a quarter of
what the product before it does: the states of a feed-forward layer do not fit a core's cache
(docs/experiments.md). oneDNN does it on its way out of the product, and rounds once instead of twice. Knows
modules and packings, not stages.

Shapes: B texts, L tokens, D and E widths; S, G, H, P and K see `packing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from frostline.model.cpu import attend_in_grid
from frostline.model.packing import Packing

# What torch's own compiler makes of such pairs on a CPU.
_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_HAS_BF16: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
_PROJECTIONS = ("query", "key", "value"), ("q_lin", "k_lin", "v_lin")


def can_fuse() -> bool:
    """Whether this build of torch has the operators, and this processor what they need for bf16."""
    return _LINEAR is not None and _HAS_BF16 is not None and bool(_HAS_BF16())


def fuse(model: nn.Module) -> None:
    """Gives modules of BERT's family a `forward` that may take fewer and larger operators: feed-forward and
    output modules, attention, and the linear layers of its queries, keys and values. Attention modules get a
    hook that converts what they are given to bf16 once.

    Modules are known by the names and kinds of their children, which these families share. Parameters, names
    and modes stay; passes in float32 or on other devices stay to the bit, and those with a gradient but for
    the sum of three gradients.
    """
    if not can_fuse():
        return
    for module in cast(Iterator[Any], model.modules()):
        names = {name for name, _ in module.named_children()}
        forward = _forward_of(module, names)
        if forward is not None:
            module.forward = partial(forward, module)
        elif names == {"dropout", "lin1", "lin2", "activation"} and _is_gelu(module.activation):
            module.ff_chunk = partial(_feed, module)
        for projections in (three for three in _PROJECTIONS if names.issuperset(three)):
            for linear in (module.get_submodule(name) for name in projections):
                if type(linear) is nn.Linear:  # others have a forward of their own
                    cast(Any, linear).forward = partial(_project, linear)
            if _convert not in module._forward_pre_hooks.values():  # a copy brings its own
                module.register_forward_pre_hook(_convert)


def _forward_of(module: Any, names: set[str]) -> Callable[..., Any] | None:
    """What takes the place of a module's `forward`, by the names of its children."""
    if names == {"dense", "intermediate_act_fn"}:
        return _widen if _is_gelu(module.intermediate_act_fn) else None
    if names == {"dense", "LayerNorm", "dropout"}:
        return _add
    return _attend if names == {*_PROJECTIONS[0], "dropout"} else None


def _attend(
    attention: Any, hidden_states: torch.Tensor, *given: Any, **more: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention (1, S, D) of texts without padding, the bits that the module itself gives; with a gradient,
    in training or with padding it is asked itself.

    What is made on the way is freed at once, so that caches hold more of the rest, and threads that compute a
    batch each spend less time in the interpreter that they share. Where there is a packing, `can_pack` has
    ruled out decoders and other formulas.
    """
    packing: Packing | None = more.get("packing")
    if packing is None or attention.training or not _is_fast(attention.query, hidden_states):
        itself = type(attention).forward(attention, hidden_states, *given, **more)
        return cast(tuple[torch.Tensor, torch.Tensor | None], itself)
    grid, size = packing.grid, (-1, attention.num_attention_heads, attention.attention_head_size)

    def project(linear: nn.Module) -> torch.Tensor:
        return grid.spread(linear(hidden_states).view(size))

    out_GHPK = attend_in_grid(
        attention,
        project(attention.query),
        project(attention.key),
        project(attention.value),
        grid=grid,
        dropout=0.0,
        scaling=attention.scaling,
    )
    return grid.collect(out_GHPK).flatten(1)[None], None


def _project(linear: Any, input: torch.Tensor) -> torch.Tensor:
    """(B, L, D) from the same; the operator adds the bias, which torch copies to every row first."""
    if not _is_fast(linear, input):
        return F.linear(input, linear.weight, linear.bias)
    return cast(torch.Tensor, _LINEAR(input.bfloat16(), *_bf16(linear), "none", [], ""))


def _widen(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, L, E) from (B, L, D)."""
    return _gelu_of(module.dense, hidden_states, module.intermediate_act_fn)


def _add(module: Any, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
    """(B, L, D) from (B, L, E) and what is added, (B, L, D)."""
    is_dropping = module.dropout.training and module.dropout.p > 0
    is_bf16 = hidden_states.dtype == input_tensor.dtype == torch.bfloat16
    if is_bf16 and not is_dropping and _is_fast(module.dense, hidden_states):
        total = _LINEAR.binary(hidden_states, input_tensor, *_bf16(module.dense), "add")
    else:  # a sum in float32, as where norms are not in bf16, is not rounded
        total = module.dropout(module.dense(hidden_states)) + input_tensor
    return cast(torch.Tensor, module.LayerNorm(total))


def _feed(module: Any, input: torch.Tensor) -> torch.Tensor:
    """(B, L, D) from the same: the feed-forward part of DistilBERT."""
    wide_BLE = _gelu_of(module.lin1, input, module.activation)
    return cast(torch.Tensor, module.dropout(module.lin2(wide_BLE)))


def _gelu_of(linear: nn.Linear, hidden_BLD: torch.Tensor, gelu: nn.Module) -> torch.Tensor:
    """(B, L, E)."""
    if not _is_fast(linear, hidden_BLD):
        return cast(torch.Tensor, gelu(linear(hidden_BLD)))
    return cast(torch.Tensor, _LINEAR(hidden_BLD.bfloat16(), *_bf16(linear), "gelu", [], "none"))


def _convert(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The same arguments, hidden states in bf16 where autocast on a CPU would make them so, three times.

    Their gradient is summed in bf16 too.
    """
    is_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return (given[0].bfloat16(), *given[1:]) if is_bf16 else given


def _bf16(linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias."""
    return linear.weight.bfloat16(), None if linear.bias is None else linear.bias.bfloat16()


def _is_fast(linear: nn.Linear, hidden: torch.Tensor) -> bool:
    """Whether the product would be in bf16, by its numbers or by autocast, on a CPU and for no gradient."""
    if torch.is_grad_enabled() or hidden.device.type != "cpu" or type(linear) is not nn.Linear:
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return hidden.dtype == linear.weight.dtype == torch.bfloat16


def _is_gelu(activation: nn.Module) -> bool:
    """Whether it is GELU by the error function, and not one of its approximations."""
    return getattr(activation, "act", None) is F.gelu or (
        type(activation) is nn.GELU and activation.approximate == "none"
    )
