"""A store copied into the memory of a GPU, where reading a batch is one gather and nothing is transferred.

Shapes: U stored texts, T their tokens, D width.
"""

from __future__ import annotations

import numpy as np
import torch

from frostline.data.batches import send
from frostline.data.table import IntN
from frostline.training.store import DTYPES, Store

_FREE_SHARE = 0.5  # of the free device memory, at most; the rest is for activations and gradients
_TEXTS_AT_ONCE = 20_000


class HeldStore:
    """Every value of a store on a device, checked once, while it was copied.

    Attributes:
        store: where they came from.
    """

    def __init__(self, store: Store, *, device: torch.device) -> None:
        """Copies the values.

        Raises:
            CacheError: the store is damaged; it is removed.
        """
        self.store = store
        layout = store.layout
        size = (int(layout.start_U1[-1]), layout.width)
        self._value_TD = torch.empty(size, dtype=DTYPES[layout.numbers], device=device)
        for first in range(0, len(store), _TEXTS_AT_ONCE):
            texts = np.arange(first, min(len(store), first + _TEXTS_AT_ONCE))
            begin, end = layout.start_U1[texts[0]], layout.start_U1[texts[-1] + 1]
            self._value_TD[begin:end] = store.read(texts).to(device)

    def __len__(self) -> int:
        """Number of texts U."""
        return len(self.store)

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return self.store.num_bytes

    def read(self, texts: IntN) -> torch.Tensor:
        """Rows of some texts, one text after the other: (T, D) in the store's format, on the device."""
        if not len(texts):
            return self._value_TD[:0]
        start, end = self.store.layout.start_U1[texts], self.store.layout.start_U1[texts + 1]
        length = end - start
        # A row's place: the first row of its text, and how far into the text it is.
        first = np.cumsum(length) - length
        place_T = np.arange(length.sum()) + np.repeat(start - first, length)
        return self._value_TD[send(torch.from_numpy(place_T), self._value_TD.device)]


def held_where_it_fits(store: Store, *, device: torch.device) -> Store | HeldStore:
    """The store in the memory of a GPU if it takes at most half of what is free there, else itself."""
    if device.type != "cuda":
        return store
    free, _ = torch.cuda.mem_get_info(device)
    if store.num_bytes > _FREE_SHARE * free:
        return store
    try:
        return HeldStore(store, device=device)
    except torch.OutOfMemoryError:  # another process took it meanwhile
        return store
