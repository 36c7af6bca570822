"""Where runs and models lie, told from the names of their files alone: nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from frostline.errors import BundleError, RunError


def bundle_folder(path: Path) -> Path:
    """The bundle at a path, which may be a run's folder.

    Raises:
        BundleError: neither.
    """
    for folder in (path, path / "model"):
        if (folder / "frostline.json").is_file():
            return folder
    if not path.is_dir():
        raise BundleError(f"{path}: no such folder. Give the folder of a run, or the 'model' folder in it.")
    if (path / "config.toml").is_file():
        raise BundleError(f"{path}: its run has not ended. Go on with it: frostline resume {path}")
    raise BundleError(f"{path}: holds no frostline.json, so it is no model of frostline.")


def check_run_folder(folder: Path) -> None:
    """Raises RunError where no run has begun in a folder."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder. Give the folder of a run.")
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder}: holds no config.toml, so there is no run to go on with.")
