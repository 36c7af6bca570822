"""One run, from its file to its folder: prepare, train, score on test once, write what was learned."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from frostline.atomic import write_json, write_text
from frostline.config import Config, as_config
from frostline.data.labels import is_labelled
from frostline.errors import Interrupted, TrainingError
from frostline.fingerprint import fingerprint
from frostline.folder import check_free, check_sources, clear, clear_leftovers, locked, with_rows_on_disk
from frostline.inference.model import Model, load
from frostline.model.device import choose_device
from frostline.model.memory import keeping_freed_memory
from frostline.notices import unfinished_phase, worse_phases
from frostline.places import check_run_folder
from frostline.plan.picture import build_trainability
from frostline.prepare import Prepared, notes_of, prepare, prepare_alone
from frostline.results import Trained, Verdict, assess, build_report, compare_alone, write_results
from frostline.signals import answering
from frostline.start import with_bundle
from frostline.training.activations import Activations
from frostline.training.commits import Commits
from frostline.training.journal import Event, Journal, read_events
from frostline.training.loop import Trainer
from frostline.training.ranks import Ranks, joined

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


def train(
    config: Config | str | Path | Mapping[str, Any],
    *,
    output: str | Path | None = None,
    start_from: str | Path | None = None,
    overwrite: bool = False,
    show: Show | None = None,
) -> Run:
    """Trains a plan and leaves a run's folder.

    Args:
        config: a `Config`, the path of a TOML file, or its content as nested dicts.
        output: the run's folder; None: `runs/` and the file's name.
        start_from: a bundle or a run's folder, whose backbone and heads the run takes over; heads of tasks
            that the config does not name stay frozen.
        overwrite: replace a run that stands there.
        show: called with every event as it happens.

    Returns:
        The run, with its report; `run.load()` gives the model.

    Raises:
        FrostlineError: a mistake in the file, the data or the plan; nothing was trained.
        TrainingError: one of these, from within a run: a loss that is not finite, too little memory; the last
            checkpoint is kept.
        FreezeError: another: something frozen moved.
        Interrupted: Ctrl-C or SIGTERM; the state is committed and `resume` goes on.
    """
    started = time.monotonic()
    name = Path(config).stem if isinstance(config, str | Path) else "run"
    folder = Path(output) if output else Path("runs") / name
    with joined() as ranks:
        if not ranks.is_first:
            return _follow(folder, started, ranks)
        config = as_config(config)
        ranks.check_device(choose_device(config.train.device))
        if start_from is not None:
            config = with_bundle(config, start_from)
        config = config.located(Path.cwd())
        check_sources(config, folder)
        with locked(folder):
            check_free(folder, overwrite=overwrite)
            prepared = prepare(config)
            resolved = with_rows_on_disk(prepared.config, folder)
            clear(folder)
            write_text(folder / "config.toml", resolved.to_toml())
            ranks.tell(resolved.to_toml())
            return _carry_out(prepared, folder, started, show, ranks)


def resume(folder: str | Path, *, show: Show | None = None) -> Run:
    """Goes on with a run from its last checkpoint that can be trusted, or from its start.

    A run that has ended is left as it is.

    Raises:
        RunError: no run is there, or it is in use.
        CheckpointError: data or plan changed, or no checkpoint is whole.
    """
    started = time.monotonic()
    folder = Path(folder)
    check_run_folder(folder)
    with joined() as ranks:
        if not ranks.is_first:
            return _follow(folder, started, ranks)
        with locked(folder):
            if (folder / "report.json").is_file():  # which is written last
                ranks.tell(None)
                return _ended(folder, show)
            config = Config.load(folder / "config.toml")
            ranks.check_device(choose_device(config.train.device))
            prepared = prepare(config)
            ranks.tell(prepared.config.to_toml())
            return _carry_out(prepared, folder, started, show, ranks)


def _ended(folder: Path, show: Show | None) -> Run:
    report = json.loads((folder / "report.json").read_text("utf-8"))
    if show:
        show({"event": "warning", "message": "the run has ended already; nothing is left to do."})
        show({"event": "done", "folder": str(folder), "report": report})
    return Run(folder, report)


def _follow(folder: Path, started: float, ranks: Ranks) -> Run:
    """What a process does that is not the first: the same steps, without writing or talking."""
    told = ranks.tell(None)
    if told is not None:
        prepared = prepare(Config.build(tomllib.loads(told)))
        ranks.wait()  # until the first has put the folder in order
        commits = _commits(prepared, folder, ranks)
        journal = Journal(None)
        trainer, _ = _build_trainer(prepared, commits, journal, started, ranks)
        with _stopping(trainer), keeping_freed_memory():
            trainer.run()
        ranks.wait()
    return Run(folder, json.loads((folder / "report.json").read_text("utf-8")))


def _commits(prepared: Prepared, folder: Path, ranks: Ranks) -> Commits:
    settings, parts = prepared.config.train, fingerprint(prepared)
    return Commits(folder / "checkpoints", settings=settings, fingerprint=parts, ranks=ranks)


def _build_trainer(
    prepared: Prepared, commits: Commits, journal: Journal, started: float, ranks: Ranks
) -> tuple[Trainer, list[str]]:
    """A trainer where the newest checkpoint was taken, and what the user should know of it."""
    state, moments, notes = commits.load(prepared.model, journal, device=prepared.device)
    trainer = Trainer(
        prepared.model,
        prepared.splits,
        prepared.phases,
        prepared.config.train,
        activations=_activations(prepared, ranks),
        journal=journal,
        commits=commits,
        state=state,
        moments=moments,
        started=started,
        ranks=ranks,
    )
    return trainer, notes


def _carry_out(prepared: Prepared, folder: Path, started: float, show: Show | None, ranks: Ranks) -> Run:
    clear_leftovers(folder)
    model, device = prepared.model, prepared.device
    with Journal(folder / "events.jsonl", show=show) as journal:
        commits = _commits(prepared, folder, ranks)
        trainer, notes = _build_trainer(prepared, commits, journal, started, ranks)
        ranks.wait()
        notes = [*prepared.warnings, *notes_of(prepared), *notes]
        _announce(prepared, trainer, notes)
        with _stopping(trainer), keeping_freed_memory():
            try:
                trainer.run()
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"the memory of {device} is too small. Free some and resume, or train again with half of "
                    f"train.batch_tokens (now {prepared.config.train.batch_tokens}), or with "
                    "train.gradient_checkpointing = true, or train.cuda_graphs = false. The last checkpoint "
                    "is kept."
                ) from error
        events = list(read_events(folder / "events.jsonl"))
        for sentence in (*worse_phases(trainer.state.reports), *unfinished_phase(events)):
            notes.append(sentence)
            journal.show({"event": "warning", "message": sentence})
        trained = Trained(
            model, prepared.phases, prepared.splits, prepared.config.data.text, prepared.precision, device
        )
        verdict = assess(trained)
        report = build_report(
            trained, verdict, phases=trainer.state.reports, seconds=trainer.seconds(), warnings=notes
        )
        write_results(trained, verdict, folder, report)
        report["activations"] = [asdict(decision) for decision in prepared.decisions]
        report["profile"] = {name: round(seconds, 3) for name, seconds in trainer.profile.seconds.items()}
        report["checkpoint_seconds"] = round(commits.seconds, 2)
        if prepared.config.train.each_task_alone:
            report["alone"] = _each_alone(prepared, trained, verdict, folder, show)
        write_json(folder / "report.json", report)
        journal.show({"event": "done", "folder": str(folder), "report": report})
    ranks.wait()
    return Run(folder, report)


def _activations(prepared: Prepared, ranks: Ranks) -> Activations:
    settings = prepared.config.train.activations
    stores = settings.store != "never" or any(phase.activations == "always" for phase in prepared.phases)
    return Activations(
        prepared.model.backbone,
        precision=prepared.precision,
        device=prepared.device,
        folder=settings.place() if stores else None,
        max_bytes=settings.max_bytes,
        ranks=ranks,
    )


def _each_alone(
    prepared: Prepared, trained: Trained, verdict: Verdict, folder: Path, show: Show | None
) -> dict[str, dict[str, Any]]:
    """What each task that learns reaches by itself, under `alone/`; see `compare_alone`."""
    split = trained.splits[verdict.split]
    found = {}
    for name, task in trained.model.tasks.items():
        if not any(name in phase.learning_heads(trained.model.tasks) for phase in prepared.phases):
            continue
        place = folder / "alone" / name
        if not (place / "report.json").is_file():
            if show:
                show({"event": "alone", "task": name})
            single = prepare_alone(prepared, name)
            place.mkdir(parents=True, exist_ok=True)
            write_text(place / "config.toml", single.config.to_toml())
            _carry_out(single, place, time.monotonic(), show, Ranks())
        if is_labelled(split.labels[name]).any():
            alone = load(place, precision=trained.precision.format, device=str(trained.device))
            logits = alone.logits_of_tokens(split.tokens)[name]
            answers = (alone.tasks[name], logits), (task, verdict.logits[name])
            found[name] = compare_alone(*answers, split.labels[name])
    return found


def _announce(prepared: Prepared, trainer: Trainer, notes: list[str]) -> None:
    for sentence in notes:
        trainer.journal.show({"event": "warning", "message": sentence})
    trainer.journal.show(
        {
            "event": "start",
            "table": build_trainability(prepared.model, prepared.phases),
            "precision": prepared.precision,
            "decisions": prepared.decisions,
            "device": str(prepared.device),
            "rows": {name: len(split) for name, split in prepared.splits.items()},
            "resumed_at": trainer.state.position.step if trainer.state.learned else None,
        }
    )


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks for a stop after the step; the second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt(number)
        asked.append(number)
        trainer.stop_asked = True

    try:
        with answering(ask):
            yield
    except Interrupted as stop:
        stop.signal = asked[0]
        raise
