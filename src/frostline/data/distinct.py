"""The different texts of a split, so that none is computed twice.

Shapes: N texts, U different ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from frostline.data.batches import Tokens
from frostline.data.table import IntN


@dataclass(frozen=True)
class DistinctTexts:
    """A split's texts without repetition, longest first.

    Attributes:
        row_U: a row of each.
        text_N: the text of each row.
        digest: of all of them, and nothing else of the split.
    """

    row_U: IntN
    text_N: IntN
    digest: str


def distinct_texts(tokens: Tokens) -> DistinctTexts:
    """The different texts of a split, in an order that the order of its rows does not change."""
    digests = np.empty((len(tokens), 2), dtype=np.uint64)
    for row in range(len(tokens)):
        ids = tokens.ids_T[tokens.offset_N1[row] : tokens.offset_N1[row + 1]]
        digest = hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
        digests[row] = np.frombuffer(digest, dtype=np.uint64)
    keyed = np.column_stack([-tokens.length_N.astype(np.int64).view(np.uint64), digests])
    _, row_U, text_N = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    whole = hashlib.blake2b(digests[row_U].tobytes(), digest_size=16)
    return DistinctTexts(row_U.astype(np.int64), text_N.reshape(-1).astype(np.int64), whole.hexdigest())
