"""Ctrl-C and SIGTERM answered by a function for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def answering(handler: Callable[[int, object], None], *, also_ignored: bool = True) -> Iterator[None]:
    """`handler` gets SIGINT and SIGTERM inside the block.

    Outside of the main thread, whose owner handles them, nothing changes.

    Args:
        handler: gets the signal's number and the frame.
        also_ignored: whether it gets a signal that this process was started to ignore, as a shell's script
            does with Ctrl-C for what it starts in the background.
    """
    before: dict[int, Any] = {}
    with suppress(ValueError):
        for number in map(int, (signal.SIGINT, signal.SIGTERM)):
            if also_ignored or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
