"""A run made ready: data and model loaded, the plan checked against them, every default written out.

Trains nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from frostline.cache import cache_folder
from frostline.config import Config
from frostline.data.batches import Split
from frostline.data.dataset import Tables, load_tables, text_columns
from frostline.data.labels import check_learnable, encode_labels, is_labelled
from frostline.data.table import read_table
from frostline.data.token_cache import tokenize_once
from frostline.errors import ConfigError, DataError, listing
from frostline.model.backbone import Backbone
from frostline.model.borrowed import BorrowedHead, find_head, put_head, take_over
from frostline.model.cores import product_seconds
from frostline.model.device import Precision, choose_device, choose_precision, step_tokens
from frostline.model.domains import find_backbone
from frostline.model.loading import load_backbone
from frostline.model.multitask import MultitaskModel
from frostline.notices import (
    added_epochs,
    crowded_cores,
    cut_texts,
    fork_costs,
    labels_alike,
    labels_undivided,
    scarce_labels,
    tasks_without_labels,
    unheeded_settings,
)
from frostline.plan.alone import phases_alone
from frostline.plan.checks import check_plan, plan_warnings
from frostline.plan.phase import Phase, PlanSettings
from frostline.plan.recipes import resolve_phases
from frostline.training.calibration import before_training
from frostline.training.gate import Decision, decide_all
from frostline.training.settings import TrainSettings
from frostline.training.steps import with_epochs


@dataclass(frozen=True)
class Prepared:
    """A run ready to start.

    Attributes:
        config: with the plan's phases, the labels and what this machine decided written out.
        splits: tokenised, with encoded labels, by name.
        model: pretrained; its heads come from elsewhere or know nothing of a text.
        phases: of the plan.
        precision: number format that training will take.
        device: where it will run.
        warnings: what the user should know, a sentence each.
        decisions: where the outputs of frozen stages are stored, and why.
    """

    config: Config
    splits: dict[str, Split]
    model: MultitaskModel
    phases: tuple[Phase, ...]
    precision: Precision
    device: torch.device
    warnings: tuple[str, ...]
    decisions: tuple[Decision, ...] = ()


def prepare(config: Config) -> Prepared:
    """Loads data and model and checks the plan against them.

    Raises:
        FrostlineError: anything that would go wrong later and can be known now.
    """
    if config.train.each_task_alone and len(config.tasks) < 2:
        raise ConfigError("train.each_task_alone: there is one task, which is alone already.")
    frozen = [name for name, task in config.tasks.items() if task.frozen]
    phases = resolve_phases(config.plan, tasks=config.tasks, frozen=frozen)
    heads = {name: find_head(name, task.head_from) for name, task in config.tasks.items() if task.head_from}
    config = _with_heads(config, heads)
    given = {name: head.task for name, head in heads.items()}
    tables = load_tables(config.data, config.tasks, seed=config.train.seed, given=given)
    backbone = _backbone(config)
    device = choose_device(config.train.device)
    precision = choose_precision(config.train.precision, device=device, width=backbone.width)
    model = MultitaskModel(backbone, tables.tasks, dropout=config.model.dropout)
    strangers = [put_head(model, head) for head in heads.values()]
    forked = [name for name in config.tasks if model.fork_of(name) is not None]
    learning = {name for phase in phases for name in phase.learning_heads(config.tasks)}
    for task in tuple(model.tasks.values()):
        model.set_task(before_training(task, learns=task.name in learning))
    model.to(device)
    splits = {name: _split(name, tables, backbone, config) for name in tables.splits}
    _start_heads(model, splits["train"], config)
    scored = _labelled(splits["validation"])
    if not scored:
        columns = listing(task.column for task in tables.tasks)
        raise DataError(f"data.validation: no row has a label of any task. Columns looked for: {columns}.")
    _check_phases(phases, config, model, splits)
    for task in tables.tasks:
        if task.name in heads and any(task.name in phase.learning_heads(config.tasks) for phase in phases):
            check_learnable(task, tables.splits["train"])
    warnings: tuple[str, ...] = (
        *tables.warnings,
        *(sentence for sentence in strangers if sentence),
        *plan_warnings(phases, forked=forked),
        *fork_costs(model, phases),
        *tasks_without_labels(
            tables.tasks,
            splits,
            learning=learning,
        ),
        *(said for task in tables.tasks for said in labels_alike(task)),
        *(said for task in tables.tasks for said in labels_undivided(task)),
        *(said for task in tables.tasks for said in scarce_labels(task, splits["validation"])),
        *cut_texts(splits["train"], backbone.max_length, most=backbone.num_positions),
    )
    train, noted = _resolved_settings(config, precision, device)
    warnings += tuple(noted)
    asked, phases = phases, with_epochs(phases, splits["train"], train)
    warnings += tuple(added_epochs(asked, phases))
    phases, decisions = decide_all(backbone, splits, phases, train, precision=precision, device=device)
    resolved = _resolved(config, phases, tables, train)
    return Prepared(resolved, splits, model, phases, precision, device, warnings, decisions)


def _backbone(config: Config) -> Backbone:
    backbone = load_backbone(config.model)
    backbone.recomputes_stages = config.train.gradient_checkpointing
    return backbone


def notes_of(prepared: Prepared) -> Iterator[str]:
    """What to know besides of this plan, on this machine as it is now, a sentence each."""
    yield from unheeded_settings(prepared.model.tasks.values(), prepared.phases)
    layers_learn = any(phase.top_layers != 0 or phase.thaw for phase in prepared.phases)
    if layers_learn and prepared.device.type == "cpu":
        yield from crowded_cores(product_seconds(prepared.model.backbone.width, prepared.precision.dtype))


def phases_of(prepared: Prepared, plan: PlanSettings) -> tuple[Phase, ...]:
    """The phases of another plan for what is prepared.

    Raises:
        ConfigError: it does not fit the tasks, the labels or the backbone.
    """
    config = prepared.config
    frozen = [name for name, task in config.tasks.items() if task.frozen]
    phases = resolve_phases(plan, tasks=config.tasks, frozen=frozen)
    _check_phases(phases, config, prepared.model, prepared.splits)
    return with_epochs(phases, prepared.splits["train"], prepared.config.train)


def texts_of(prepared: Prepared, split: str) -> list[str]:
    """The texts of a split, read once more: a prepared run holds tokens alone."""
    config = prepared.config
    sources = getattr(config.data, split)
    if sources is not None and split != "train":
        table = read_table(sources, text_columns(config.data)[:1], split=split)
    else:
        given = {name: prepared.model.tasks[name] for name, task in config.tasks.items() if task.head_from}
        tables = load_tables(config.data, config.tasks, seed=config.train.seed, given=given)
        table = tables.splits[split]
    return [str(text) for text in table.columns[config.data.text].to_pylist()]


def _check_phases(
    phases: Sequence[Phase], config: Config, model: MultitaskModel, splits: Mapping[str, Split]
) -> None:
    check_plan(
        phases,
        tasks=config.tasks,
        num_layers=model.backbone.num_layers,
        labelled=_labelled(splits["train"]),
        scored=_labelled(splits["validation"]),
        taken=[name for name, task in config.tasks.items() if task.head_from],
        forked=[name for name in config.tasks if model.fork_of(name) is not None],
    )


def prepare_alone(prepared: Prepared, task: str) -> Prepared:
    """The same run for one task by itself: the same rows, the pretrained model afresh, the plan's phases.

    Args:
        prepared: of the run with all tasks.
        task: one whose head learns in some phase.
    """
    config = prepared.config
    phases = phases_alone(prepared.phases, task)
    model = MultitaskModel(
        _backbone(config),
        (prepared.model.tasks[task].uncalibrated(),),
        dropout=config.model.dropout,
    )
    source = config.tasks[task].head_from
    if source:
        put_head(model, find_head(task, source))
    splits = {
        name: replace(split, labels={task: split.labels[task]}) for name, split in prepared.splits.items()
    }
    _start_heads(model, splits["train"], config)
    train = config.train.model_copy(update={"each_task_alone": False})
    alone = {"plan": PlanSettings(phases=phases), "tasks": {task: config.tasks[task]}, "train": train}
    return replace(
        prepared,
        config=config.model_copy(update=alone),
        splits=splits,
        model=model.to(prepared.device),
        phases=phases,
        warnings=(),
        decisions=(),
    )


def _with_heads(config: Config, heads: Mapping[str, BorrowedHead]) -> Config:
    """The config with kinds, labels and pooling of heads from elsewhere.

    Raises:
        ConfigError: the file says otherwise, or two heads read different poolings.
    """
    tasks = {
        name: take_over(name, task, heads[name].task) if name in heads else task
        for name, task in config.tasks.items()
    }
    poolings = {head.pooling for head in heads.values() if head.pooling}
    if len(poolings) > 1:
        raise ConfigError(
            f"tasks: heads from elsewhere read different poolings ({listing(sorted(poolings))})."
        )
    pooling = config.model.pooling or next(iter(poolings), None)
    if not says_its_pooling(config.model.backbone):
        config = config.model_copy(update={"model": config.model.model_copy(update={"pooling": pooling})})
    return config.model_copy(update={"tasks": tasks})


def says_its_pooling(backbone: str) -> bool:
    """Whether a backbone's folder says how it pools, so that no setting may."""
    return (find_backbone(backbone).folder / "modules.json").is_file()


