"""Where the time of a run goes, part by part; off unless asked for, since it waits for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Profile:
    """Seconds by the name of a part.

    Attributes:
        seconds: so far, in the order in which the parts first ran.
    """

    def __init__(self, *, is_on: bool = False) -> None:
        self.is_on = is_on
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block to a part; a part inside another counts in both."""
        if not self.is_on:
            yield
            return
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    @staticmethod
    def _now() -> float:
        """Seconds on a clock, once a GPU has done what it was given."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
