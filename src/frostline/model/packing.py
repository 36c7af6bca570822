"""The texts of a padded batch one after the other, without the padding.

A GPU runs stages that do not learn so, in half precision; attention takes the kernel for texts of different
lengths (torch's `varlen_attn`), which needs no mask. A CPU whose products are in bf16 runs all stages so:
oneDNN makes code for every shape of a product that it meets, on one core and for as long as a small product
takes, and here there are few shapes (docs/experiments.md). A packing belongs to one pass in one thread. Knows
masks and models, not stages.

Shapes: B texts, L tokens of the longest, T tokens of all, D width, H attention heads, K width of a head; S
rows that are computed: the tokens and, on a CPU, spare ones; G texts and P places of a grid; N whatever was
flattened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

ATTENTION = "frostline"
"""Name by which transformers finds the attention that `attend_packed` is a part of."""

# Rows are a multiple of this on a CPU; from 1,024 on, one of eight numbers up to each doubling.
_FEWEST_ROWS = 64
# Places of a grid are a multiple of the first, its texts of the largest power of two (or 1) whose places are
# at most the second.
_PLACES_STEP, _TOKENS_STEP = 4, 256


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where the tokens of a padded batch are, and in what order they are computed.

    Attributes:
        place_S: of each row in the batch; a spare row repeats a token.
        num_tokens: T; the rows from there on are spare.
        start_B1: int32, where each text starts among the tokens, and at the end T.
        num_texts: B.
        num_places: L.
    """

    place_S: torch.Tensor
    num_tokens: int
    start_B1: torch.Tensor
    num_texts: int
    num_places: int

    @classmethod
    def of(cls, mask_BL: torch.Tensor) -> Packing:
        """That of a mask: 1 token, 0 padding at a text's end."""
        num_texts, num_places = mask_BL.shape
        place_T = mask_BL.flatten().nonzero()[:, 0]
        num_tokens = len(place_T)
        num_spare = 0
        if mask_BL.device.type == "cpu":
            num_spare = _num_rows(num_tokens, is_full=num_tokens == mask_BL.numel()) - num_tokens
        return cls(
            place_S=F.pad(place_T, (0, num_spare)),
            num_tokens=num_tokens,
            start_B1=F.pad(mask_BL.sum(1).cumsum(0), (1, 0)).int(),
            num_texts=num_texts,
            num_places=num_places,
        )

    @property
    def position_1S(self) -> torch.Tensor:
        """Place of each row in its text, from 0."""
        return (self.place_S % self.num_places)[None]

    @cached_property
    def grid(self) -> Grid:
        """Where attention on a CPU finds the rows."""
        return Grid.of(self)

    def pack(self, state_BL: torch.Tensor) -> torch.Tensor:
        """(1, S, …) from (B, L, …)."""
        return state_BL.flatten(0, 1).index_select(0, self.place_S)[None]

    def unpack(self, state_1SD: torch.Tensor) -> torch.Tensor:
        """(B, L, D) from (1, S, D), zero where no token is."""
        size = (self.num_texts * self.num_places, state_1SD.shape[-1])
        tokens = slice(self.num_tokens)
        state_ND = state_1SD.new_zeros(size).index_copy_(0, self.place_S[tokens], state_1SD[0, tokens])
        return state_ND.view(self.num_texts, self.num_places, -1)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The texts of a packing side by side again, for products by text: G texts of P places, few shapes.

    Spare rows and places without a token stand for each other: what is read there is some number, and its
    gradient is zero.

    Attributes:
        row_GP: of each place.
        cell_S: where each row is, counted through G x P.
        mask_GP: True where a token is; None: everywhere.
    """

    row_GP: torch.Tensor
    cell_S: torch.Tensor
    mask_GP: torch.Tensor | None
    _found: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # indices by number of heads

    @classmethod
    def of(cls, packing: Packing) -> Grid:
        """That of a packing."""
        num_rows, num_tokens = len(packing.place_S), packing.num_tokens
        if num_rows == num_tokens:
            row_GP = torch.arange(num_rows).view(packing.num_texts, packing.num_places)
            return cls(row_GP=row_GP, cell_S=packing.place_S, mask_GP=None)
        text_T = packing.place_S[:num_tokens] // packing.num_places
        position_T = packing.place_S[:num_tokens] % packing.num_places
        num_places = _up(packing.num_places, _PLACES_STEP)
        abreast = 2 ** max(0, (_TOKENS_STEP // num_places).bit_length() - 1)
        num_texts = _up(packing.num_texts, abreast)
        if num_texts * num_places == num_tokens:  # spare rows need a cell without a token
            num_places += _PLACES_STEP
        cell_T = text_T * num_places + position_T
        row_N = torch.full((num_texts * num_places,), num_tokens).index_copy_(
            0, cell_T, torch.arange(num_tokens)
        )
        free = int((row_N == num_tokens).nonzero()[0, 0])
        row_GP = row_N.view(num_texts, num_places)
        cell_S = F.pad(cell_T, (0, num_rows - num_tokens), value=free)
        return cls(row_GP=row_GP, cell_S=cell_S, mask_GP=row_GP < num_tokens)

    def spread(self, row_SHK: torch.Tensor) -> torch.Tensor:
        """(G, H, P, K) from rows."""
        num_heads, width = row_SHK.shape[1:]
        there, back = self._indices(num_heads)
        spread_NK = _reorder(row_SHK.reshape(-1, width), there, back)
        return spread_NK.view(len(self.row_GP), num_heads, -1, width)

    def collect(self, state_GHPK: torch.Tensor) -> torch.Tensor:
        """Rows (S, H, K)."""
        num_heads, width = state_GHPK.shape[1], state_GHPK.shape[3]
        there, back = self._indices(num_heads)
        row_NK = _reorder(state_GHPK.reshape(-1, width), back, there)
        return row_NK.view(-1, num_heads, width)

    def _indices(self, num_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of every place and head the row and head, and the other way round."""
        if num_heads not in self._found:
            head_H = torch.arange(num_heads)
            num_places = self.row_GP.shape[1]
            there_GHP = self.row_GP[:, None, :] * num_heads + head_H[:, None]
            text_S, position_S = self.cell_S // num_places, self.cell_S % num_places
            back_SH = (text_S[:, None] * num_heads + head_H) * num_places + position_S[:, None]
            self._found[num_heads] = there_GHP.flatten(), back_SH.flatten()
        return self._found[num_heads]


