"""What the user should know of a run, in sentences: what a plan costs, what data does not say, what went
worse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from frostline.data.batches import Split
from frostline.data.cells import divides
from frostline.data.labels import Task, is_labelled
from frostline.errors import listing
from frostline.model.multitask import MultitaskModel
from frostline.plan.phase import Phase

_FEW_ROWS = 5
_MUCH = 0.02
# Two threads whose cores are free take .6 of the time of one, two that wait for a core 1.4 to 6 times it.
_CROWDED = 1.2
_SEPARATORS = (";", "|", ",")


def added_epochs(asked: Sequence[Phase], phases: Sequence[Phase]) -> Iterator[str]:
    """A sentence for each phase that gets more epochs than its plan asked for."""
    for before, after in zip(asked, phases, strict=True):
        if after.epochs > before.epochs:
            yield (
                f"phase '{after.name}': {after.epochs} epochs instead of {before.epochs}, since rows or "
                f"labels are few (min_steps = {before.min_steps}). With a recipe, plan.epochs says how many."
            )


def fork_costs(model: MultitaskModel, phases: Sequence[Phase]) -> Iterator[str]:
    """What stages of their own will cost, a sentence for each phase that gives some to a head."""
    num_layers = model.backbone.num_layers
    for phase in phases:
        if phase.protect != "fork":
            continue
        depth = phase.depths(num_layers)[-1]
        size = sum(
            parameter.numel()
            for name, parameter in model.backbone.named_parameters()
            if (stage := model.backbone.stage_of[name]) is not None and stage >= depth
        )
        layers = num_layers + 1 - max(1, depth)
        yield (
            f"phase '{phase.name}': a private copy of {layers} of {num_layers} layers for "
            f"{listing(phase.frozen_heads)} makes a prediction {layers / num_layers:.0%} slower "
            f"for each head and the model {size * 4 / 2**20:.0f} MiB larger."
        )


def unheeded_settings(tasks: Iterable[Task], phases: Sequence[Phase]) -> Iterator[str]:
    """A sentence for each task with a factor or smoothing of its loss, where a plan only solves heads."""
    if any(phase.solver == "adamw" for phase in phases):
        return
    for task in tasks:
        own = {"weight": task.weight != 1, "label_smoothing": task.label_smoothing != 0}
        if asked := [key for key, is_set in own.items() if is_set]:
            yield f"task '{task.name}': heads are only solved here, without {listing(asked)}."


def crowded_cores(seconds: Mapping[int, float]) -> Iterator[str]:
    """A sentence where fewer threads make a matrix product faster.

    Args:
        seconds: of a product, by number of threads; the largest is what training takes.
    """
    most, best = max(seconds), min(seconds, key=lambda count: seconds[count])
    if seconds[most] > _CROWDED * seconds[best]:
        yield (
            f"a matrix product takes {seconds[most] * 1e3:.1f} ms on {most} threads and "
            f"{seconds[best] * 1e3:.1f} on {best}, as where other work or a limit holds some cores and "
            f"threads wait for each other. While it is so, OMP_NUM_THREADS={best} in the environment makes "
            "training faster."
        )


def labels_alike(task: Task) -> Iterator[str]:
    """A sentence for the labels of a task that differ in case or in spaces alone, which may be slips."""
    alike: dict[str, list[str]] = {}
    for label in task.labels:
        alike.setdefault(" ".join(label.split()).casefold(), []).append(label)
    names = [" and ".join(f"'{label}'" for label in labels) for labels in alike.values() if len(labels) > 1]
    if names:
        yield f"task '{task.name}': labels distinct by case or spaces alone: {listing(names)}."


def labels_undivided(task: Task) -> Iterator[str]:
    """A sentence for each mark that would make fewer labels of those of a task."""
    for mark in _SEPARATORS:
        if divides(mark, task.labels):
            whole = next(label for label in task.labels if mark in label)
            kind = "" if task.kind == "multilabel" else 'kind = "multilabel" and '
            yield (
                f"task '{task.name}': labels hold '{mark}', such as '{whole}'. If it divides several labels, "
                f'set {kind}separator = "{mark}".'
            )


def tasks_without_labels(
    tasks: Iterable[Task], splits: Mapping[str, Split], *, learning: Collection[str]
) -> Iterator[str]:
    """A sentence for each task that learns without a label in validation, and for each without one in test.

    Args:
        tasks: of the run.
        splits: by name.
        learning: tasks whose head learns.
    """
    for task in tasks:
        has = {name: bool(is_labelled(split.labels[task.name]).any()) for name, split in splits.items()}
        if not has["validation"] and task.name in learning:
            yield (
                f"no validation row has a label of '{task.name}': its best weights are chosen by the other "
                "tasks."
            )
        if not has.get("test", True) and (has["train"] or has["validation"]):
            yield (
                f"no test row has a label of '{task.name}' (column '{task.column}'): it has no part in the "
                "test score."
            )


def scarce_labels(task: Task, validation: Split) -> Iterator[str]:
    """A sentence for labels of a task that do not occur in validation, and one for those of very few rows, of
    which its score says nothing or little.
    """
    labels = validation.labels[task.name]
    known = labels[is_labelled(labels)]
    if task.kind == "regression" or not len(known):
        return
    counts = known.sum(axis=0) if known.ndim == 2 else np.bincount(known, minlength=task.num_outputs)
    unseen = [label for label, count in zip(task.labels, counts, strict=True) if not count]
    if unseen:
        yield (
            f"no validation row has these labels of '{task.name}', so its score says nothing of them: "
            f"{_listed(unseen)}."
        )
    rare = [label for label, count in zip(task.labels, counts, strict=True) if 0 < count < _FEW_ROWS]
    if rare:
        yield (
            f"fewer than {_FEW_ROWS} validation rows have these labels of '{task.name}', so its macro-F1 "
            f"jumps with each of them: {_listed(rare)}. Give data.validation more rows."
        )


def _listed(labels: Sequence[str]) -> str:
    """Labels in a row, in quotes where one holds a comma."""
    return listing(f"'{label}'" for label in labels) if any("," in one for one in labels) else listing(labels)


def cut_texts(train: Split, max_length: int, *, most: int | None) -> Iterator[str]:
    """A sentence when more than one text in a hundred is cut.

    Args:
        train: its texts.
        max_length: tokens of a text at which it is cut.
        most: that the backbone can be asked for; None where it knows no bound.
    """
    num_cut = int((train.tokens.length_N >= max_length).sum())
    if num_cut > len(train) / 100:
        more = "" if most == max_length else f" model.max_length may be up to {most}." if most else ""
        yield f"{num_cut} of {len(train)} training texts reach {max_length} tokens, where they are cut.{more}"


def worse_phases(reports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each phase that ended below the score of the one before it."""
    for before, after in pairwise(reports):
        start, end = before["validation"]["score"], after["validation"]["score"]
        if f"{end:.3f}" < f"{start:.3f}":
            yield (
                f"phase '{after['name']}' ended at {end:.3f} on validation, below the {start:.3f} that "
                f"'{before['name']}' had reached: other rates, epochs or layers may serve better."
            )


def unfinished_phase(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence where the last phase of steps still gained much in each of its last two epochs.

    Args:
        events: of the run (`events.jsonl`).
    """
    phases: list[list[Mapping[str, Any]]] = [[]]
    for event in events:
        if event["event"] == "phase":
            phases.append([])
        phases[-1].append(event)
    scored: list[tuple[float, float]] = []
    for phase in phases:
        found = [(one["epoch"], one["score"]) for one in phase if one["event"] == "evaluation"]
        if found and found[-1][0] > 0:
            scored, descent = found, phase
    last = scored[-1][0] if scored else 0
    if last < 3 or any(
        one["event"] == "plateau" or (one["event"] == "guard" and one["action"] != "warn") for one in descent
    ):
        return
    before, late, end = (max(score for epoch, score in scored if epoch <= last - ago) for ago in (2, 1, 0))
    if end == scored[-1][1] and end - late > _MUCH and late - before > _MUCH:
        name = next(one["phase"] for one in descent if one["event"] == "evaluation")
        yield (
            f"phase '{name}' was still gaining when it ended: {end - late:+.3f} on validation in the last of "
            f"its {last:g} epochs. More may serve better."
        )
