"""One run, from its file to its folder: load, train, score on test once, write what was learned."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frostline.atomic import write_text
from frostline.config import Config
from frostline.data.batches import Split, tokenize
from frostline.data.dataset import Tables, load_tables
from frostline.data.labels import encode_labels, is_labelled
from frostline.errors import DataError, Interrupted, RunError, TrainingError, listing
from frostline.folder import check_free, clear, clear_leftovers, locked, with_rows_on_disk
from frostline.inference.model import Model, load
from frostline.model.backbone import Backbone, load_backbone
from frostline.model.device import Precision, choose_device, choose_precision, forward_tokens
from frostline.model.multitask import MultitaskModel
from frostline.plan.checks import check_plan, plan_warnings
from frostline.plan.freeze import tensor_hash
from frostline.plan.phase import Phase, PlanSettings
from frostline.plan.picture import build_trainability
from frostline.plan.recipes import resolve_phases
from frostline.results import Trained, build_report, score_test, write_results
from frostline.training.activations import Activations
from frostline.training.commits import Commits
from frostline.training.journal import Event, Journal
from frostline.training.loop import Trainer

Show = Callable[[Event], None]


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        folder: of the run.
        report: contents of `report.json`.
    """

    folder: Path
    report: dict[str, Any]

    def load(self) -> Model:
        """The finished model."""
        return load(self.folder)


@dataclass(frozen=True)
class Prepared:
    """A run ready to start: everything is loaded and checked, nothing is trained.

    Attributes:
        config: with the plan's phases, the labels and the number format written out.
        warnings: what the user should know, a sentence each.
    """

    config: Config
    splits: dict[str, Split]
    model: MultitaskModel
    phases: tuple[Phase, ...]
    precision: Precision
    device: torch.device
    warnings: tuple[str, ...]


def prepare(config: Config) -> Prepared:
    """Loads data and model and checks the plan against them.

    Raises:
        FrostlineError: anything that would go wrong later and can be known now.
    """
    phases = resolve_phases(config.plan, tasks=config.tasks)
    tables = load_tables(config.data, config.tasks, seed=config.train.seed)
    backbone = load_backbone(config.model)
    device = choose_device(config.train.device)
    precision = choose_precision(config.train.precision, device=device, width=backbone.width)
    model = MultitaskModel(backbone, tables.tasks, dropout=config.model.dropout).to(device)
    splits = {name: _split(name, tables, backbone, config) for name in tables.splits}
    scored = {name for name, labels in splits["validation"].labels.items() if is_labelled(labels).any()}
    if not scored:
        raise DataError(
            f"data.validation: no row has a label of any task. Columns looked for: "
            f"{listing(task.column for task in tables.tasks)}."
        )
    check_plan(phases, tasks=config.tasks, num_layers=backbone.num_layers, scored=scored)
    long = int((splits["train"].tokens.length_N >= backbone.max_length).sum())
    most = backbone.max_length
    lengths = f"{long} of {len(splits['train'])} training texts reach {most} tokens, where they are cut."
    warnings = (
        *tables.warnings,
        *plan_warnings(phases),
        *(
            f"no validation row has a label of '{task.name}': its best weights are chosen by the other tasks."
            for task in tables.tasks
            if task.name not in scored
        ),
        *([lengths] if long > len(splits["train"]) / 100 else []),
    )
    resolved = _resolved(config, phases, tables, precision, device)
    return Prepared(resolved, splits, model, phases, precision, device, warnings)


def _split(name: str, tables: Tables, backbone: Backbone, config: Config) -> Split:
    table = tables.splits[name]
    texts = (str(text) for text in table.columns[config.data.text])
    tokens = tokenize(backbone.tokenizer, texts, max_length=backbone.max_length, prompt=backbone.prompt)
    return Split(name, tokens, {task.name: encode_labels(task, table) for task in tables.tasks})


def _resolved(
    config: Config, phases: tuple[Phase, ...], tables: Tables, precision: Precision, device: torch.device
) -> Config:
    tasks = {
        task.name: config.tasks[task.name].model_copy(
            update={"labels": task.labels or None, "column": task.column}
        )
        for task in tables.tasks
    }
    tokens = config.train.batch_tokens or forward_tokens(device)
    train = config.train.model_copy(update={"precision": precision.format, "batch_tokens": tokens})
    return config.model_copy(update={"plan": PlanSettings(phases=phases), "tasks": tasks, "train": train})


