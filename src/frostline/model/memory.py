"""Memory of a process: when the allocator keeps what is freed, when it gives it back, and its peak."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Of glibc's malloc.h. From 32 MiB on it maps each block apart, and gives it back at once, whatever is asked.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLDS = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
_KEPT_BYTES, _MAPPED_BYTES = 2**30, 2**25


def give_memory_back() -> None:
    """Returns what the allocator holds and nothing uses to the system, where it is glibc's.

    Blocks of ever new sizes, as batches cut by length make them, leave gaps that only grow.
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within the block the allocator keeps freed memory for the next step, where it is glibc's and nobody has
    told it what to keep.

    By itself it returns the room of a step's activations after each step, and the system clears it anew.
    Afterwards it keeps as much as it learns to by itself at most.
    """
    is_told = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or _THRESHOLDS & os.environ.keys()
    if is_told or not _is_glibc():
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    try:
        yield
    finally:
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _MAPPED_BYTES)
        give_memory_back()


def peak_memory() -> int:
    """Bytes that this process held at most.

    Linux counts by itself for the process what its parent held when it started it; so `VmHWM` is read there.
    """
    status = Path("/proc/self/status")
    about = status.read_text("utf-8") if status.exists() else ""
    if held := re.search(r"^VmHWM:\s*(\d+) kB$", about, re.MULTILINE):
        return int(held[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
