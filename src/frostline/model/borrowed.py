"""A head from elsewhere: that of a Hugging Face model for classification, or of an earlier bundle.

Gives what its outputs mean before any data is read, and puts the head into a model. Knows folders and
heads, not plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from frostline.data.labels import Kind, Task, TaskSettings
from frostline.errors import BackboneError, BundleError, ConfigError, listing
from frostline.model.architectures import Classifier, layout_of
from frostline.model.backbone import Backbone
from frostline.model.bundle import load_bundle, load_head, read_about, read_head
from frostline.model.domains import DOMAINS, Pooling, find_backbone, read_json
from frostline.model.heads import Activation, Head, Hidden
from frostline.model.loading import quiet
from frostline.model.multitask import MultitaskModel
from frostline.places import bundle_folder

_KINDS: dict[str | None, Kind] = {
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel",
    "regression": "regression",
}


@dataclass(frozen=True)
class BorrowedHead:
    """A head that can be put into a model.

    Attributes:
        task: what its outputs mean, by the name that it has here.
        source: what the user wrote.
        folder: where it lies.
        name: of its task there, in a bundle.
        pooling: what it reads; None: the embedding of its bundle.
    """

    task: Task
    source: str
    folder: Path
    pooling: Pooling | None
    name: str = ""


def find_head(task: str, source: str) -> BorrowedHead:
    """The head of a folder, a hub name, a domain, or a bundle.

    Args:
        task: its name here; a bundle's head of that name is taken, or its only one.
        source: value of `head_from`.

    Raises:
        BackboneError: not found, unsafe, or without a classification head.
        BundleError: no such head in the bundle, or a damaged one.
    """
    place = Path(source).expanduser()
    if source not in DOMAINS and ((place / "frostline.json").is_file() or (place / "model").is_dir()):
        return _find_in_bundle(task, source, bundle_folder(place))
    folder = find_backbone(source, key=f"tasks.{task}.head_from").folder
    config = read_json(folder / "config.json")
    names = config.get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        raise BackboneError(
            f"tasks.{task}.head_from: '{source}' is a model of {listing(names)}; one of "
            "…ForSequenceClassification, or a bundle, has a head to take."
        )
    layout = layout_of(str(config.get("model_type"))).classifier
    pooling = "cls" if layout.pooling == "cls" else config.get(layout.pooling, "cls")
    if pooling not in get_args(Pooling):
        raise BackboneError(
            f"{folder / 'config.json'}: {layout.pooling} '{pooling}' is unknown to frostline."
        )
    return BorrowedHead(_described(task, config), source, folder, cast(Pooling, pooling))


def _described(task: str, config: dict[str, Any]) -> Task:
    """The task that a model's configuration describes; its labels in the order of its outputs."""
    labels = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    ordered = tuple(str(labels[key]) for key in sorted(labels, key=int))
    kind = _KINDS.get(config.get("problem_type"), "classification" if len(ordered) > 1 else "regression")
    return Task(name=task, column=task, kind=kind, labels=() if kind == "regression" else ordered)


def _find_in_bundle(task: str, source: str, folder: Path) -> BorrowedHead:
    about = read_about(folder)
    name = task if task in about.tasks else about.tasks[0] if len(about.tasks) == 1 else None
    if name is None:
        raise BundleError(f"tasks.{task}.head_from: {folder} has no head '{task}' ({listing(about.tasks)}).")
    described = read_head(folder, name).task
    return BorrowedHead(described.model_copy(update={"name": task}), source, folder, None, name)


def take_over(name: str, settings: TaskSettings, given: Task) -> TaskSettings:
    """The settings with kind and labels of a head from elsewhere.

    Raises:
        ConfigError: the settings say otherwise.
    """
    if "kind" in settings.model_fields_set and settings.kind != given.kind:
        raise ConfigError(
            f"tasks.{name}.kind: '{settings.kind}' asked, but the head of '{settings.head_from}' is of kind "
            f"'{given.kind}'."
        )
    if settings.labels and set(settings.labels) != set(given.labels):
        raise ConfigError(
            f"tasks.{name}.labels: {listing(settings.labels)} given, but the head of '{settings.head_from}' "
            f"has {listing(given.labels)}. Leave them out."
        )
    separator = settings.separator or given.separator
    decimal = settings.decimal if "decimal" in settings.model_fields_set else given.decimal
    taken = {
        "kind": given.kind, "labels": given.labels or None, "separator": separator, "decimal": decimal,
    }  # fmt: skip
    try:
        return TaskSettings.model_validate(settings.model_dump() | taken)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"tasks.{name}: {reason} (the head of '{settings.head_from}').") from error


