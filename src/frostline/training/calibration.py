"""Probabilities that can be believed: a temperature a classification head, thresholds a multilabel head.

Both are fitted on validation after training and change no weight: a temperature leaves every answer of a
classification as it is. Knows logits and labels, not models.

Shapes: N rows, C labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from frostline.data.labels import LabelsN, Task, is_labelled
from frostline.model.heads import probabilities
from frostline.training.evaluate import calibration_error

_FEWEST_ROWS = 20
_FEWEST_POSITIVE = 5
Matrix = np.ndarray[Any, np.dtype[Any]]


def calibrate(task: Task, logits_NC: Matrix, labels: LabelsN) -> Task:
    """The task with a temperature or thresholds chosen on validation; itself where too few rows say so.

    Args:
        task: a classification with 20 labelled rows at least is given a temperature; a multilabel task
            thresholds, for each label with 5 rows at least; a regression nothing.
        logits_NC: of its head on validation.
        labels: of validation, as `encode_labels` made them.
    """
    known = is_labelled(labels)
    logits_NC, labels = logits_NC[known].astype(np.float64), labels[known]
    if task.kind == "classification" and len(labels) >= _FEWEST_ROWS:
        return task.model_copy(update={"temperature": best_temperature(logits_NC, labels)})
    if task.kind == "multilabel" and len(labels):
        values_NC = probabilities(task, logits_NC)
        thresholds = tuple(
            best_threshold(values_N, truth_N.astype(np.int64))
            for values_N, truth_N in zip(values_NC.T, labels.T, strict=True)
        )
        return task.model_copy(update={"thresholds": thresholds})
    return task


def best_temperature(logits_NC: Matrix, truth_N: LabelsN) -> float:
    """The temperature in 0.05 … 20 of least cross-entropy (Guo et al. 2017, arXiv 1706.04599).

    Of N rows one in N + 2 is taken to be labelled otherwise (Platt 1999), so that a head that is right in all
    of a few rows is not taken to be always right.
    """
    num_rows, num_classes = logits_NC.shape
    target_NC = np.full((num_rows, num_classes), 1 / (num_rows + 2) / max(1, num_classes - 1))
    target_NC[np.arange(num_rows), truth_N] = 1 - 1 / (num_rows + 2)

    def loss(log_temperature: float) -> float:
        scaled_NC = logits_NC / np.exp(log_temperature)
        return float((logsumexp(scaled_NC, axis=1) - (target_NC * scaled_NC).sum(axis=1)).mean())

    bound = float(np.log(20))
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")  # type: ignore[no-untyped-call]
    return float(np.exp(found.x))


def best_threshold(probability_N: Matrix, truth_N: LabelsN) -> float:
    """The threshold of best F1, half-way between two probabilities; 0.5 for a label with under 5 rows."""
    positive = int(truth_N.sum())
    if positive < _FEWEST_POSITIVE:
        return 0.5
    order = np.argsort(-probability_N, kind="stable")
    sorted_N, hits_N = probability_N[order].astype(np.float64), np.cumsum(truth_N[order])
    f1_N = 2 * hits_N / (np.arange(1, len(order) + 1) + positive)
    ends = np.append(sorted_N[:-1] > sorted_N[1:], True)  # equal probabilities fall on one side
    at = int(np.argmax(np.where(ends, f1_N, -1.0)))
    plain = truth_N[probability_N >= 0.5].sum() * 2 / max(1, (probability_N >= 0.5).sum() + positive)
    if f1_N[at] <= plain:
        return 0.5
    below = sorted_N[at + 1] if at + 1 < len(order) else 0.0
    return float((sorted_N[at] + below) / 2)


def calibration_report(before: Task, after: Task, logits_NC: Matrix, labels: LabelsN) -> dict[str, Any]:
    """What calibration did on a split: temperature and ECE before and after, or the thresholds."""
    if after.thresholds is not None:
        return {"thresholds": dict(zip(after.labels, after.thresholds, strict=True))}
    known = is_labelled(labels)
    errors = {
        key: calibration_error(probabilities(task, logits_NC[known]), labels[known])
        for key, task in (("ece_before", before), ("ece_after", after))
    }
    return {"temperature": after.temperature} | errors
