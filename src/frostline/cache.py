"""Where frostline keeps what later runs may read again: folders under keys, bounded, filled by one process.

Knows keys, sizes and when they were used, not what lies under them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frostline.errors import RunError
from frostline.locks import held


def cache_folder(name: str) -> Path:
    """A folder under FROSTLINE_CACHE, or under frostline in the user's cache; it may not be there yet."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FROSTLINE_CACHE") or Path(cache) / "frostline") / name


@contextmanager
def exclusive(folder: Path, key: str) -> Iterator[None]:
    """One process at a time fills a key; what a killed one left of it is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f".{key}.lock"):
        _remove_leftovers(folder, key)
        yield


def make_room(folder: Path, *, needed: int, most: int, keys: re.Pattern[str]) -> None:
    """Removes the keys that were not used for the longest until `needed` bytes more are at most `most`, and
    what killed processes left half-written.

    Args:
        folder: of the keys; what else lies there is left alone.
        needed: bytes that are to be written.
        most: bytes that all keys may take.
        keys: how one is written.
    """
    for place in folder.glob(".*.lock"):
        key = place.name[1:].removesuffix(".lock")
        if keys.fullmatch(key):
            with suppress(RunError), held(place, busy=f"{place}: in use."):
                _remove_leftovers(folder, key)
    found = [path for path in folder.glob("*") if keys.fullmatch(path.name)]
    kept = sorted((used, place, size) for place in found for used, size in _use_and_size(place))
    total = sum(size for _, _, size in kept)
    for _, place, size in kept:
        if total + needed <= most:
            return
        total -= size
        shutil.rmtree(place, ignore_errors=True)


def _remove_leftovers(folder: Path, key: str) -> None:
    for place in folder.glob(f".{key}.*"):
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)


def _use_and_size(place: Path) -> Iterator[tuple[float, int]]:
    """When a key was last used, and its bytes without the small meta.json; nothing when another process has
    just removed it.
    """
    with suppress(OSError):
        sizes = [file.stat().st_size for file in place.iterdir() if file.name != "meta.json"]
        yield place.stat().st_mtime, sum(sizes)
