"""`events.jsonl`: what happened in a run, a line each, appended and never rewritten but for a resume.

One function may listen, which is how the terminal shows progress. Knows nothing of what events mean.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from frostline.errors import CheckpointError

Event = dict[str, Any]


class Journal:
    """The log of one run. Without a path it writes nothing: another process does."""

    def __init__(self, path: Path | None, *, show: Callable[[Event], None] | None = None) -> None:
        self.path = path
        self._show = show
        self._stream = path.open("ab") if path else io.BytesIO()

    def write(self, event: str, **fields: Any) -> None:
        """Appends a line and shows it."""
        content = {"event": event, **fields}
        if not self.path:
            return
        self._stream.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        self.show(content)

    def show(self, content: Event) -> None:
        """Shows something that is not worth a line."""
        if self._show:
            self._show(content)

    def size_bytes(self) -> int:
        """Length of the log, as flushed to the disk."""
        if not self.path:
            return 0
        os.fsync(self._stream.fileno())
        return self._stream.tell() or self.path.stat().st_size

    def cut(self, size_bytes: int) -> None:
        """Forgets what came after a checkpoint, since it will happen again.

        Raises:
            CheckpointError: the log is shorter than it was at the checkpoint.
        """
        if not self.path:
            return
        if self.path.stat().st_size < size_bytes:
            raise CheckpointError(
                f"{self.path}: is shorter than when the checkpoint was taken. Put it back, or train anew "
                "with --overwrite."
            )
        self._stream.truncate(size_bytes)
        self._stream.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def read_events(path: Path) -> Iterator[Event]:
    """Events of a log in order; a last line that was cut by a kill is left out."""
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield json.loads(line)
