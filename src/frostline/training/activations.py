"""The outputs of the frozen prefix: computed once per text where the whole backbone is frozen.

`batch` hands the loop what the suffix of a depth needs. At depth L + 1 that is a row of stored embeddings; at
depth 0 token ids; between, the prefix runs without gradient, in eval mode.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.data.batches import Split, Tokens, pad, sorted_batches
from frostline.data.table import IntN
from frostline.errors import CacheError
from frostline.model.backbone import Backbone
from frostline.model.device import Precision, forward_tokens, map_batches
from frostline.plan.freeze import tensor_hash


@dataclass(frozen=True)
class ActivationKey:
    """Everything that changes the value of a stored activation. No match, no use."""

    weights: str
    tokens: str
    depth: int
    format: str


@dataclass(frozen=True)
class SuffixInput:
    """What the suffix of a depth reads: states, and the mask of their tokens (unused at depth L + 1)."""

    states: torch.Tensor
    mask_BL: torch.Tensor


class Activations:
    """Suffix inputs for any split and depth, with whole-backbone embeddings kept in memory."""

    def __init__(self, backbone: Backbone, *, precision: Precision, device: torch.device) -> None:
        self.backbone = backbone
        self.precision = precision
        self.device = device
        self._stored: dict[str, tuple[ActivationKey, torch.Tensor]] = {}

    def key(self, split: Split, depth: int) -> ActivationKey:
        """The key of a split's activations under the weights of now."""
        weights = hashlib.sha256()
        for name, parameter in self.backbone.named_parameters():
            stage = self.backbone.stage_of[name]
            if stage is not None and stage < depth:
                weights.update(f"{name} {tensor_hash(parameter)} ".encode())
        tokens = hashlib.sha256(split.tokens.ids_T.tobytes() + split.tokens.offset_N1.tobytes())
        return ActivationKey(weights.hexdigest(), tokens.hexdigest(), depth, self.precision.format)

    def fill(self, split: Split) -> Iterator[int]:
        """Stores the embeddings of a split unless the same ones are stored; yields the texts done so far."""
        key = self.key(split, self.backbone.num_stages)
        if split.name in self._stored and self._stored[split.name][0] == key:
            return
        embedding_ND = torch.empty(len(split), self.backbone.width, device=self.device)
        yield from self._embed_into(embedding_ND, split.tokens)
        self._stored[split.name] = (key, embedding_ND)

    def compute(self, tokens: Tokens) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Embeddings (N, D) of any texts with the present weights; nothing is stored."""
        embedding_ND = torch.empty(len(tokens), self.backbone.width, device=self.device)
        for _ in self._embed_into(embedding_ND, tokens):
            pass
        return embedding_ND.cpu().numpy()

    def _embed_into(self, embedding_ND: torch.Tensor, tokens: Tokens) -> Iterator[int]:
        done = 0
        for rows, values in embed(self.backbone, tokens, precision=self.precision, device=self.device):
            embedding_ND[torch.from_numpy(rows).to(self.device)] = values
            done += len(rows)
            yield done

    def embeddings(self, split: Split) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Stored embeddings (N, D) of a split.

        Raises:
            CacheError: `fill` has not stored any.
        """
        return self._embeddings(split).cpu().numpy()

    def batch(self, split: Split, rows: IntN, *, depth: int) -> SuffixInput:
        """Suffix inputs of some rows.

        Raises:
            CacheError: depth L + 1 was asked before `fill`.
        """
        if depth == self.backbone.num_stages:
            states = self._embeddings(split)[torch.from_numpy(rows).to(self.device)]
            return SuffixInput(states, states)
        tokens = pad(split.tokens, rows, pad_id=self.backbone.pad_id).to(self.device)
        if depth == 0:
            return SuffixInput(tokens.ids_BL, tokens.mask_BL)
        with torch.no_grad(), self.precision.autocast(self.device):
            return SuffixInput(self.backbone.prefix(tokens, depth=depth), tokens.mask_BL)

    def _embeddings(self, split: Split) -> torch.Tensor:
        if split.name not in self._stored:
            raise CacheError(f"no embeddings of split '{split.name}' are stored.")
        return self._stored[split.name][1]


def embed(
    backbone: Backbone, tokens: Tokens, *, precision: Precision, device: torch.device
) -> Iterator[tuple[IntN, torch.Tensor]]:
    """Yields rows and their embeddings (B, D) float32 for every text, longest first, without gradient.

    In bf16 the weights of a copy are bf16 too, which saves a conversion of every weight in every batch. The
    backbone is left in eval mode.
    """
    runner = copy.deepcopy(backbone).to_format(precision.dtype) if precision.format == "bf16" else backbone
    runner.eval()

    def forward(rows: IntN) -> torch.Tensor:
        with torch.no_grad():
            embedding_BD: torch.Tensor = runner(pad(tokens, rows, pad_id=backbone.pad_id).to(device))
            return embedding_BD

    batches = sorted_batches(tokens.length_N, max_tokens=forward_tokens(device))
    yield from map_batches(forward, batches, device=device)
