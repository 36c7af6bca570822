"""Save and load the finished folder: a Sentence Transformers model with heads beside it.

config.json, model.safetensors, modules.json, 1_Pooling/ …   as Sentence Transformers writes them
heads/<task>/head.json, model.safetensors                    a linear head and what its outputs mean
frostline.json                                               what this folder is, with hashes
README.md                                                    model card
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from frostline.atomic import file_hash, new_folder, write_json
from frostline.data.labels import TASK_NAME, Task
from frostline.errors import BackboneError, BundleError
from frostline.model.backbone import Backbone, load_sentence_transformer, quiet
from frostline.model.domains import check_is_safe, read_json
from frostline.model.heads import Head
from frostline.model.multitask import MultitaskModel
from frostline.settings import Settings

FORMAT = 1


class HeadFile(Settings):
    """Contents of `heads/<task>/head.json`."""

    type: str = "linear"
    width: int
    input_scale: float
    task: Task


class BundleFile(Settings):
    """Contents of `frostline.json`."""

    format: int = FORMAT
    frostline: str
    """Version that wrote it."""
    base_model: str
    max_length: int
    text_column: str = "text"
    tasks: tuple[str, ...]
    plan: str = ""
    scores: dict[str, Any] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every weights and configuration file, by its path in the folder."""

    @field_validator("tasks")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not TASK_NAME.fullmatch(name):  # names become folders
                raise ValueError(f"'{name}' is no task's name")
        return names


def save_bundle(model: MultitaskModel, folder: Path, *, about: BundleFile, card: str) -> None:
    """Writes the folder whole; one that stands there is replaced.

    Args:
        model: its weights are written in float32.
        folder: final place.
        about: `hashes` are filled in here.
        card: text of README.md.
    """
    with new_folder(folder) as temporary:
        with quiet():
            model.backbone.sentence_transformer.save_pretrained(str(temporary), create_model_card=False)
        for name, task in model.tasks.items():
            _save_head(model.head(name), task, temporary / "heads" / name)
        (temporary / "README.md").write_text(card, "utf-8")
        hashes = {str(path.relative_to(temporary)): file_hash(path) for path in _hashed_files(temporary)}
        content = about.model_copy(update={"hashes": hashes}).model_dump(mode="json")
        write_json(temporary / "frostline.json", content)


def _save_head(head: Head, task: Task, folder: Path) -> None:
    folder.mkdir(parents=True)
    described = HeadFile(width=head.linear.in_features, input_scale=head.input_scale, task=task)
    write_json(folder / "head.json", described.model_dump(mode="json"))
    weights = {"weight": head.linear.weight, "bias": head.linear.bias}
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in weights.items()},
        folder / "model.safetensors",
    )


def _hashed_files(folder: Path) -> list[Path]:
    kinds = {".safetensors", ".json", ".txt", ".model"}
    return sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.name != "frostline.json")


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
    raise BundleError(
        f"{path}: holds no frostline.json, so it is no model of frostline, or its run has not ended."
    )


def load_bundle(path: Path) -> tuple[MultitaskModel, BundleFile]:
    """The model in float32 on the CPU, in eval mode, and what its folder says of it.

    Raises:
        BundleError: incomplete, damaged (a file's hash differs), unsafe, or of a newer format.
    """
    folder = bundle_folder(path)
    about = _read_about(folder)
    _check_hashes(folder, about)
    try:
        check_is_safe(folder)
        sentence_transformer = load_sentence_transformer(folder)
        backbone = Backbone(sentence_transformer, max_length=about.max_length, name=about.base_model)
    except BackboneError as error:
        raise BundleError(str(error)) from error
    described = {name: _read_head(folder / "heads" / name) for name in about.tasks}
    model = MultitaskModel(backbone, tuple(head.task for head in described.values()))
    for name, head_file in described.items():
        _load_head(model.head(name), head_file, folder / "heads" / name)
    return model.eval(), about


def _read_about(folder: Path) -> BundleFile:
    raw = _read(folder / "frostline.json")
    if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise BundleError(
            f"{folder}: is of format {raw['format']}, this frostline reads up to {FORMAT}. Upgrade frostline."
        )
    try:
        return BundleFile.model_validate(raw)
    except ValidationError as error:
        raise BundleError(f"{folder / 'frostline.json'}: {_first(error)}.") from error


def _read_head(folder: Path) -> HeadFile:
    try:
        head = HeadFile.model_validate(_read(folder / "head.json"))
    except ValidationError as error:
        raise BundleError(f"{folder / 'head.json'}: {_first(error)}.") from error
    if head.type != "linear" or not math.isfinite(head.input_scale):
        raise BundleError(f"{folder / 'head.json'}: head type '{head.type}' is unknown to this frostline.")
    return head


def _load_head(head: Head, described: HeadFile, folder: Path) -> None:
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
        head.linear.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(f"{path}: not the weights of this head ({error}).") from error
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise BundleError(f"{path}: holds weights that are not finite.")
    head.input_scale = described.input_scale


def _check_hashes(folder: Path, about: BundleFile) -> None:
    for name, digest in about.hashes.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(
                f"{folder / 'frostline.json'}: names '{name}', which lies outside of the folder."
            )
        if not path.is_file():
            raise BundleError(f"{folder}: '{name}' is missing. Copy the whole folder again.")
        if file_hash(path) != digest:
            raise BundleError(
                f"{path}: is not what was saved (frostline.json has another hash). Copy it again, "
                "or resume the run that made it."
            )


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except BackboneError as error:
        raise BundleError(str(error)) from error


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
