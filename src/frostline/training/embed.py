"""Embeddings of many texts with a backbone as it is: a pass without gradient, over all cores.

Shapes: B texts of a batch, N texts, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.data.batches import Tokens, pad
from frostline.data.table import IntN
from frostline.model.backbone import Backbone
from frostline.model.cores import map_batches
from frostline.model.device import Precision


def embed(
    backbone: Backbone,
    tokens: Tokens,
    *,
    precision: Precision,
    device: torch.device,
    row_M: IntN | None = None,
) -> Iterator[tuple[IntN, torch.Tensor]]:
    """Yields numbers of texts and their embeddings (B, D) float32, without gradient.

    In bf16 the weights of a copy are bf16 too, which saves a conversion of every weight in every batch. The
    backbone is left in eval mode.

    Args:
        backbone: as it is.
        tokens: of all texts.
        precision: number format of the pass.
        device: where it runs.
        row_M: the texts to embed, numbered from 0 in this order; None: all.
    """
    row_M = np.arange(len(tokens)) if row_M is None else row_M
    runner = copy.deepcopy(backbone).to_format(precision.dtype) if precision.format == "bf16" else backbone
    runner.eval()

    def forward(texts: IntN) -> torch.Tensor:
        with torch.no_grad():
            embedding_BD: torch.Tensor = runner(pad(tokens, row_M[texts], pad_id=backbone.pad_id).to(device))
            return embedding_BD

    batches = runner.batches(tokens.length_N[row_M], device=device, precision=precision)
    yield from map_batches(forward, batches, device=device)


@dataclass(frozen=True)
class StageMeans:
    """What every stage makes of texts.

    Attributes:
        means_NSD: stages 0 … L, averaged over a text's tokens.
        embedding_ND: the embeddings, which may have another width.
    """

    means_NSD: np.ndarray[Any, np.dtype[np.float32]]
    embedding_ND: np.ndarray[Any, np.dtype[np.float32]]


def stage_means(
    backbone: Backbone, tokens: Tokens, *, precision: Precision, device: torch.device
) -> StageMeans:
    """The averaged states of every stage and the embeddings of texts, in one pass without gradient."""
    backbone.eval()
    size, num_stages = len(tokens), backbone.num_stages
    means_NSD = np.empty((size, num_stages, backbone.hidden_width), dtype=np.float32)
    embedding_ND = np.empty((size, backbone.width), dtype=np.float32)

    def forward(rows: IntN) -> tuple[torch.Tensor, torch.Tensor]:
        batch = pad(tokens, rows, pad_id=backbone.pad_id).to(device)
        mask_BL1 = batch.mask_BL[..., None].float()
        states, found = batch.ids_BL, []
        with torch.no_grad(), precision.autocast(device):
            for stage in range(num_stages):
                states = backbone.hidden(states, batch.mask_BL, start=stage, stop=stage + 1)
                found.append((states.float() * mask_BL1).sum(1) / mask_BL1.sum(1))
            return torch.stack(found, dim=1), backbone.pool(states, batch.mask_BL)

    batches = backbone.batches(tokens.length_N, device=device, precision=precision)
    for rows, (means, embeddings) in map_batches(forward, batches, device=device):
        means_NSD[rows], embedding_ND[rows] = means.cpu().numpy(), embeddings.cpu().numpy()
    return StageMeans(means_NSD, embedding_ND)


def embedding_matrix(
    backbone: Backbone, tokens: Tokens, *, precision: Precision, device: torch.device
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Embeddings (N, D) of texts, on the CPU."""
    embedding_ND = np.empty((len(tokens), backbone.width), dtype=np.float32)
    for rows, values in embed(backbone, tokens, precision=precision, device=device):
        embedding_ND[rows] = values.cpu().numpy()
    return embedding_ND