def train(
    config: Config | str | Path | Mapping[str, Any],
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    show: Show | None = None,
) -> Run:
    """Trains a plan and leaves a run's folder.

    Args:
        config: a `Config`, the path of a TOML file, or its content as nested dicts.
        output: the run's folder; None: `runs/` and the file's name.
        overwrite: replace a run that stands there.
        show: called with every event as it happens.

    Returns:
        The run, with its report; `run.load()` gives the model.

    Raises:
        FrostlineError: a mistake in the file, the data or the plan; nothing was trained.
        Interrupted: Ctrl-C; the state is committed and `resume` goes on.
    """
    started = time.monotonic()
    name = Path(config).stem if isinstance(config, str | Path) else "run"
    folder = Path(output) if output else Path("runs") / name
    if isinstance(config, str | Path):
        config = Config.load(config)
    elif not isinstance(config, Config):
        config = Config.build(config)
    config = config.located(Path.cwd())
    with locked(folder):
        check_free(folder, overwrite=overwrite)
        prepared = prepare(config)
        resolved = with_rows_on_disk(prepared.config, folder)
        clear(folder)
        write_text(folder / "config.toml", resolved.to_toml())
        return _carry_out(prepared, folder, started, show)


def resume(folder: str | Path, *, show: Show | None = None) -> Run:
    """Goes on with a run from its last checkpoint that can be trusted, or from its start.

    Raises:
        RunError: no run is there, or it is in use.
        CheckpointError: data or plan changed, or no checkpoint is whole.
    """
    started = time.monotonic()
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder}: holds no config.toml, so there is no run to go on with.")
    with locked(folder):
        return _carry_out(prepare(Config.load(folder / "config.toml")), folder, started, show)


def _carry_out(prepared: Prepared, folder: Path, started: float, show: Show | None) -> Run:
    clear_leftovers(folder)
    model, device = prepared.model, prepared.device
    with Journal(folder / "events.jsonl", show=show) as journal:
        commits = Commits(
            folder / "checkpoints", settings=prepared.config.train, fingerprint=_fingerprint(prepared)
        )
        state, moments, damaged = commits.load(model, journal, device=device)
        trainer = Trainer(
            model,
            prepared.splits,
            prepared.phases,
            prepared.config.train,
            activations=Activations(model.backbone, precision=prepared.precision, device=device),
            journal=journal,
            commits=commits,
            state=state,
            moments=moments,
            started=started,
        )
        notes = [*prepared.warnings, *damaged]
        _announce(prepared, trainer, notes)
        with _stopping(trainer):
            try:
                trainer.run()
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"the memory of {device} is too small: halve train.batch_tokens (now "
                    f"{prepared.config.train.batch_tokens}). The last checkpoint is kept."
                ) from error
        trained = Trained(
            model, prepared.phases, prepared.splits, prepared.config.data.text, prepared.precision, device
        )
        test = score_test(trained)
        report = build_report(
            trained, phases=trainer.state.reports, test=test, seconds=trainer.seconds(), warnings=notes
        )
        write_results(trained, folder, report)
        journal.show({"event": "done", "folder": str(folder), "report": report})
    return Run(folder, report)


def _announce(prepared: Prepared, trainer: Trainer, notes: list[str]) -> None:
    for sentence in notes:
        trainer.journal.show({"event": "warning", "message": sentence})
    trainer.journal.show(
        {
            "event": "start",
            "table": build_trainability(prepared.model, prepared.phases),
            "precision": prepared.precision,
            "device": str(prepared.device),
            "rows": {name: len(split) for name, split in prepared.splits.items()},
            "resumed_at": trainer.state.position.step if trainer.state.learned else None,
        }
    )


def _fingerprint(prepared: Prepared) -> dict[str, str]:
    """What must be the same for a run to go on exactly."""
    data = hashlib.sha256()
    for name, split in prepared.splits.items():
        data.update(name.encode() + split.tokens.ids_T.tobytes() + split.tokens.offset_N1.tobytes())
        for task, labels in split.labels.items():
            data.update(task.encode() + labels.tobytes())
    settings = prepared.config.train.model_dump(mode="json", exclude={"save_seconds", "keep_last", "device"})
    tasks = {name: task.model_dump(mode="json") for name, task in prepared.model.tasks.items()}
    weights = hashlib.sha256()
    for name, parameter in prepared.model.backbone.named_parameters():
        weights.update(f"{name} {tensor_hash(parameter)} ".encode())
    parts = {
        "data": data.hexdigest(),
        "pretrained weights": weights.hexdigest(),
        "device": prepared.device.type,
        "plan": json.dumps([phase.model_dump(mode="json") for phase in prepared.phases]),
        "tasks": json.dumps(tasks),
        "model": prepared.config.model.model_dump_json(),
        "training settings": json.dumps(settings),
        "number of threads": str(torch.get_num_threads()),
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks for a stop after the step; the second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        trainer.stop_asked = True

    before: dict[int, Any] = {}
    with suppress(ValueError):  # not the main thread, whose owner handles signals
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Interrupted as stop:
        stop.signal = asked[0]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
