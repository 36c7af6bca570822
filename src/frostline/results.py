"""What a run leaves: the bundle, the report and the pictures."""

from __future__ import annotations

import copy
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from frostline.atomic import write_json
from frostline.data.batches import Split
from frostline.inference.model import Model
from frostline.model.bundle import BundleFile, save_bundle
from frostline.model.card import build_card
from frostline.model.device import Precision
from frostline.model.multitask import MultitaskModel
from frostline.plan.phase import Phase
from frostline.plan.picture import build_trainability, draw_trainability, save_figure
from frostline.training.evaluate import mean_score, score_tasks
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


def build_report(
    trained: Trained,
    *,
    phases: list[dict[str, Any]],
    test: dict[str, Any] | None,
    seconds: float,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Contents of `report.json`.

    Args:
        trained: the model and its splits.
        phases: a report of each phase.
        test: scores on the test split.
        seconds: of the whole run.
        warnings: what the user was told.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    device = trained.device
    return {
        "validation": phases[-1]["validation"],
        "test": test,
        "phases": phases,
        "seconds": round(seconds, 2),
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "rows": {name: len(split) for name, split in trained.splits.items()},
        "backbone": trained.model.backbone.name,
        "precision": {"format": trained.precision.format, "reason": trained.precision.reason},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        "warnings": list(warnings),
    }


def score_test(trained: Trained) -> dict[str, Any] | None:
    """Scores on the test split, those of `frostline evaluate`; None without one.

    A copy of the model is scored, in the number format in which the bundle will be loaded.
    """
    if "test" not in trained.splits:
        return None
    about = _describe(trained, scores={})
    loaded = Model(copy.deepcopy(trained.model), about, precision=trained.precision, device=trained.device)
    split = trained.splits["test"]
    scores = score_tasks(loaded.tasks, loaded.logits_of(loaded.encode_tokens(split.tokens)), split.labels)
    return {"score": mean_score(loaded.tasks, scores), "tasks": scores}


def write_results(trained: Trained, folder: Path, report: dict[str, Any]) -> None:
    """Writes `model/`, `trainability.png`, `curves.png` and `report.json`, each whole."""
    model = trained.model
    about = _describe(trained, scores=report["test"] or report["validation"])
    card = build_card(tuple(model.tasks.values()), about, split="test" if report["test"] else "validation")
    save_bundle(model, folder / "model", about=about, card=card)
    reached = [phase["frozen_depths"] for phase in report["phases"]]
    trainability = build_trainability(model, trained.phases, reached=reached)
    save_figure(draw_trainability(trainability), folder / "trainability.png")
    save_figure(draw_curves(list(read_events(folder / "events.jsonl"))), folder / "curves.png")
    write_json(folder / "report.json", report)


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
