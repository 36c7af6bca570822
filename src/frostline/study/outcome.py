"""The finished runs of a study side by side: what `compare.json` holds.

Reads reports, answers and drifts; trains nothing.
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sklearn.metrics import confusion_matrix

from frostline.data.labels import Task, is_labelled
from frostline.model.bundle import read_head
from frostline.model.heads import decisions, probabilities
from frostline.plan.picture import build_trainability
from frostline.prepare import Prepared
from frostline.study.place import Place
from frostline.study.recommend import recommend
from frostline.study.scenarios import Scenario
from frostline.study.significance import Answers, Draws, Matrix, draw_scores
from frostline.study.telling import telling_errors
from frostline.training.answers import ANSWERS, load_answers
from frostline.training.intervals import percentiles
from frostline.training.journal import read_events

FORMAT = 1
Finished = Sequence[tuple[Scenario, list[int]]]


def build_outcome(
    place: Place, prepared: Prepared, finished: Finished, *, yardstick: str, split: str
) -> dict[str, Any]:
    """Contents of `compare.json`.

    Args:
        place: of the study.
        prepared: the model and the splits of every run.
        finished: scenarios with the seeds that are done, cheapest first.
        yardstick: scenario with which the others are compared.
        split: on which they are compared; the recommendation is made on validation.
    """
    answers, held = (
        {one.name: [_answers(place.run(one, seed), name) for seed in seeds] for one, seeds in finished}
        for name in (split, "validation")
    )
    draws, held_draws = draw_scores(answers), draw_scores(held)
    scenarios = []
    for scenario, seeds in finished:
        reports = [_json(place.run(scenario, seed) / "report.json") for seed in seeds]
        about = _entry(place, prepared, scenario, seeds=seeds, reports=reports)
        mine = draws[scenario.name]
        about |= _scores(prepared.model.tasks, reports, own=mine, other=draws[yardstick], split=split)
        scenarios.append(about | {"confusion": _confusion(answers[scenario.name][0])})
    _add_changes(scenarios, next(one for one in scenarios if one["name"] == yardstick))
    recommended = recommend(
        scenarios,
        held_draws,
        num_rows=len(prepared.splits["validation"]),
        keeps_best=prepared.config.train.select == "best",
    )
    return {
        "format": FORMAT,
        "split": split,
        "rows": {name: len(one) for name, one in prepared.splits.items()},
        "yardstick": yardstick,
        "backbone": prepared.model.backbone.name,
        "precision": prepared.precision.format,
        "tasks": {name: _task(task) for name, task in prepared.model.tasks.items()},
        "recommendation": recommended,
        "scenarios": scenarios,
        "errors": telling_errors(answers, recommended["scenario"]),
    }


def _entry(
    place: Place, prepared: Prepared, scenario: Scenario, *, seeds: list[int], reports: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a scenario did and cost."""
    seed = seeds[0]
    file = str(place.file(scenario, seed))
    reached = [phase["frozen_depths"] for phase in reports[0]["phases"]]
    return {
        "name": scenario.name,
        "seeds": seeds,
        "phases": [phase.name for phase in scenario.phases],
        "seconds_estimated": scenario.seconds,
        **_costs(reports),
        "leak": reports[0]["leak"],
        "drift": _json(place.drift(scenario, seed)),
        "trainability": asdict(build_trainability(prepared.model, scenario.phases, reached=reached)),
        "curves": [_curve(place.run(scenario, one)) for one in seeds],
        "command": shlex.join(["frostline", "train", file, "--output", f"runs/{scenario.folder}-{seed}"]),
    }


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def _task(task: Task) -> dict[str, Any]:
    return {"kind": task.kind, "labels": list(task.labels), "score": task.main_score}


def _answers(run: Path, split: str) -> Answers:
    logits, labels = load_answers(run / ANSWERS, split=split)
    tasks = {name: read_head(run / "model", name).task for name in logits}
    return Answers(tasks, logits, labels)


def _scores(
    tasks: Mapping[str, Task], reports: list[dict[str, Any]], *, own: Draws, other: Draws, split: str
) -> dict[str, Any]:
    """Scores of the mean and of each task, with 95 % intervals, also of the change from the yardstick."""
    found = {}
    for name in own.tasks:
        values = [report[split]["tasks"][name][tasks[name].main_score] for report in reports]
        found[name] = _with_intervals(values, own.tasks[name], other.tasks[name])
    mean = _with_intervals([report[split]["score"] for report in reports], own.mean, other.mean)
    held = statistics.mean(report["validation"]["score"] for report in reports)
    return {"validation": held, **mean, "tasks": found}


def _with_intervals(values: list[float], own: Matrix, other: Matrix) -> dict[str, Any]:
    intervals = {"interval": list(percentiles(own)), "change_interval": list(percentiles(own - other))}
    return {"score": statistics.mean(values), "each": values, **intervals}


def _add_changes(scenarios: list[dict[str, Any]], yardstick: dict[str, Any]) -> None:
    """Writes the changes from the yardstick into the entries."""
    for one in scenarios:
        one["change"] = one["score"] - yardstick["score"]
        for task, entry in one["tasks"].items():
            entry["change"] = entry["score"] - yardstick["tasks"][task]["score"]


def _costs(reports: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": statistics.mean(report["seconds"] for report in reports),
        "peak_memory_bytes": max(report["peak_memory_bytes"] for report in reports),
        "parameters_trained": max(phase["parameters_trained"] for phase in reports[0]["phases"]),
        "parameters": reports[0]["parameters"],
        "prediction_seconds_per_1000_texts": statistics.mean(
            report["prediction_seconds_per_1000_texts"] for report in reports
        ),
    }


def _curve(run: Path) -> dict[str, Any]:
    """Validation scores over the steps, and the steps at which phases began and the line moved."""
    events = list(read_events(run / "events.jsonl"))
    points = [event for event in events if event["event"] == "evaluation"]
    moves = [event for event in events if event["event"] in {"phase", "thaw"}]
    return {
        "steps": [event["step"] for event in points],
        "score": [event["score"] for event in points],
        "tasks": {name: [event["main"].get(name) for event in points] for name in (points[0]["main"])},
        "thaws": [[event["step"], event["frozen_depth"]] for event in moves],
    }


def _confusion(answers: Answers) -> dict[str, list[list[int]]]:
    """By task, how often each label (row) was answered with each (column); classification alone."""
    found = {}
    for name, task in answers.tasks.items():
        labels = answers.labels[name]
        known = is_labelled(labels)
        if task.kind == "classification" and known.any():
            said = decisions(task, probabilities(task, answers.logits[name][known]))
            matrix = confusion_matrix(labels[known], said, labels=range(len(task.labels)))
            found[name] = matrix.tolist()
    return found
