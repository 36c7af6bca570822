"""What a run leaves: its verdict, the bundle, the report and the pictures."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.data.batches import Split
from frostline.data.labels import LabelsN, Task
from frostline.inference.model import Model
from frostline.model.bundle import BundleFile, save_bundle
from frostline.model.card import build_card
from frostline.model.device import Precision
from frostline.model.memory import peak_memory
from frostline.model.multitask import MultitaskModel
from frostline.plan.phase import Phase
from frostline.plan.picture import build_trainability, draw_trainability, save_figure
from frostline.training.answers import ANSWERS, save_answers
from frostline.training.calibration import calibrate, calibration_report
from frostline.training.evaluate import score_task
from frostline.training.intervals import difference_interval, scores_with_intervals
from frostline.training.journal import read_events
from frostline.training.picture import draw_curves

_VERSIONS = ("frostline", "torch", "transformers", "sentence-transformers", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Trained:
    """A model that has gone through its plan, and how it ran."""

    model: MultitaskModel
    phases: tuple[Phase, ...]
    splits: dict[str, Split]
    text_column: str
    precision: Precision
    device: torch.device


@dataclass(frozen=True)
class Verdict:
    """What the finished model is worth, in the number format in which it will be loaded.

    Attributes:
        validation: `{"score": …, "tasks": {name: scores}}`, with intervals.
        test: the same; None without a test split.
        calibration: by task, what was fitted on validation (see `calibration_report`).
        answers: by split, the logits (N, C) of every task.
        seconds_per_text: of the forward pass that gave them.
    """

    validation: dict[str, Any]
    test: dict[str, Any] | None
    calibration: dict[str, dict[str, Any]]
    answers: dict[str, dict[str, np.ndarray[Any, Any]]]
    seconds_per_text: float

    @property
    def logits(self) -> dict[str, np.ndarray[Any, Any]]:
        """Those of the split by which the model is judged."""
        return self.answers[self.split]

    @property
    def split(self) -> str:
        """The split by which the model is judged."""
        return "test" if self.test else "validation"


def assess(trained: Trained) -> Verdict:
    """Calibrates the heads that learned, on validation, and scores the model on validation and test.

    The scores are those of `frostline evaluate`: a copy of the model is scored, in the number format in which
    the bundle will be loaded. `trained.model` is given the temperatures and thresholds.
    """
    loaded = Model(
        copy.deepcopy(trained.model),
        _describe(trained, scores={}),
        precision=trained.precision,
        device=trained.device,
    )
    held = trained.splits["validation"]
    logits, seconds = _answered(loaded, held)
    calibration = {}
    for name, task in tuple(loaded.tasks.items()):
        learned = any(name in phase.learning_heads(loaded.tasks) for phase in trained.phases)
        plain = task.uncalibrated() if learned else task
        fitted = calibrate(plain, logits[name], held.labels[name]) if learned else task
        if fitted != plain:
            calibration[name] = calibration_report(plain, fitted, logits[name], held.labels[name])
        if fitted != task:
            for model in (trained.model, loaded.network):
                model.set_task(fitted)
    validation = scores_with_intervals(loaded.tasks, logits, held.labels)
    answers, test = {"validation": logits}, None
    if "test" in trained.splits:
        answers["test"], seconds = _answered(loaded, trained.splits["test"])
        test = scores_with_intervals(loaded.tasks, answers["test"], trained.splits["test"].labels)
    return Verdict(validation, test, calibration, answers, seconds)


def _answered(model: Model, split: Split) -> tuple[dict[str, np.ndarray[Any, Any]], float]:
    """Logits of a split, and the seconds that a text took."""
    started = time.perf_counter()
    logits = model.logits_of_tokens(split.tokens)
    return logits, (time.perf_counter() - started) / len(split)


def compare_alone(
    alone: tuple[Task, np.ndarray[Any, Any]], together: tuple[Task, np.ndarray[Any, Any]], labels: LabelsN
) -> dict[str, Any]:
    """A task trained by itself against the same task trained with others, on the same rows.

    Args:
        alone: the task, with its thresholds, and its logits.
        together: the same, trained with others.
        labels: of the rows.

    Returns:
        Its main score both ways, and `change`, what the company brought, with its 95 % interval (paired).
    """
    task = alone[0]
    first, second = (score_task(one, logits, labels)[task.main_score] for one, logits in (alone, together))
    interval = difference_interval(alone, together, labels)
    return {
        "score": task.main_score,
        "alone": first,
        "together": second,
        "change": second - first,
        "interval": list(interval),
    }


def build_report(
    trained: Trained,
    verdict: Verdict,
    *,
    phases: list[dict[str, Any]],
    seconds: float,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Contents of `report.json`.

    Args:
        trained: the model and its splits.
        verdict: what it is worth.
        phases: a report of each phase.
        seconds: of the whole run.
        warnings: what the user was told.
    """
    device = trained.device
    return {
        "validation": verdict.validation,
        "test": verdict.test,
        "calibration": verdict.calibration,
        "leak": next((phase["leak"] for phase in reversed(phases) if phase["leak"]), {}),
        "phases": phases,
        "seconds": round(seconds, 2),
        "prediction_seconds_per_1000_texts": round(verdict.seconds_per_text * 1000, 3),
        "peak_memory_bytes": peak_memory(),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "rows": {name: len(split) for name, split in trained.splits.items()},
        "backbone": trained.model.backbone.name,
        "precision": {"format": trained.precision.format, "reason": trained.precision.reason},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        "warnings": list(warnings),
    }


def write_results(trained: Trained, verdict: Verdict, folder: Path, report: dict[str, Any]) -> None:
    """Writes `model/`, `answers.safetensors` and the pictures, each whole; `report.json` is written last, by
    the caller.
    """
    model = trained.model
    about = _describe(trained, scores=report[verdict.split])
    card = build_card(tuple(model.tasks.values()), about, split=verdict.split)
    save_bundle(model, folder / "model", about=about, card=card)
    save_answers(folder / ANSWERS, verdict.answers, trained.splits)
    reached = [phase["frozen_depths"] for phase in report["phases"]]
    trainability = build_trainability(model, trained.phases, reached=reached)
    save_figure(draw_trainability(trainability), folder / "trainability.png")
    save_figure(draw_curves(list(read_events(folder / "events.jsonl"))), folder / "curves.png")


def _describe(trained: Trained, *, scores: dict[str, Any]) -> BundleFile:
    backbone = trained.model.backbone
    return BundleFile(
        frostline=version("frostline"),
        base_model=backbone.name,
        max_length=backbone.max_length,
        text_column=trained.text_column,
        tasks=tuple(trained.model.tasks),
        plan=" → ".join(phase.name for phase in trained.phases),
        scores=scores,
    )
