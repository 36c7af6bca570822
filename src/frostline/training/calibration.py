"""Probabilities that can be believed: a temperature a classification head, thresholds a multilabel head.

Both are fitted on validation after training and change no weight: a temperature leaves every answer of a
classification as it is. While a head learns its evaluations are scored with the thresholds of that moment.
Knows logits and labels, not models.

Shapes: N rows, C labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, logsumexp

from frostline.data.labels import LabelsN, Task, is_labelled
from frostline.data.table import IntN
from frostline.model.heads import probabilities
from frostline.training.evaluate import calibration_error

_FEWEST_ROWS = 20
_FEWEST_POSITIVE = 5
_ROWS_OF_SHARED = 20  # that the threshold for all labels counts as many as
_CANDIDATES = expit(np.linspace(4, -4, 81))  # for all labels, falling; with 0.5
Matrix = np.ndarray[Any, np.dtype[Any]]
BoolMatrix = np.ndarray[Any, np.dtype[np.bool_]]


def calibrate(task: Task, logits_NC: Matrix, labels: LabelsN) -> Task:
    """The task with a temperature or thresholds chosen on validation; itself where too few rows say so.

    Args:
        task: a classification with 20 labelled rows at least is given a temperature, a multilabel task
            thresholds, a regression nothing.
        logits_NC: of its head on validation.
        labels: of validation, as `encode_labels` made them.
    """
    known = is_labelled(labels)
    logits_NC, labels = logits_NC[known].astype(np.float64), labels[known]
    if task.kind == "classification" and len(labels) >= _FEWEST_ROWS:
        return task.model_copy(update={"temperature": best_temperature(logits_NC, labels)})
    if task.kind == "multilabel" and len(labels):
        found = best_thresholds(probabilities(task, logits_NC), labels.astype(bool))
        return task.model_copy(update={"thresholds": found})
    return task


def before_training(task: Task, *, learns: bool) -> Task:
    """A task as a run takes it over: what learns will be calibrated anew, what does not keeps its answers."""
    if learns:
        return task.uncalibrated()
    return task.model_copy(update={"thresholds": (0.5,) * task.num_outputs}) if _is_open(task) else task


def as_scored(task: Task, logits_NC: Matrix, labels: LabelsN) -> Task:
    """The task as it would be scored now: a multilabel one with the thresholds that it would be given.

    At 0.5 a rare label is not given at all while its head still learns, and says nothing of it.
    """
    return calibrate(task, logits_NC, labels) if _is_open(task) else task


def _is_open(task: Task) -> bool:
    """Whether it is one of several labels whose thresholds are yet to be chosen."""
    return task.kind == "multilabel" and task.thresholds is None


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


def best_thresholds(probability_NC: Matrix, truth_NC: BoolMatrix) -> tuple[float, ...]:
    """A threshold for each label: the best one for all, moved towards the label's own best by its rows.

    Of P rows that have a label, its own best counts P / (P + 20), between logits; below 5 nothing. By itself
    it follows a handful of rows, and other texts are answered worse than at 0.5 (docs/experiments.md).
    """
    shared = shared_threshold(probability_NC, truth_NC)
    num_rows_C = truth_NC.sum(axis=0)
    own_C = np.array([
        _own_threshold(values_N, truth_N) if num_rows >= _FEWEST_POSITIVE else shared
        for values_N, truth_N, num_rows in zip(probability_NC.T, truth_NC.T, num_rows_C, strict=True)
    ])  # fmt: skip
    trust_C = num_rows_C / (num_rows_C + _ROWS_OF_SHARED)
    own_C = logit(np.clip(own_C, _CANDIDATES[-1], _CANDIDATES[0]))
    return tuple(expit(trust_C * own_C + (1 - trust_C) * logit(shared)).tolist())


def shared_threshold(probability_NC: Matrix, truth_NC: BoolMatrix) -> float:
    """The threshold for all labels of the best mean of micro and macro F1; of equals that nearest 0.5."""
    num_labels, num_bins = truth_NC.shape[1], len(_CANDIDATES) + 1
    # Bin b holds what reaches the thresholds from the b-th on; counted up, what reaches each.
    bin_NC = np.searchsorted(-_CANDIDATES, -probability_NC.astype(np.float64))
    bin_NC += num_bins * np.arange(num_labels)

    def reaching(bins: IntN) -> np.ndarray[Any, np.dtype[np.int64]]:
        count_CB = np.bincount(bins.ravel(), minlength=num_labels * num_bins).reshape(num_labels, num_bins)
        return count_CB.cumsum(axis=1)[:, :-1]

    hit_CT, given_CT = reaching(bin_NC[truth_NC]), reaching(bin_NC)
    size_CT = given_CT + truth_NC.sum(axis=0)[:, None]
    macro_T = (2 * hit_CT / np.maximum(size_CT, 1)).mean(axis=0)
    micro_T = 2 * hit_CT.sum(axis=0) / np.maximum(size_CT.sum(axis=0), 1)
    order = np.argsort(np.abs(_CANDIDATES - 0.5), kind="stable")
    return float(_CANDIDATES[order[np.argmax((macro_T + micro_T)[order])]])


def _own_threshold(probability_N: Matrix, truth_N: Matrix) -> float:
    """The threshold of best F1, half-way between two probabilities."""
    order = np.argsort(-probability_N, kind="stable")
    sorted_N, hits_N = probability_N[order].astype(np.float64), np.cumsum(truth_N[order])
    f1_N = 2 * hits_N / (np.arange(1, len(order) + 1) + hits_N[-1])
    ends = np.append(sorted_N[:-1] > sorted_N[1:], True)  # equal probabilities fall on one side
    at = int(np.argmax(np.where(ends, f1_N, -1.0)))
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
