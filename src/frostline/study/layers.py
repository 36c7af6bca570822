"""What each layer of a pretrained backbone knows of the tasks, before any training.

A linear probe on the averaged states of every stage, how far apart the classes lie there, and how a probe on
the embeddings grows with the rows.

Shapes: N texts, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from frostline.data.batches import Split
from frostline.data.labels import LabelsN, Task, is_labelled
from frostline.model.heads import Head
from frostline.model.multitask import MultitaskModel
from frostline.training.probe import solve_head

Matrix = np.ndarray[Any, np.dtype[np.float32]]


def stage_scores(
    tasks: Mapping[str, Task], states: Mapping[str, list[Matrix]], splits: Mapping[str, Split]
) -> dict[str, list[float]]:
    """Validation score of a probe on each of some states, by task.

    Args:
        tasks: with a label in both splits.
        states: by split, (N, D) each.
        splits: with the labels.
    """
    found: dict[str, list[float]] = {}
    for name, task in tasks.items():
        found[name] = []
        for pair in zip(states["train"], states["validation"], strict=True):
            train_ND, held_ND = (normalize(one) for one in pair)
            head = Head(task, width=train_ND.shape[1], input_scale=float(np.sqrt(train_ND.shape[1])))
            found[name].append(_solved(head, train_ND, held_ND, splits))
    return found


def _solved(head: Head, train_ND: Matrix, held_ND: Matrix, splits: Mapping[str, Split]) -> float:
    name = head.task.name
    labels = splits["train"].labels[name], splits["validation"].labels[name]
    return solve_head(
        head, train_ND=train_ND, train_labels=labels[0], held_ND=held_ND, held_labels=labels[1]
    )["score"]


def separability(task: Task, states_ND: Matrix, labels: LabelsN) -> float | None:
    """Share of the states' variance that lies between the classes, 0 … 1; None where there are none.

    The trace of the between-class covariance over that of the whole, as in class separability measures of
    layers (Hidden State Variability, arXiv 2210.10041).
    """
    known = is_labelled(labels)
    if task.kind != "classification" or not known.any():
        return None
    states, classes = normalize(states_ND[known]).astype(np.float64), labels[known]
    mean, whole = states.mean(axis=0), float(states.var(axis=0).sum())
    between = sum(
        float((classes == c).mean()) * float(((states[classes == c].mean(axis=0) - mean) ** 2).sum())
        for c in np.unique(classes)
    )
    return between / max(whole, 1e-12)


def without_signal(
    tasks: Mapping[str, Task], layers: Mapping[str, Mapping[str, float]], held: Split
) -> list[str]:
    """Regressions whose probes correlate with nothing: the median layer's r is within chance of zero.

    Classes are left out: where one is rare, a probe that knows something answers like one that does not.

    Args:
        tasks: by name.
        layers: score of every stage, by task.
        held: rows that were scored; one over the root of those with a label is the standard error of r.
    """
    known = {name: int(is_labelled(held.labels[name]).sum()) for name in layers}
    return [
        name
        for name, scores in layers.items()
        if tasks[name].kind == "regression" and np.median(list(scores.values())) <= known[name] ** -0.5
    ]


def probe_scores(
    model: MultitaskModel, embeddings: Mapping[str, Matrix], splits: Mapping[str, Split], *, rows: int
) -> dict[str, float]:
    """Validation score of a probe by task, solved on the first rows of a shuffled split.

    Tasks that cannot be solved or scored on these rows are left out.

    Args:
        model: with the heads to copy.
        embeddings: by split (N, D).
        splits: with the labels.
        rows: how many of the training rows.
    """
    train, held = splits["train"], splits["validation"]
    found = {}
    for name in model.tasks:
        labels = train.labels[name][:rows]
        known = labels[is_labelled(labels)]
        if not is_labelled(held.labels[name]).any() or len(np.unique(known)) < 2:
            continue
        found[name] = solve_head(
            copy.deepcopy(model.head(name)),
            train_ND=embeddings["train"][:rows],
            train_labels=labels,
            held_ND=embeddings["validation"],
            held_labels=held.labels[name],
        )["score"]
    return found
