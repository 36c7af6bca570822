"""Variables of the environment that libraries under torch read once: when they are loaded, or at first use.

They hold for this process and those that it starts. What a user has set is kept.
"""

from __future__ import annotations

import os


def set_variables() -> None:
    """Sets those that nobody has set; to be called before torch is loaded."""
    # A thread of GNU's OpenMP that is done waits awake for 300,000 turns, on a core that others may need:
    # beside one other process a training step took three times as long (docs/experiments.md). Read when torch
    # is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    # oneDNN keeps compiled code for the last 1,024 shapes of matrix products, and torch's layer over it
    # another 1,024 a thread, by a variable with a less telling name. Where texts are packed
    # (`model/packing.py`), two layers that learn meet some 360 shapes; with room for fewer, code is made
    # again and again, for time and for more memory than it saves (docs/experiments.md). Both are read at the
    # first product, so torch may be there already.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")  # ideep's, in torch 2.13
