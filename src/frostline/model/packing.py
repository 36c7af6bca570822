"""The texts of a padded batch one after the other, without the padding: how a GPU runs stages that do not
learn.

Attention then takes the kernel for texts of different lengths (torch's `varlen_attn`), which needs no mask.

Shapes: B texts, L tokens of the longest, T tokens of all texts, H attention heads, K width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a padded batch are.

    Attributes:
        place_T: of each token in the batch, row after row.
        start_B1: int32, where each text starts among the tokens, and at the end T.
        num_texts: B.
        length: L.
    """

    place_T: torch.Tensor
    start_B1: torch.Tensor
    num_texts: int
    length: int

    @classmethod
    def of(cls, mask_BL: torch.Tensor) -> Packing:
        """That of a mask: 1 token, 0 padding at a text's end."""
        start_B1 = F.pad(mask_BL.sum(1).cumsum(0), (1, 0)).int()
        return cls(mask_BL.flatten().nonzero()[:, 0], start_B1, *mask_BL.shape)

    @property
    def position_T(self) -> torch.Tensor:
        """Place of each token in its text, from 0."""
        return self.place_T % self.length

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """(1, T, …) from (B, L, …)."""
        return states.flatten(0, 1)[self.place_T][None]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(B, L, D) from (1, T, D), zero where no token is."""
        size = (self.num_texts * self.length, packed.shape[-1])
        states = packed.new_zeros(size).index_copy_(0, self.place_T, packed[0])
        return states.view(self.num_texts, self.length, -1)


def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    start_B1: torch.Tensor,
    longest: int,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of each token to those of its own text.

    Args:
        query, key, value: (1, H, T, K) each; on a GPU bf16 or fp16.
        start_B1: see `Packing`.
        longest: at least the tokens of the longest text.
        scaling: of the products; None: K ** -0.5.

    Returns:
        (1, T, H, K).
    """
    if query.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        usual = query.shape[-1] ** -0.5  # the only one that torch 2.10 knows
        if scaling is not None and not math.isclose(scaling, usual):
            query = query * (scaling / usual)
        query_THK, key_THK, value_THK = (one[0].transpose(0, 1) for one in (query, key, value))
        out_THK = varlen_attn(query_THK, key_THK, value_THK, start_B1, start_B1, longest, longest)
        return cast(torch.Tensor, out_THK)[None]
    # Elsewhere by a mask of T x T: right, and slow.
    text_T = torch.repeat_interleave(start_B1.diff())
    mask_TT = text_T[:, None] == text_T
    return F.scaled_dot_product_attention(query, key, value, mask_TT, scale=scaling).transpose(1, 2)


def can_pack(model: PreTrainedModel, *, device: torch.device) -> bool:
    """Whether a pass of now can leave the padding out: on a GPU, in half precision, without gradient and
    dropout.
    """
    if device.type != "cuda" or torch.is_grad_enabled() or any(part.training for part in model.modules()):
        return False
    is_cast = torch.is_autocast_enabled("cuda")
    numbers = torch.get_autocast_dtype("cuda") if is_cast else model.dtype
    width = model.config.hidden_size // model.config.num_attention_heads
    return numbers in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256
