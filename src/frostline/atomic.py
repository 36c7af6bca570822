"""Files and folders that appear under their final name whole, or not at all.

Everything is written beside its place, flushed to the disk and renamed. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from frostline.errors import RunError

_HASH_BYTES = 2**20
_HALF = ".half"  # how the name of a file ends until it is whole


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; when the block ends well, it takes the final name.

    Raises:
        RunError: the disk is full or may not be written; nothing is left behind.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(_HALF, f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def remove_half_written(path: Path) -> None:
    """Removes what killed processes left of a file that `new_file` was to give."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}{_HALF}"):  # eight letters: mkstemp's
        with suppress(OSError):
            left.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """`new_file` for a folder; one that stands at `path` is replaced."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            for item in (*temporary.rglob("*"), temporary):
                _flush(item)
            _swap(temporary, path)
            _flush(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole."""
    with new_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file whole, readable by people."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _swap(temporary: Path, path: Path) -> None:
    """Renames a folder into place; a folder cannot be renamed over a full one, so that one steps aside."""
    if not path.exists():
        os.rename(temporary, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    os.rename(path, aside / "old")
    os.rename(temporary, path)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _number_of(error) in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise RunError(f"{path}: the disk is full; nothing was changed. Free some space.") from error
        if _number_of(error) in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise RunError(f"{path}: may not be written.") from error
        raise


def _number_of(error: OSError | SafetensorError) -> int | None:
    """The system's number of an error; safetensors 0.8 gives it only in words: '(os error 28)'."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def remove_leftovers(folder: Path, name: str) -> None:
    """Removes what a killed process left of files and folders called `name`."""
    for item in folder.glob(f".{name}.*"):
        with suppress(OSError):
            shutil.rmtree(item) if item.is_dir() else item.unlink()