def _reorder(rows: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Rows in another order; without a gradient by one operator, since a function of autograd takes time."""
    if not rows.requires_grad:
        return rows.index_select(0, there)
    return cast(torch.Tensor, _Reordered.apply(rows, there, back))  # type: ignore[no-untyped-call]


class _Reordered(torch.autograd.Function):
    """Rows of numbers in another order, whose gradient is in the order before."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.back = back
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grad.index_select(0, ctx.back), None, None


def attend_packed(
    query_1HTK: torch.Tensor,
    *,
    key_1HTK: torch.Tensor,
    value_1HTK: torch.Tensor,
    packing: Packing,
    scaling: float | None,
) -> torch.Tensor:
    """Attention (1, T, H, K) of each token to those of its own text, on a GPU.

    Args:
        query_1HTK: bf16 or fp16, as the others.
        key_1HTK: of the same tokens.
        value_1HTK: of the same tokens.
        packing: of the tokens.
        scaling: of the products; None: K ** -0.5.
    """
    from torch.nn.attention.varlen import varlen_attn

    usual = query_1HTK.shape[-1] ** -0.5  # the only one that torch 2.10 knows
    if scaling is not None and not math.isclose(scaling, usual):
        query_1HTK = query_1HTK * (scaling / usual)
    query_THK, key_THK, value_THK = (x[0].transpose(0, 1) for x in (query_1HTK, key_1HTK, value_1HTK))
    start_B1, most = packing.start_B1, packing.num_places
    out_THK = varlen_attn(query_THK, key_THK, value_THK, start_B1, start_B1, most, most)
    return cast(torch.Tensor, out_THK)[None]


def can_pack(model: PreTrainedModel, *, device: torch.device) -> bool:
    """Whether a pass of now can leave the padding out, by the attention of this package: on a CPU whose
    products are in bf16, and on a GPU that has the kernel, in half precision, with neither gradient nor
    dropout.
    """
    config = model.config
    if config._attn_implementation != ATTENTION or getattr(config, "is_decoder", False):
        return False
    numbers = model.dtype
    if torch.is_autocast_enabled(device.type):
        numbers = torch.get_autocast_dtype(device.type)
    if device.type == "cpu":
        return numbers == torch.bfloat16
    if device.type != "cuda" or torch.is_grad_enabled() or any(part.training for part in model.modules()):
        return False
    width = config.hidden_size // config.num_attention_heads
    is_known = numbers in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256
    return is_known and has_kernel(device)


@cache
def has_kernel(device: torch.device) -> bool:
    """Whether this torch and this GPU have attention for texts of different lengths: from Ampere on."""
    is_built = torch.backends.cuda.is_flash_attention_available()
    return is_built and torch.cuda.get_device_capability(device) >= (8, 0)


def _num_rows(num_tokens: int, *, is_full: bool) -> int:
    """How many rows are computed for some tokens; one more than those at least, unless no place is empty."""
    step = max(_FEWEST_ROWS, 2 ** (num_tokens.bit_length() - 4))
    if is_full and num_tokens % step == 0:
        return num_tokens
    return _up(num_tokens + 1, step)


def _up(number: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-number // step) * step
