"""Save and load the finished folder: a Sentence Transformers model with heads beside it.

config.json, model.safetensors, modules.json, 1_Pooling/ …   as Sentence Transformers writes them
heads/<task>/head.json, model.safetensors                    a head and what its outputs mean
heads/<task>/fork.safetensors                                stages of its own, where it has any
frostline.json                                               what this folder is, with hashes
README.md                                                    model card
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import LayerNorm

from frostline.atomic import file_hash, new_folder, write_json
from frostline.data.labels import TASK_NAME, Task
from frostline.errors import BackboneError, BundleError
from frostline.model.backbone import Backbone
from frostline.model.domains import check_is_safe, read_json
from frostline.model.heads import Activation, Head, Hidden
from frostline.model.loading import load_sentence_transformer, quiet
from frostline.model.multitask import MultitaskModel
from frostline.places import bundle_folder
from frostline.settings import Settings

FORMAT = 1


class HeadFile(Settings):
    """Contents of `heads/<task>/head.json`."""

    type: Literal["linear", "hidden"] = "linear"
    width: int
    input_scale: float
    hidden_size: int | None = Field(default=None, ge=1)
    """Of a hidden layer before the linear map."""
    activation: Activation | None = None
    norm_eps: float | None = None
    """Of a LayerNorm after the activation; None: no norm."""
    fork_depth: int | None = Field(default=None, ge=0)
    """First stage that the head has for itself; None: it reads the shared embedding."""
    task: Task

    @model_validator(mode="after")
    def _check_type(self) -> Self:
        if (self.type == "hidden") != (self.hidden_size is not None and self.activation is not None):
            raise ValueError("hidden_size and activation belong to type 'hidden', and to it alone")
        return self


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
            _save_head(model, task, temporary / "heads" / name)
        (temporary / "README.md").write_text(card, "utf-8")
        hashes = {str(path.relative_to(temporary)): file_hash(path) for path in _hashed_files(temporary)}
        content = about.model_copy(update={"hashes": hashes}).model_dump(mode="json")
        write_json(temporary / "frostline.json", content)


def _save_head(model: MultitaskModel, task: Task, folder: Path) -> None:
    folder.mkdir(parents=True)
    head, fork = model.head(task.name), model.fork_of(task.name)
    described = HeadFile(
        type="hidden" if head.hidden else "linear",
        width=(head.hidden.dense if head.hidden else head.linear).in_features,
        input_scale=head.input_scale,
        hidden_size=head.hidden.dense.out_features if head.hidden else None,
        activation=head.hidden.activation if head.hidden else None,
        norm_eps=head.hidden.norm.eps if head.hidden and isinstance(head.hidden.norm, LayerNorm) else None,
        fork_depth=fork.depth if fork else None,
        task=task,
    )
    write_json(folder / "head.json", described.model_dump(mode="json"))
    hidden = (
        {f"hidden.{key}": value for key, value in head.hidden.state_dict().items()} if head.hidden else {}
    )
    _save(head.linear.state_dict() | hidden, folder / "model.safetensors")
    if fork:
        _save(fork.private_weights(), folder / "fork.safetensors")


def _save(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, path)


def _hashed_files(folder: Path) -> list[Path]:
    kinds = {".safetensors", ".json", ".txt", ".model"}
    return sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.name != "frostline.json")


def load_bundle(path: Path) -> tuple[MultitaskModel, BundleFile]:
    """The model in float32 on the CPU, in eval mode, and what its folder says of it.

    Raises:
        BundleError: incomplete, damaged (a file's hash differs), unsafe, or of a newer format.
    """
    folder = bundle_folder(path)
    about = read_about(folder)
    _check_hashes(folder, about)
    try:
        check_is_safe(folder)
        sentence_transformer = load_sentence_transformer(folder)
        backbone = Backbone(sentence_transformer, max_length=about.max_length, name=about.base_model)
    except BackboneError as error:
        raise BundleError(str(error)) from error
    described = {name: read_head(folder, name) for name in about.tasks}
    model = MultitaskModel(backbone, tuple(head.task for head in described.values()))
    for name, head_file in described.items():
        load_head(model, head_file, folder / "heads" / name)
    return model.eval(), about


def read_about(folder: Path) -> BundleFile:
    """What a bundle says of itself; its files are not looked at.

    Raises:
        BundleError: damaged, or of a newer format.
    """
    raw = _read(folder / "frostline.json")
    if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise BundleError(
            f"{folder}: is of format {raw['format']}, this frostline reads up to {FORMAT}. Upgrade frostline."
        )
    try:
        return BundleFile.model_validate(raw)
    except ValidationError as error:
        raise BundleError(f"{folder / 'frostline.json'}: {_first(error)}.") from error


def read_head(bundle: Path, task: str) -> HeadFile:
    """What a bundle says of one of its heads.

    Raises:
        BundleError: damaged, or of a kind that this frostline does not know.
    """
    path = bundle / "heads" / task / "head.json"
    try:
        head = HeadFile.model_validate(_read(path))
    except ValidationError as error:
        raise BundleError(f"{path}: {_first(error)}.") from error
    if not math.isfinite(head.input_scale):
        raise BundleError(f"{path}: input_scale is not finite.")
    return head


def load_head(model: MultitaskModel, described: HeadFile, folder: Path) -> None:
    """Puts a saved head, with the stages of its own, into a model of the same width.

    Args:
        model: has a head for the task.
        described: its `head.json`.
        folder: of the head.

    Raises:
        BundleError: weights that do not fit or are not finite.
    """
    hidden = None
    if described.hidden_size and described.activation:
        width, size = described.width, described.hidden_size
        hidden = Hidden(width, size, activation=described.activation, norm_eps=described.norm_eps)
    head = Head(
        described.task,
        width=described.width,
        input_scale=described.input_scale,
        dropout=model.head(described.task.name).dropout.p,
        hidden=hidden,
    )
    weights = _load(folder / "model.safetensors")
    names = {key if key.startswith("hidden.") else f"linear.{key}": value for key, value in weights.items()}
    try:
        head.load_state_dict(names)
    except RuntimeError as error:
        raise BundleError(
            f"{folder / 'model.safetensors'}: not the weights of this head ({error})."
        ) from error
    model.set_head(head)
    if described.fork_depth is not None:
        _load_fork(model, described, folder / "fork.safetensors")


def _load_fork(model: MultitaskModel, described: HeadFile, path: Path) -> None:
    fork = model.fork(described.task.name, depth=described.fork_depth or 0)
    own, weights = fork.private_weights(), _load(path)
    if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
        raise BundleError(f"{path}: not the stages from {described.fork_depth} upward of this backbone.")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path}: holds no weights ({error}).") from error
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise BundleError(f"{path}: holds weights that are not finite.")
    return weights


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
