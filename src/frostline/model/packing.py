"""The texts of a padded batch one after the other, without the padding: how a GPU runs stages that do not
learn.

Attention then takes the kernel for texts of different lengths (torch's `varlen_attn`), which needs no mask.
Knows masks and models, not stages.

Shapes: B texts, L tokens of the longest, T tokens of all, D width, H attention heads, K width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

ATTENTION = "frostline"
"""Name by which transformers finds the attention that `attend_packed` is a part of."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where the tokens of a padded batch are.

    Attributes:
        place_T: of each token in the batch, row after row.
        start_B1: int32, where each text starts among the tokens, and at the end T.
        num_texts: B.
        num_places: L.
    """

    place_T: torch.Tensor
    start_B1: torch.Tensor
    num_texts: int
    num_places: int

    @classmethod
    def of(cls, mask_BL: torch.Tensor) -> Packing:
        """That of a mask: 1 token, 0 padding at a text's end."""
        num_texts, num_places = mask_BL.shape
        return cls(
            place_T=mask_BL.flatten().nonzero()[:, 0],
            start_B1=F.pad(mask_BL.sum(1).cumsum(0), (1, 0)).int(),
            num_texts=num_texts,
            num_places=num_places,
        )

    @property
    def position_1T(self) -> torch.Tensor:
        """Place of each token in its text, from 0."""
        return (self.place_T % self.num_places)[None]

    def pack(self, state_BL: torch.Tensor) -> torch.Tensor:
        """(1, T, …) from (B, L, …)."""
        return state_BL.flatten(0, 1)[self.place_T][None]

    def unpack(self, state_1TD: torch.Tensor) -> torch.Tensor:
        """(B, L, D) from (1, T, D), zero where no token is."""
        size = (self.num_texts * self.num_places, state_1TD.shape[-1])
        state_PD = state_1TD.new_zeros(size).index_copy_(0, self.place_T, state_1TD[0])
        return state_PD.view(self.num_texts, self.num_places, -1)


def attend_packed(
    query_1HTK: torch.Tensor,
    *,
    key_1HTK: torch.Tensor,
    value_1HTK: torch.Tensor,
    start_B1: torch.Tensor,
    most_tokens: int,
    scaling: float | None,
) -> torch.Tensor:
    """Attention (1, T, H, K) of each token to those of its own text.

    Args:
        query_1HTK: on a GPU bf16 or fp16, as the others.
        key_1HTK: of the same tokens.
        value_1HTK: of the same tokens.
        start_B1: see `Packing`.
        most_tokens: at least those of the longest text.
        scaling: of the products; None: K ** -0.5.
    """
    if query_1HTK.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        usual = query_1HTK.shape[-1] ** -0.5  # the only one that torch 2.10 knows
        if scaling is not None and not math.isclose(scaling, usual):
            query_1HTK = query_1HTK * (scaling / usual)
        query_THK, key_THK, value_THK = (x[0].transpose(0, 1) for x in (query_1HTK, key_1HTK, value_1HTK))
        out_THK = varlen_attn(query_THK, key_THK, value_THK, start_B1, start_B1, most_tokens, most_tokens)
        return cast(torch.Tensor, out_THK)[None]
    # Elsewhere by a mask of T x T: right, and slow.
    text_T = torch.repeat_interleave(start_B1.diff())
    mask_TT = text_T[:, None] == text_T
    out_1HTK = F.scaled_dot_product_attention(query_1HTK, key_1HTK, value_1HTK, mask_TT, scale=scaling)
    return out_1HTK.transpose(1, 2)


def can_pack(model: PreTrainedModel, *, device: torch.device) -> bool:
    """Whether a pass of now can leave the padding out: on a GPU that has the kernel, in half precision, with
    neither gradient nor dropout, by the attention of this package.
    """
    if device.type != "cuda" or torch.is_grad_enabled() or any(part.training for part in model.modules()):
        return False
    config = model.config
    if config._attn_implementation != ATTENTION or getattr(config, "is_decoder", False):
        return False
    is_cast = torch.is_autocast_enabled("cuda")
    numbers = torch.get_autocast_dtype("cuda") if is_cast else model.dtype
    width = config.hidden_size // config.num_attention_heads
    is_known = numbers in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256
    return is_known and has_kernel(device)


@cache
def has_kernel(device: torch.device) -> bool:
    """Whether this torch and this GPU have attention for texts of different lengths: from Ampere on."""
    is_built = torch.backends.cuda.is_flash_attention_available()
    return is_built and torch.cuda.get_device_capability(device) >= (8, 0)
