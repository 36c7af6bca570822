"""The folder of one run: who owns it, what is in it, and when it may be used.

config.toml  events.jsonl  checkpoints/  trainability.png  curves.png  report.json  answers.safetensors
model/  data/  alone/
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frostline.atomic import remove_leftovers
from frostline.config import Config
from frostline.errors import RunError, listing
from frostline.inference.write import row_writer
from frostline.locks import held

_RESULTS = (
    "config.toml",
    "events.jsonl",
    "checkpoints",
    "trainability.png",
    "curves.png",
    "report.json",
    "answers.safetensors",
    "model",
    "alone",
)
_DATA = "data"
_LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that died is free. A folder left empty is removed.

    Raises:
        RunError: another process is using the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise RunError(f"{folder}: cannot be the folder of a run ({error.strerror}).") from error
    busy = f"{folder}: another process is using this run. Wait, or take another --output."
    with held(folder / _LOCK, busy=busy):
        try:
            yield
        finally:
            if folder.is_dir() and [item.name for item in folder.iterdir()] == [_LOCK]:
                shutil.rmtree(folder, ignore_errors=True)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raises RunError when the folder holds a run that may not be replaced, or files of something else."""
    found = {item.name for item in folder.iterdir() if not item.name.startswith(".")}
    strangers = found - {*_RESULTS, _DATA} if "config.toml" in found else found - {_DATA}
    if strangers:
        raise RunError(
            f"{folder}: holds files that do not belong to a run ({listing(sorted(strangers))}). Give a new "
            "or an empty --output."
        )
    if found and not overwrite:
        raise RunError(
            f"{folder}: holds a run already. Go on with it: frostline resume {folder}. Replace it: "
            "--overwrite. Or give another --output."
        )


def check_sources(config: Config, folder: Path) -> None:
    """Raises RunError when the run would write over a model that it starts from."""
    sources = [config.model.backbone, *(task.head_from for task in config.tasks.values() if task.head_from)]
    for source in sources:
        if Path(source).is_absolute() and Path(source).resolve().is_relative_to(folder.resolve()):
            raise RunError(
                f"{folder}: the run starts from {source}, which lies in it. Give another --output."
            )


def clear(folder: Path) -> None:
    """Removes the results of an earlier run; rows that it keeps in `data/` stay."""
    clear_leftovers(folder)
    for name in _RESULTS:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed process left half-written."""
    remove_leftovers(folder / "checkpoints", "step-*")
    remove_leftovers(folder / _DATA, "*.jsonl")
    for name in _RESULTS:
        remove_leftovers(folder, name)


def with_rows_on_disk(config: Config, folder: Path) -> Config:
    """The config with rows that were given in memory written into the folder, so that its file reruns it."""
    moved: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        sources = getattr(config.data, name) or ()
        if any(source.path is None for source in sources):
            path = (folder / _DATA / f"{name}.jsonl").absolute()
            with row_writer(path) as writer:
                for source in sources:
                    for block in source.blocks():
                        writer.write(block.rows)
            moved[f"data.{name}"] = ({"path": path},)
    return config.with_(moved) if moved else config