def put_head(model: MultitaskModel, head: BorrowedHead) -> str | None:
    """Puts a head in its task's place, with the stages of its own that a bundle kept for it.

    Args:
        model: changed; its task has the head's outputs.
        head: as `find_head` gave it.

    Returns:
        A sentence when the head was trained on another encoder than the model has, else None.

    Raises:
        ConfigError: the model's embedding is not what the head reads.
    """
    if head.pooling is None:
        return _put_from_bundle(model, head)
    found = _load_classifier(head.folder)
    layout = layout_of(found.config.model_type).classifier
    _check_reads(model.backbone, head)
    dense, linear = (cast(nn.Linear, _module(found, path)) for path in (layout.dense, layout.linear))
    task, old = head.task.name, model.head(head.task.name)
    hidden = Hidden(
        dense.in_features,
        dense.out_features,
        activation=_activation(found, layout),
        norm_eps=cast(nn.LayerNorm, _module(found, layout.norm)).eps if layout.norm else None,
    )
    built = Head(old.task, width=dense.in_features, dropout=old.dropout.p, hidden=hidden)
    with torch.no_grad():
        for target, source in ((hidden.dense, dense), (built.linear, linear)):
            _copy(target, source)
        if layout.norm:
            _copy(hidden.norm, _module(found, layout.norm))
    model.set_head(built)
    return None if _same(model.backbone, found.base_model) else _other_encoder(task, head)


def _put_from_bundle(model: MultitaskModel, head: BorrowedHead) -> str | None:
    network, _ = load_bundle(head.folder)
    described = read_head(head.folder, head.name)
    is_same = _same(model.backbone, network.backbone.transformer)
    mine, theirs = (
        f"{one.width} numbers of {', '.join(type(module).__name__ for module in one.tail)} ({one.pooling})"
        for one in (model.backbone, network.backbone)
    )
    if mine != theirs:
        raise ConfigError(
            f"tasks.{head.task.name}.head_from: the head reads {theirs}, this backbone's embedding is "
            f"{mine}. Take the same folder as model.backbone."
        )
    if described.fork_depth is not None and not is_same:
        raise ConfigError(
            f"tasks.{head.task.name}.head_from: the head has stages of its own, which fit the backbone of "
            f'bundle alone. Take model.backbone = "{head.source}".'
        )
    described = described.model_copy(update={"task": model.tasks[head.task.name]})
    load_head(model, described, head.folder / "heads" / head.name)
    return None if is_same else _other_encoder(head.task.name, head)


def _load_classifier(folder: Path) -> PreTrainedModel:
    try:
        with quiet(), torch.random.fork_rng():
            return cast(
                PreTrainedModel,
                AutoModelForSequenceClassification.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
                ),
            )
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise BackboneError(f"{folder}: its classification head cannot be loaded ({error}).") from error


def _module(model: PreTrainedModel, path: str) -> nn.Module:
    """A module by its path; a path through the encoder is written with BERT's name for it."""
    inside = path.removeprefix("bert.")
    return model.base_model.get_submodule(inside) if inside != path else model.get_submodule(path)


def _activation(model: PreTrainedModel, layout: Classifier) -> Activation:
    name = getattr(model.config, layout.activation) if layout.from_config else layout.activation
    if name not in {"tanh", "relu", "gelu"}:
        raise BackboneError(f"head_from: a head with the activation '{name}' is unknown to frostline.")
    return cast(Activation, name)


def _copy(target: nn.Module, source: nn.Module) -> None:
    """Copies weight and bias; a source without a bias leaves zeros."""
    for name, parameter in target.named_parameters():
        value = getattr(source, name, None)
        parameter.zero_() if value is None else parameter.copy_(value)


def _check_reads(backbone: Backbone, head: BorrowedHead) -> None:
    pooling = backbone.pooling
    if pooling != head.pooling or len(backbone.tail) != 1:
        raise ConfigError(
            f"tasks.{head.task.name}.head_from: the head of '{head.source}' reads the transformer's "
            f"{head.pooling} pooling, and this backbone's embedding is {pooling} pooling"
            f"{' and more' if len(backbone.tail) > 1 else ''}. Take the same folder as model.backbone."
        )


def _same(backbone: Backbone, other: nn.Module) -> bool:
    """Whether an encoder has the backbone's weights; what no embedding depends on is not compared."""
    stages = {id(p): backbone.stage_of[name] for name, p in backbone.named_parameters()}
    theirs = dict(other.named_parameters())
    return all(
        name in theirs and torch.equal(mine.detach().cpu(), theirs[name].detach().cpu())
        for name, mine in backbone.transformer.named_parameters()
        if stages[id(mine)] is not None
    )


def _other_encoder(task: str, head: BorrowedHead) -> str:
    return (
        f"the head of '{task}' was trained on another encoder than this backbone ('{head.source}'): its "
        "answers are not those that it gave there until it has learned."
    )
