"""Ctrl-C and SIGTERM answered by a function for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def answering(handler: Callable[[int, object], None]) -> Iterator[None]:
    """`handler` gets SIGINT and SIGTERM inside the block, also where a script's shell had them ignored.

    Outside of the main thread, whose owner handles them, nothing changes.
    """
    before: dict[int, Any] = {}
    with suppress(ValueError):
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
