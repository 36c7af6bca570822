"""The outputs of the frozen stages: computed once per text, stored, and read in every later epoch.

`batch` hands the loop what the suffix of a depth needs: token ids at depth 0; embeddings at depth L + 1;
between them the hidden states of the frozen prefix, from the store where they are stored, else computed
without gradient, in eval mode. What is stored is computed in batches that depend on the texts alone, so a
store has the same bits whichever run filled it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.cache import exclusive, make_room
from frostline.data.batches import Split, pad, padded, send
from frostline.data.distinct import DistinctTexts, distinct_texts
from frostline.data.table import IntN
from frostline.errors import CacheError
from frostline.model.backbone import Backbone
from frostline.model.cores import map_batches
from frostline.model.device import Precision, forward_tokens, machine_facts
from frostline.model.fork import make_private, share
from frostline.plan.freeze import tensor_hashes
from frostline.training.embed import embed
from frostline.training.held import HeldStore, held_where_it_fits
from frostline.training.ranks import Ranks
from frostline.training.store import DTYPES, KEYS, Store, StoreWriter, in_format, open_store

_CODE = 6  # raised when the same weights and tokens would give other values
_HELD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class SuffixInput:
    """What the suffix of a depth reads: states, and the mask of their tokens (unused at depth L + 1)."""

    states: torch.Tensor
    mask_BL: torch.Tensor


class Activations:
    """Suffix inputs for any split and depth, from stores under one folder.

    Attributes:
        folder: of the stores, shared by all runs; None: nothing is written, embeddings are held in memory.
        max_bytes: that all stores there may take.
        ranks: processes that read the stores; the first on each machine fills them.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        precision: Precision,
        device: torch.device,
        folder: Path | None = None,
        max_bytes: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self.backbone = backbone
        self.precision = precision
        self.device = device
        self.folder = folder
        self.max_bytes = max_bytes
        self.ranks = ranks or Ranks()
        self._prefix = backbone
        self._weights: dict[int, bytes] = {}
        self._texts: dict[str, DistinctTexts] = {}
        self._stores: dict[tuple[str, int], Store | HeldStore] = {}
        self._held: dict[tuple[str, int], tuple[str, torch.Tensor]] = {}

    def settle(self, depth: int) -> None:
        """Takes in that the stages below a depth will not move until the next call.

        Forgets the stores of the weights before. In bf16 the stages are run from a copy whose matrices are
        bf16, which saves a conversion in every batch.
        """
        self._stores, self._weights = {}, {}
        if self.folder is not None:
            self._held = {}
        self._prefix = self.backbone
        if self.precision.format == "bf16":
            self._prefix = share(self.backbone)
            make_private(self._prefix, range(depth), dtype=self.precision.dtype)
            self._prefix.eval()

    def key(self, split: Split, depth: int) -> str:
        """Of everything that changes the value of a stored activation, under the weights of now."""
        digest = hashlib.blake2b(self._weights_below(depth), digest_size=20)
        about = (
            _CODE, depth, self.precision.format, self.backbone.transformer.config.to_json_string(),
            str(self.backbone.tail), self.backbone.transformer.config._attn_implementation,
            forward_tokens(self.device), *machine_facts(self.device),
        )  # fmt: skip
        digest.update(f"{about} {self._distinct(split).digest}".encode())
        return digest.hexdigest()

    def is_stored(self, split: Split, depth: int) -> bool:
        """Whether an earlier run left the outputs of a depth for every text, under the weights of now."""
        name = f"{self.key(split, depth)}-{len(self._distinct(split).row_U)}-0"
        return self.folder is not None and (self.folder / name).is_dir()

    def _weights_below(self, depth: int) -> bytes:
        """A digest of the frozen stages' weights, taken once for all splits."""
        if depth not in self._weights:
            digest = hashlib.blake2b(digest_size=20)
            stage_of = self.backbone.stage_of
            below = (name for name, stage in stage_of.items() if stage is not None and stage < depth)
            weights = ((name, self.backbone.get_parameter(name)) for name in below)
            for name, one in tensor_hashes(weights).items():
                digest.update(f"{name} {one} ".encode())
            self._weights[depth] = digest.digest()
        return self._weights[depth]

    def fill(self, split: Split, depth: int, *, via: Sequence[int] = ()) -> Iterator[int]:
        """Stores the outputs of a depth for every text of a split, unless they are; yields the texts done.

        Args:
            split: the texts.
            depth: 1 … L + 1.
            via: lower depths to store on the way, each computed from the one below.
        """
        below = 0
        for stop in sorted({*via, depth}):
            yield from self._fill(split, stop, below)
            below = stop if (split.name, stop) in self._stores else 0

    def _fill(self, split: Split, depth: int, below: int) -> Iterator[int]:
        key = self.key(split, depth)
        is_whole = depth == self.backbone.num_stages
        number = self._room_for(split, depth)
        if self.folder is None or (is_whole and number < len(self._distinct(split).row_U)):
            if self._held.get((split.name, depth), ("",))[0] != key:
                yield from self._hold(split, depth, key)
            return
        if below and len(self._stores[split.name, below]) < number:
            below = 0
        name = f"{key}-{number}-{below}"
        if self.ranks.local_rank == 0:
            with exclusive(self.folder, name):
                if open_store(self.folder, name) is None:
                    yield from self._write(split, depth, name, number, below)
        self.ranks.wait()
        store = open_store(self.folder, name)
        if store is None:
            raise CacheError(f"{self.folder / name}: was removed while it was needed. Resume the run.")
        # Embeddings have a place of their own in memory.
        self._stores[split.name, depth] = store if is_whole else held_where_it_fits(store, device=self.device)
        if is_whole and self.num_texts(split) * self.backbone.width * 4 <= _HELD_BYTES:
            self._held[split.name, depth] = (key, store.read(np.arange(len(store))).to(self.device))

    def _room_for(self, split: Split, depth: int) -> int:
        """How many of the different texts, longest first, fit beside the other stores of this run."""
        texts = self._distinct(split)
        taken = sum(store.num_bytes for (name, _), store in self._stores.items() if name != split.name)
        each = self._lengths(split, depth)[texts.row_U] * self._width(depth)
        each = each * DTYPES[self._numbers(depth)].itemsize
        return int(np.searchsorted(np.cumsum(each), max(0, self.max_bytes - taken), side="right"))

    def _lengths(self, split: Split, depth: int) -> IntN:
        """Rows of numbers that a text has at a depth."""
        whole = depth == self.backbone.num_stages
        return np.ones(len(split), dtype=np.int64) if whole else split.tokens.length_N

    def _width(self, depth: int) -> int:
        return self.backbone.width if depth == self.backbone.num_stages else self.backbone.hidden_width

    def _numbers(self, depth: int) -> str:
        return "fp32" if depth == self.backbone.num_stages else "fp16"

    def _write(self, split: Split, depth: int, name: str, number: int, below: int) -> Iterator[int]:
        try:
            yield from self._write_as(self._numbers(depth), split, depth, name, number, below)
        except CacheError:  # too large for float16
            yield from self._write_as("bf16", split, depth, name, number, below)

    def _write_as(
        self, numbers: str, split: Split, depth: int, name: str, number: int, below: int
    ) -> Iterator[int]:
        assert self.folder is not None, "no folder"
        rows_U, width = self._distinct(split).row_U[:number], self._width(depth)
        lengths = self._lengths(split, depth)[rows_U]
        size = int(lengths.sum()) * width * DTYPES[numbers].itemsize
        make_room(self.folder, needed=size, most=self.max_bytes, keys=KEYS)
        with StoreWriter(self.folder, name, length_U=lengths, width=width, numbers=numbers) as writer:
            done = 0
            for texts, values_TD in self._outputs(split, depth, rows_U, below, numbers):
                writer.write(texts, values_TD)
                done += len(texts)
                yield done

    def _hold(self, split: Split, depth: int, key: str) -> Iterator[int]:
        """Computes the embeddings of a split into memory."""
        assert depth == self.backbone.num_stages, "hidden states are not held"
        texts, done = self._distinct(split), 0
        embedding_UD = torch.empty(len(texts.row_U), self.backbone.width, device=self.device)
        for some, values in embed(
            self.backbone, split.tokens, precision=self.precision, device=self.device, row_M=texts.row_U
        ):
            embedding_UD[torch.from_numpy(some).to(self.device)] = values
            done += len(some)
            yield done
        self._held[split.name, depth] = (key, embedding_UD)

    def _outputs(
        self, split: Split, depth: int, rows_U: IntN, below: int, numbers: str
    ) -> Iterator[tuple[IntN, torch.Tensor]]:
        """Numbers of different texts and what the prefix of a depth makes of them: (T, D) in a format of
        stores, padding left out.

        Starts from the stored states of the depth `below`; 0: from the token ids.
        """
        tokens, is_whole = split.tokens, depth == self.backbone.num_stages
        if is_whole and not below:
            given = embed(self.backbone, tokens, precision=self.precision, device=self.device, row_M=rows_U)
            yield from ((texts, in_format(values, numbers)) for texts, values in given)
            return

        def forward(texts: IntN) -> torch.Tensor:
            batch = pad(tokens, rows_U[texts], pad_id=self.backbone.pad_id).to(self.device)
            states = batch.ids_BL
            if below:
                values_TD = self._stores[split.name, below].read(texts)
                states = padded(send(values_TD, self.device).float(), batch.mask_BL)
            with torch.no_grad(), self.precision.autocast(self.device):
                states = self._prefix.between(states, batch.mask_BL, start=below, stop=depth)
            return in_format(states if is_whole else states[batch.mask_BL.bool()], numbers)

        lengths = tokens.length_N[rows_U]
        batches = self._prefix.batches(lengths, device=self.device, precision=self.precision)
        yield from map_batches(forward, batches, device=self.device)

    def _distinct(self, split: Split) -> DistinctTexts:
        if split.name not in self._texts:
            self._texts[split.name] = distinct_texts(split.tokens)
        return self._texts[split.name]

    def embeddings(self, split: Split) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Stored embeddings (N, D) of a split.

        Raises:
            CacheError: `fill` has not stored any.
        """
        return self._embeddings(split, np.arange(len(split))).cpu().numpy()

    def _embeddings(self, split: Split, rows: IntN) -> torch.Tensor:
        place, texts = (split.name, self.backbone.num_stages), self._distinct(split).text_N[rows]
        if place in self._held:
            return self._held[place][1][send(torch.from_numpy(texts), self.device)]
        if place not in self._stores:
            raise CacheError(f"no embeddings of split '{split.name}' are stored.")
        return send(self._stores[place].read(texts), self.device)

    def num_texts(self, split: Split) -> int:
        """Different texts of a split."""
        return len(self._distinct(split).row_U)

    def batch(self, split: Split, rows: IntN, *, depth: int) -> SuffixInput:
        """Suffix inputs of some rows.

        Raises:
            CacheError: depth L + 1 was asked before `fill`, or a store is damaged.
        """
        if depth == self.backbone.num_stages:
            states = self._embeddings(split, rows)
            return SuffixInput(states, states)
        tokens = pad(split.tokens, rows, pad_id=self.backbone.pad_id).to(self.device)
        if depth == 0:
            return SuffixInput(tokens.ids_BL, tokens.mask_BL)
        store = self._stores.get((split.name, depth))
        if store is None:
            with torch.no_grad(), self.precision.autocast(self.device):
                return SuffixInput(self._prefix.prefix(tokens, depth=depth), tokens.mask_BL)
        return SuffixInput(self._read(store, split, rows, tokens.mask_BL, depth), tokens.mask_BL)

    def _read(
        self, store: Store | HeldStore, split: Split, rows: IntN, mask_BL: torch.Tensor, depth: int
    ) -> torch.Tensor:
        """Hidden states (B, L, D) of rows; those that the store has no room for are computed."""
        texts = self._distinct(split).text_N[rows]
        stored = texts < len(store)
        values_TD = send(store.read(texts[stored]), self.device).float()
        assert len(values_TD) == split.tokens.length_N[rows[stored]].sum(), "states of other texts"
        if stored.all():
            return padded(values_TD, mask_BL)
        inside = send(torch.from_numpy(stored), self.device)
        states = torch.zeros(*mask_BL.shape, values_TD.shape[1], device=self.device)
        states[inside] = padded(values_TD, mask_BL[inside])
        others = pad(split.tokens, rows[~stored], pad_id=self.backbone.pad_id).to(self.device)
        with torch.no_grad(), self.precision.autocast(self.device):
            computed = self._prefix.prefix(others, depth=depth).float()
        states[~inside, : computed.shape[1]] = computed
        return states
