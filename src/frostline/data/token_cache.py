"""Token ids kept between runs: the same texts are tokenised once by a tokenizer, and then mapped into memory.

    <folder>/<key>/
      ids.bin       int32 token ids, one text after the other
      offsets.bin   int64 start of each text, and at the end the number of tokens
      meta.json     the key and a digest of both files

A folder appears under its key by one rename. What is not whole, or not of the digest, is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from frostline.atomic import new_folder, write_json
from frostline.cache import exclusive, make_room
from frostline.data.batches import Tokens, offsets_of, tokenize, tokenized_blocks
from frostline.data.table import IntN
from frostline.errors import RunError

_FORMAT = 2  # raised when the same texts could get other ids
_MOST_BYTES = 4 * 2**30
_KEYS = re.compile(r"[0-9a-f]{40}")


def tokenize_once(
    tokenizer: PreTrainedTokenizerBase,
    texts: Callable[[], Iterable[str]],
    *,
    max_length: int,
    prompt: str,
    folder: Path | None,
) -> Tokens:
    """What `tokenize` returns, from an earlier run where there was one.

    Args:
        tokenizer: a fast tokenizer; the ids of another one are not kept.
        texts: gives the texts from the start, each time it is called.
        max_length: most tokens of a text, special tokens included.
        prompt: put before every text.
        folder: where ids are kept, at most 4 GiB, those that were not used for the longest going first; None,
            or one that cannot be written: they are not.
    """
    if folder is None or getattr(tokenizer, "backend_tokenizer", None) is None:
        return tokenize(tokenizer, texts(), max_length=max_length, prompt=prompt)
    about = tokenizer_facts(tokenizer, max_length=max_length, prompt=prompt)
    key = texts_key(f"{_FORMAT} {about}", texts())
    found = _read(folder / key)
    if found is None:
        with suppress(RunError, OSError), exclusive(folder, key):  # a cache that cannot be written is none
            found = _read(folder / key)  # another process may have been faster
            if found is None:
                blocks = tokenized_blocks(tokenizer, texts(), max_length=max_length, prompt=prompt)
                found = _write(folder / key, blocks)
    if found is None:
        found = tokenize(tokenizer, texts(), max_length=max_length, prompt=prompt)
    return found


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase, *, max_length: int, prompt: str) -> str:
    """Everything that changes the ids of a text; of a slow tokenizer its name alone."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()  # what an earlier call left set; transformers sets its own at each call
        backend.no_padding()
    versions = (version("tokenizers"), version("transformers"), type(tokenizer).__name__)
    vocabulary = backend.to_str() if backend is not None else tokenizer.name_or_path
    return f"{versions} {max_length} {prompt!r} {tokenizer.truncation_side} {vocabulary}"


def texts_key(about: str, texts: Iterable[str]) -> str:
    """A digest of texts, in their order, and of what is done with them."""
    digest = hashlib.blake2b(about.encode(), digest_size=20)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _write(place: Path, blocks: Iterable[tuple[np.ndarray[Any, np.dtype[np.int32]], IntN]]) -> Tokens | None:
    """Keeps blocks of token ids as they come, so that memory does not hold them all; returns what `_read`
    finds then.
    """
    lengths = [np.zeros(0, dtype=np.int64)]
    with new_folder(place) as temporary:
        with (temporary / "ids.bin").open("wb") as stream:
            for ids_T, length_B in blocks:
                stream.write(ids_T.tobytes())
                lengths.append(length_B)
            size = stream.tell()
        offset_N1 = offsets_of(np.concatenate(lengths))
        offset_N1.tofile(temporary / "offsets.bin")
        make_room(place.parent, needed=size + offset_N1.nbytes, most=_MOST_BYTES, keys=_KEYS)
        write_json(temporary / "meta.json", {"key": place.name, "digest": _digest(temporary)})
    return _read(place)


def _read(place: Path) -> Tokens | None:
    """The ids of a folder, marked as used now; None where it is not whole."""
    try:
        meta = json.loads((place / "meta.json").read_text("utf-8"))
        if meta["key"] != place.name or meta["digest"] != _digest(place):
            shutil.rmtree(place, ignore_errors=True)
            return None
        offset_N1 = np.fromfile(place / "offsets.bin", dtype=np.int64)
        size = int(offset_N1[-1])
        # An empty file cannot be mapped.
        ids_T = np.memmap(place / "ids.bin", np.int32, "r", shape=(size,)) if size else np.zeros(0, np.int32)
        with suppress(OSError):  # another user's
            os.utime(place)
        return Tokens(ids_T, offset_N1)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _digest(place: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for name in ("ids.bin", "offsets.bin"):
        with (place / name).open("rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
