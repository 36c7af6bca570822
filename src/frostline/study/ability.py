"""General ability kept: do everyday sentences still find their paraphrases?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.preprocessing import normalize

from frostline.data.batches import tokenize
from frostline.model.backbone import Backbone
from frostline.model.device import Precision
from frostline.training.embed import embedding_matrix

Matrix = np.ndarray[Any, np.dtype[np.float32]]


def general_ability(backbone: Backbone, *, precision: Precision, device: torch.device) -> float:
    """How early sentences find their paraphrases: mean reciprocal rank by cosine, 1 at best.

    96 sentences look for their paraphrase among 191: those of all, and for each other sentence one more of
    like words and another meaning. Written for frostline (`triplets.jsonl`); everyday English.
    """
    lines = (files("frostline.study") / "triplets.jsonl").read_text("utf-8").splitlines()
    triplets = [json.loads(line) for line in lines]
    text_ND, same_ND, other_ND = (
        normalize(_embed(backbone, [t[key] for t in triplets], precision, device))
        for key in ("text", "same", "other")
    )
    cosine_NM = text_ND @ np.concatenate([same_ND, other_ND]).T
    size = len(triplets)
    # Its own sentence of like words is about the same thing: no retrieval can be asked to tell.
    cosine_NM[np.arange(size), size + np.arange(size)] = -2
    # With one right answer a row, the average precision of a ranking is the reciprocal of its rank.
    return float(label_ranking_average_precision_score(np.eye(size, 2 * size), cosine_NM))


def _embed(backbone: Backbone, texts: Sequence[str], precision: Precision, device: torch.device) -> Matrix:
    tokens = tokenize(backbone.tokenizer, texts, max_length=backbone.max_length, prompt=backbone.prompt)
    return embedding_matrix(backbone, tokens, precision=precision, device=device)
