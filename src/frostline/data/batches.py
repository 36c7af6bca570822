"""Texts tokenised once into ragged arrays, and batches cut by a budget of tokens.

The order of batches is a function of (seed, epoch) alone, so any place in an epoch can be found again.
Knows tokenizers, not models.

Shapes: B texts of a batch, L longest of them in tokens, N texts, T tokens of all texts; K lengths that texts
have, the longest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from frostline.data.labels import LabelsN
from frostline.data.opening import is_long, opening, splits_at_spaces
from frostline.data.table import IntN

_TOKENIZE_TEXTS = 4096
_POOL_BATCHES = 50
_MOST_PADDED = 1.25  # of the budget: attention goes by text, and its cost by the longest


@dataclass(frozen=True)
class Tokens:
    """N tokenised texts without padding.

    Attributes:
        ids_T: int32 token ids, one text after the other.
        offset_N1: where each text starts in `ids_T`, and at the end its length (N + 1 numbers).
    """

    ids_T: np.ndarray[Any, np.dtype[np.int32]]
    offset_N1: IntN

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.offset_N1) - 1

    @property
    def length_N(self) -> IntN:
        """Tokens of each text, special tokens included."""
        return np.diff(self.offset_N1)

    def take(self, rows: Sequence[int] | IntN) -> Tokens:
        """The given texts, in their order."""
        pieces = [self.ids_T[self.offset_N1[row] : self.offset_N1[row + 1]] for row in rows]
        return Tokens(np.concatenate(pieces) if pieces else self.ids_T[:0], offsets_of(self.length_N[rows]))


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. Nobody waits for the work that a GPU has to do before it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class TokenBatch:
    """A padded batch: int64 token ids and mask (1 token, 0 padding), both (B, L)."""

    ids_BL: torch.Tensor
    mask_BL: torch.Tensor

    def to(self, device: torch.device) -> TokenBatch:
        """The batch on a device."""
        return TokenBatch(send(self.ids_BL, device), send(self.mask_BL, device))


@dataclass(frozen=True)
class Split:
    """A tokenised split with the encoded labels of each task (see `encode_labels`).

    Attributes:
        where: from a row to its place, as messages name it.
    """

    name: str
    tokens: Tokens
    labels: dict[str, LabelsN]
    where: Callable[[int], str] = str

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.tokens)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, max_length: int, prompt: str = ""
) -> Tokens:
    """Tokenises texts, cut to `max_length` tokens, in parallel where the tokenizer can.

    Args:
        tokenizer: any tokenizer of transformers.
        texts: the texts, read once.
        max_length: most tokens of a text, special tokens included.
        prompt: put before every text (the backbone's own default prompt).
    """
    blocks = list(tokenized_blocks(tokenizer, texts, max_length=max_length, prompt=prompt))
    if not blocks:
        return Tokens(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
    lengths = np.concatenate([length_B for _, length_B in blocks])
    return Tokens(np.concatenate([ids_T for ids_T, _ in blocks]), offsets_of(lengths))


def tokenized_blocks(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, max_length: int, prompt: str
) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.int32]], IntN]]:
    """Token ids of some thousand texts at a time, one text after the other, and the length of each.

    Of a long text only the opening is tokenised where that gives the same (see `opening`).
    """
    for chunk in _chunks(texts, _TOKENIZE_TEXTS):
        whole = [prompt + text for text in chunk] if prompt else chunk
        openings = _openings(tokenizer, whole, max_length=max_length)
        encoded = _encoded(tokenizer, openings, max_length=max_length)
        short = [i for i, ids in enumerate(encoded) if len(ids) < max_length and openings[i] != whole[i]]
        again = _encoded(tokenizer, [whole[i] for i in short], max_length=max_length) if short else []
        for i, ids in zip(short, again, strict=True):
            encoded[i] = ids
        lengths = np.asarray([len(one) for one in encoded], dtype=np.int64)
        yield np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum())), lengths


def _openings(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, max_length: int) -> list[str]:
    """What has to be read of each text for its first tokens, at first."""
    if any(is_long(text, max_length=max_length) for text in texts) and splits_at_spaces(tokenizer):
        return [opening(text, max_length=max_length) for text in texts]
    return texts


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, max_length: int) -> list[list[int]]:
    """Token ids of each text."""
    encoded: list[list[int]] = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return encoded


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def offsets_of(length_N: IntN) -> IntN:
    """Where each text starts, and at the end the number of tokens (N + 1 numbers)."""
    offset_N1 = np.zeros(len(length_N) + 1, dtype=np.int64)
    np.cumsum(length_N, out=offset_N1[1:])
    return offset_N1


def pad(tokens: Tokens, rows: Sequence[int] | IntN, *, pad_id: int) -> TokenBatch:
    """The given texts as one padded batch."""
    starts, ends = tokens.offset_N1[:-1][rows], tokens.offset_N1[1:][rows]
    lengths = ends - starts
    mask_BL = np.arange(int(lengths.max())) < lengths[:, None]
    ids_BL = np.full(mask_BL.shape, pad_id, dtype=np.int64)
    ids_BL[mask_BL] = np.concatenate([tokens.ids_T[a:b] for a, b in zip(starts, ends, strict=True)])
    return TokenBatch(torch.from_numpy(ids_BL), torch.from_numpy(mask_BL.astype(np.int64)))


def sorted_batches(length_N: IntN, *, max_tokens: int) -> list[IntN]:
    """Batches of all texts, longest first, each of at most `max_tokens` padded tokens.

    A text longer than the budget is a batch of its own.
    """
    return cut(np.argsort(-length_N, kind="stable"), length_N, max_tokens=max_tokens)


def filled_batches(length_N: IntN, *, max_tokens: int) -> list[IntN]:
    """Batches of all texts for passes without padding, each of fewer than `max_tokens` tokens.

    A batch takes the longest of the texts that are left, and shorter ones into what room remains: all but one
    of the rows that are computed are then tokens. With padding it would have a quarter more than `max_tokens`
    at most. A text longer than the budget is a batch of its own.
    """
    order = np.argsort(-length_N, kind="stable")
    lengths, counts = np.unique(length_N, return_counts=True)
    length_K, left_K = np.maximum(lengths[::-1], 1).tolist(), counts[::-1].tolist()
    end_K = np.cumsum(left_K).tolist()
    batches = []
    for first, longest in enumerate(length_K):
        while left_K[first]:
            rows = []
            room, places = max(max_tokens - 1, longest), max(1, int(_MOST_PADDED * max_tokens) // longest)
            for k in range(first, len(length_K)):
                number = min(left_K[k], room // length_K[k], places)
                if number:
                    start = end_K[k] - left_K[k]
                    rows.append(order[start : start + number])
                    left_K[k] -= number
                    room, places = room - number * length_K[k], places - number
            batches.append(np.concatenate(rows))
    return batches


def epoch_batches(length_N: IntN, *, size: int, seed: int, epoch: int) -> list[IntN]:
    """Batches of one training epoch: every text once, in an order that (seed, epoch) determines.

    A shuffle is cut into pools of 50 batches, each pool is sorted by length and cut into batches, longest
    text first, and the batches are shuffled: near-random batches with little padding.

    Args:
        length_N: tokens of each text.
        size: texts of a batch.
        seed: of the run.
        epoch: number of the epoch in the run, counted over all phases.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(length_N))
    batches: list[IntN] = []
    for start in range(0, len(order), size * _POOL_BATCHES):
        pool = order[start : start + size * _POOL_BATCHES]
        pool = pool[np.argsort(-length_N[pool], kind="stable")]
        batches.extend(pool[i : i + size] for i in range(0, len(pool), size))
    return [batches[i] for i in generator.permutation(len(batches))]


def cut(order: IntN, length_N: IntN, *, max_tokens: int) -> list[IntN]:
    """Texts in an order of falling length, cut into batches of at most `max_tokens` padded tokens."""
    batches: list[IntN] = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(length_N[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def padded(values_TD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Rows of numbers of some texts as (B, L, D), zero where the mask is."""
    place_T = torch.nonzero_static(mask_BL.flatten(), size=len(values_TD))[:, 0]
    state_ND = values_TD.new_zeros(mask_BL.numel(), values_TD.shape[1])
    return state_ND.index_copy_(0, place_T, values_TD).view(*mask_BL.shape, values_TD.shape[1])
