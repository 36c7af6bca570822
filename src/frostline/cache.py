"""Where frostline keeps what later runs may read again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder under FROSTLINE_CACHE, or under frostline in the user's cache; it may not be there yet."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FROSTLINE_CACHE") or Path(cache) / "frostline") / name
