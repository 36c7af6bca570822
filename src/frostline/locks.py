"""One process at a time: a lock file, which is free again when its owner dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from frostline.errors import RunError


@contextmanager
def held(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Holds a lock file for as long as the block lasts.

    Args:
        path: of the file, in a folder that is there.
        busy: what is said when another process holds it; None: it is waited for.

    Raises:
        RunError: another process holds it, or it cannot be made.
    """
    lock = FileLock(path, timeout=-1 if busy is None else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(str(busy)) from error
    except OSError as error:
        reason = f"may not be written ({error.strerror}). Take another folder."
        raise RunError(f"{path.parent}: {reason}") from error
    try:
        yield
    finally:
        lock.release()