def _start_heads(model: MultitaskModel, train: Split, config: Config) -> None:
    """Base rates for heads that do not come from elsewhere."""
    for name, labels in train.labels.items():
        if config.tasks[name].head_from is None:
            model.head(name).start_at_base_rates(labels)


def _labelled(split: Split) -> set[str]:
    """Tasks with a label in a split."""
    return {name for name, labels in split.labels.items() if is_labelled(labels).any()}


def _split(name: str, tables: Tables, backbone: Backbone, config: Config) -> Split:
    table = tables.splits[name]
    column = table.columns[config.data.text]
    tokens = tokenize_once(
        backbone.tokenizer,
        lambda: (text for chunk in column.chunks for text in chunk.to_pylist()),
        max_length=backbone.max_length,
        prompt=backbone.prompt,
        folder=None if config.train.activations.store == "never" else cache_folder("tokens"),
    )
    labels = {task.name: encode_labels(task, table) for task in tables.tasks}
    return Split(name, tokens, labels, replace(table, columns={}).where)  # places without the texts


def _resolved_settings(
    config: Config, precision: Precision, device: torch.device
) -> tuple[TrainSettings, list[str]]:
    """The training settings with what this machine decided, and a sentence where it cannot store anything."""
    tokens = config.train.batch_tokens or step_tokens(device, precision.format)
    update: dict[str, object] = {"precision": precision.format, "batch_tokens": tokens}
    stores, said = config.train.activations, []
    if stores.store == "auto" and not stores.can_write():
        said.append(f"{stores.place()}: may not be written, so no activations are stored.")
        update["activations"] = stores.model_copy(update={"store": "never"})
    return config.train.model_copy(update=update), said


def _resolved(config: Config, phases: tuple[Phase, ...], tables: Tables, train: TrainSettings) -> Config:
    tasks = {
        task.name: config.tasks[task.name].model_copy(
            update={"labels": task.labels or None, "column": task.column}
        )
        for task in tables.tasks
    }
    return config.model_copy(update={"plan": PlanSettings(phases=phases), "tasks": tasks, "train": train})
