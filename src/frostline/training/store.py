"""Rows of numbers for many texts in one file: written once, read in any order, checked when read.

    <folder>/<key>/
      values.bin           (T, D) numbers, one text after the other
      texts.safetensors    where each text starts, and a checksum of its bytes
      meta.json            number format and width

A store appears under its key by one rename. Knows numbers and files, not what they mean.

Shapes: U stored texts, T their tokens, D width.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from frostline.atomic import new_folder, write_json
from frostline.data.table import IntN
from frostline.errors import CacheError

FORMAT = 1
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_MOST_FP16 = 60_000.0
KEYS = re.compile(r"[0-9a-f]{40}-\d+-\d+")


@dataclass(frozen=True)
class Layout:
    """What a store holds.

    Attributes:
        numbers: number format of the file: fp16, bf16 or fp32.
        width: D.
        start_U1: first row of each text, and at the end the number of rows (U + 1 numbers).
        checksum_U: CRC-32 of each text's bytes.
    """

    numbers: str
    width: int
    start_U1: IntN
    checksum_U: np.ndarray[Any, np.dtype[np.uint32]]


class StoreWriter:
    """Writes the texts of a store in any order; use it as a context."""

    def __init__(self, folder: Path, key: str, *, length_U: IntN, width: int, numbers: str) -> None:
        self.folder = folder
        self.key = key
        self.layout = Layout(
            numbers,
            width,
            np.concatenate([[0], np.cumsum(length_U)]),
            np.zeros(len(length_U), dtype=np.uint32),
        )
        self._new = new_folder(folder / key)

    def write(self, texts: IntN, values_TD: torch.Tensor) -> None:
        """Writes the rows of some texts, one text after the other, as `in_format` returns them."""
        assert values_TD.dtype == DTYPES[self.layout.numbers], "another format"
        data = values_TD.view(torch.uint8).numpy()
        size = self.layout.width * values_TD.dtype.itemsize
        row = 0
        for text in texts:
            first, last = (int(bound) for bound in self.layout.start_U1[text : text + 2])
            piece = data[row : row + last - first].tobytes()
            self.layout.checksum_U[text] = zlib.crc32(piece)
            os.pwrite(self._file, piece, first * size)
            row += last - first

    def __enter__(self) -> Self:
        self._temporary = self._new.__enter__()
        self._file = os.open(self._temporary / "values.bin", os.O_WRONLY | os.O_CREAT, 0o644)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        os.close(self._file)
        if kind is None:
            layout = self.layout
            places: dict[str, Any] = {"start": layout.start_U1, "checksum": layout.checksum_U}
            save_file(places, self._temporary / "texts.safetensors")
            meta = {"format": FORMAT, "key": self.key, "numbers": layout.numbers, "width": layout.width}
            write_json(self._temporary / "meta.json", meta)
        return self._new.__exit__(kind, error, trace)


def in_format(values_TD: torch.Tensor, numbers: str) -> torch.Tensor:
    """Values in a format of stores, on the CPU.

    Raises:
        CacheError: values that float16 cannot hold.
    """
    if numbers == "fp16" and float(values_TD.abs().max()) > _MOST_FP16:
        raise CacheError("hidden states are too large for float16.")
    return values_TD.detach().to("cpu", DTYPES[numbers]).contiguous()


class Store:
    """A store that is whole. Its file stays readable though another process removes it."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._file = os.open(folder / "values.bin", os.O_RDONLY)

    def __len__(self) -> int:
        """Number of texts U."""
        return len(self.layout.checksum_U)

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return int(self.layout.start_U1[-1]) * self.layout.width * DTYPES[self.layout.numbers].itemsize

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def read(self, texts: IntN) -> torch.Tensor:
        """Rows of some texts, one text after the other: (T, D) in the store's format, on the CPU.

        Raises:
            CacheError: damaged; the store is removed.
        """
        dtype, size = DTYPES[self.layout.numbers], self.layout.width * DTYPES[self.layout.numbers].itemsize
        starts, ends = self.layout.start_U1[texts], self.layout.start_U1[texts + 1]
        buffer = bytearray(int((ends - starts).sum()) * size)
        view, at = memoryview(buffer), 0
        for text, first, last in zip(texts, starts, ends, strict=True):
            piece = view[at : at + int(last - first) * size]
            done = os.preadv(self._file, [piece], int(first) * size)
            if done != len(piece) or zlib.crc32(piece) != self.layout.checksum_U[text]:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise CacheError(
                    f"{self.folder}: stored activations are damaged, and were removed. Resume the run: they "
                    "are computed again."
                )
            at += len(piece)
        if not buffer:
            return torch.empty(0, self.layout.width, dtype=dtype)
        return torch.frombuffer(buffer, dtype=dtype).view(-1, self.layout.width)


def open_store(folder: Path, key: str) -> Store | None:
    """The store of a key, marked as used now; None where there is none that is whole and of this key."""
    place = folder / key
    try:
        meta: Mapping[str, Any] = json.loads((place / "meta.json").read_text("utf-8"))
        texts = load_file(place / "texts.safetensors")
        layout = Layout(str(meta["numbers"]), int(meta["width"]), texts["start"], texts["checksum"])
        if (
            meta["format"] != FORMAT
            or meta["key"] != key
            or len(layout.start_U1) != len(layout.checksum_U) + 1
        ):
            return None
        size = int(layout.start_U1[-1]) * layout.width * DTYPES[layout.numbers].itemsize
        if (place / "values.bin").stat().st_size != size:
            return None
        with suppress(OSError):  # another user's
            os.utime(place)
        return Store(place, layout)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
