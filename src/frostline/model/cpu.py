"""Puts `FastDropout`, and an attention that is fast on a CPU, in the place of torch's; the attention serves
every device, and is where texts without padding are told apart.

torch's attention computes in float32 where there is dropout, has a slow backward pass where there is none,
and is slow in bf16 altogether (docs/experiments.md). Knows no stages and no plans.

Shapes: B texts, H attention heads, L tokens, K width of an attention head; S, G and P see `packing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from frostline.model.dropout import FastDropout, can_drop, dropped, drops_nothing
from frostline.model.packing import ATTENTION, Grid, Packing, attend_packed

# Without dropout torch keeps no scores for the backward pass; here they are kept, L x L for each head.
_LONGEST_KEPT = 512
# Scores computed at once without a gradient: 2 MB in float32, which a core's cache holds.
_SCORES_AT_ONCE = 2**19
# torch's softmax takes no vector instructions for rows as short as a vector.
_NARROW = 16
# Longer rows than this are slower in float32 than in bf16 with a gradient, for the memory that they take.
_WIDE = 64


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as `sdpa` gives it; on a CPU by the plain formula with a gradient or in bf16, to rounding.

    With a gradient the scores (B, H, L, L) are kept in memory. Scores are rounded to the number format of the
    query, torch's not: in bf16 an embedding of MiniLM comes out 1.7e-5 from that in float32 (1 − cosine), by
    torch's attention 1.5e-5. A query that may read no key gets the mean of all values from the plain formula,
    and 0 from `sdpa`; no text is without a token.

    Args:
        module: that attends.
        query, key, value: (B, H, L, K) each; with a packing (1, H, S, K).
        attention_mask: True where a key is read, or numbers to add; spread over (B, H, L, L). None: read all.
        dropout: probability; 0 outside training.
        scaling: of the products; None: K ** -0.5.
        more: as `sdpa` takes them. With a `packing` the texts lie one after the other, and B is 1.

    Returns:
        (B, L, H, K) or (1, S, H, K), and no weights.
    """
    packing: Packing | None = more.pop("packing", None)
    if packing is None:
        out_BHLK = _attend_by_text(
            module, query, key, value, mask=attention_mask, dropout=dropout, scaling=scaling, more=more
        )
        return out_BHLK.transpose(1, 2).contiguous(), None
    if query.device.type == "cuda":
        return attend_packed(query, key_1HTK=key, value_1HTK=value, packing=packing, scaling=scaling), None
    grid = packing.grid
    query, key, value = (grid.spread(one.transpose(1, 2).squeeze(0)) for one in (query, key, value))
    out_GHPK = attend_in_grid(module, query, key, value, grid=grid, dropout=dropout, scaling=scaling)
    return grid.collect(out_GHPK)[None], None


def attend_in_grid(
    module: nn.Module,
    query_GHPK: torch.Tensor,
    key_GHPK: torch.Tensor,
    value_GHPK: torch.Tensor,
    *,
    grid: Grid,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Attention (G, H, P, K) of texts that lie side by side in a grid, on a CPU (see `attend`)."""
    mask_G11P = None if grid.mask_GP is None else grid.mask_GP[:, None, None]
    return _attend_by_text(
        module, query_GHPK, key_GHPK, value_GHPK, mask=mask_G11P, dropout=dropout, scaling=scaling, more={}
    )


def _attend_by_text(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    more: Mapping[str, Any],
) -> torch.Tensor:
    """(B, H, L, K): by the plain formula where that is what `sdpa` computes and faster, else by `sdpa`."""
    is_kept = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    is_bf16 = query.dtype == key.dtype == value.dtype == torch.bfloat16 and drops_nothing(dropout)
    is_spread = mask is None or mask.ndim == query.ndim
    is_plain = is_spread and _is_plain(module, query, key, value, dropout=dropout, more=more)
    if not (is_plain and (is_kept or is_bf16)):
        out_BLHK, _ = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, **more
        )
        return out_BLHK.transpose(1, 2)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if is_kept:
        return _with_gradient(query, key, value, mask=mask, dropout=dropout, scaling=scaling)
    return _in_parts(query, key, value, mask=mask, scaling=scaling)


def replace_slow_parts(module: nn.Module) -> None:
    """Replaces every `torch.nn.Dropout` in a module, and the attention of a model where that is `sdpa`.

    Parameters, names and modes stay; what is computed in float32 without a gradient stays to the bit.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))
    if not isinstance(module, PreTrainedModel) or not module._can_set_attn_implementation():
        return
    if module.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attend)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        module.set_attn_implementation(ATTENTION)


def _is_plain(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    dropout: float,
    more: Mapping[str, Any],
) -> bool:
    """Whether the plain formula is what `sdpa` computes, and is faster."""
    return (
        query.device.type == "cpu"
        and query.shape == key.shape == value.shape
        and not getattr(module, "is_causal", True)
        and not any(more.get(name) for name in ("is_causal", "softcap", "output_attentions"))
        and more.get("position_bias") is None
        and more.get("cache") is None
        and (can_drop(dropout) or (drops_nothing(dropout) and query.shape[2] <= _LONGEST_KEPT))
    )


def _with_gradient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """Attention (B, H, L, K), its weights kept for the backward pass."""
    # Softmax in bf16 takes single numbers for what is left of a row after each 32.
    numbers = torch.float32 if _NARROW < query.shape[2] <= _WIDE else query.dtype
    score_BHLL = _scores(query, key, mask, scaling=scaling, numbers=numbers)
    weight_BHLL = torch.softmax(score_BHLL, dim=-1).to(value.dtype)
    if can_drop(dropout):
        weight_BHLL = dropped(weight_BHLL, dropout)
    return torch.matmul(weight_BHLL, value.contiguous())


def _in_parts(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """Attention (B, H, L, K) without gradient, a few texts at a time, with the softmax in float32."""
    num_texts, num_heads, length, _ = query.shape
    at_once = max(1, _SCORES_AT_ONCE // (num_heads * length**2))
    parts = []
    for first in range(0, num_texts, at_once):
        part = slice(first, first + at_once)
        masked = mask if mask is None or len(mask) == 1 else mask[part]
        score_BHLL = _scores(query[part], key[part], masked, scaling=scaling, numbers=torch.float32)
        parts.append(torch.matmul(_softmax(score_BHLL).to(value.dtype), value[part].contiguous()))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _scores(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    numbers: torch.dtype,
) -> torch.Tensor:
    """Scaled and masked products (B, H, L, L) of queries and keys, in a number format."""
    # Contiguous first: matmul would copy a transposed key number by number.
    score_BHLL = torch.matmul(query.contiguous(), key.contiguous().transpose(2, 3))
    if mask is None:
        return score_BHLL.to(numbers) * scaling
    return torch.add(_to_add(mask, numbers), score_BHLL, alpha=scaling)


def _softmax(score: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension; may overwrite what it is given."""
    if score.shape[-1] > _NARROW:
        return torch.softmax(score, dim=-1)
    score -= score.amax(dim=-1, keepdim=True)
    score.exp_()
    return score.div_(score.sum(dim=-1, keepdim=True))


def _to_add(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as numbers; the smallest rather than −∞, so that a query that may read nothing gives no NaN."""
    smallest = torch.finfo(dtype).min
    if mask.dtype != torch.bool:
        return mask.clamp(min=smallest).to(dtype)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, smallest)
