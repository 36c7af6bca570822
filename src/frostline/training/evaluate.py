"""Scores of a model on a split: of each task on its labelled rows, and their mean.

Knows labels and logits, not how logits came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score

from frostline.data.batches import Split
from frostline.data.labels import LabelsN, Task, is_labelled
from frostline.data.table import IntN
from frostline.model.cores import map_batches
from frostline.model.heads import decisions, probabilities
from frostline.model.multitask import MultitaskModel
from frostline.training.activations import Activations
from frostline.training.ranks import Ranks

Scores = dict[str, dict[str, Any]]
_BINS = 15


def predict_logits(
    model: MultitaskModel,
    split: Split,
    activations: Activations,
    *,
    depth: int,
    ranks: Ranks | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Logits (N, C) float32 of every task, without gradient and dropout; the model's mode is kept.

    Args:
        model: also the heads with stages of their own are asked.
        split: the texts.
        activations: gives what the frozen stages make of them.
        depth: how many leading stages to take from there.
        ranks: processes that share the texts; each gets the logits of all.
    """
    ranks = ranks or Ranks()
    was_training = model.training
    model.train(False)
    depth = min(depth, model.fork_depth)

    def forward(rows: IntN) -> dict[str, torch.Tensor]:
        with torch.no_grad(), activations.precision.autocast(activations.device):
            given = activations.batch(split, rows, depth=depth)
            embeddings = model.embeddings(given.states, given.mask_BL, depth=depth)
        with torch.no_grad():
            return model.all_logits(embeddings)

    logits = {
        name: np.zeros((len(split), task.num_outputs), dtype=np.float32) for name, task in model.tasks.items()
    }
    batches = model.backbone.batches(
        split.tokens.length_N, device=activations.device, precision=activations.precision
    )
    batches = batches[ranks.rank :: ranks.size]
    for rows, values in map_batches(forward, batches, device=activations.device):
        for name, logits_BC in values.items():
            logits[name][rows] = logits_BC.cpu().numpy()
    model.train(was_training)
    return ranks.add_up_arrays(logits, device=activations.device)


def score_tasks(
    tasks: Mapping[str, Task], logits: Mapping[str, np.ndarray[Any, Any]], labels: Mapping[str, LabelsN]
) -> Scores:
    """`score_task` for each task with a labelled row."""
    return {
        name: score_task(task, logits[name], labels[name])
        for name, task in tasks.items()
        if name in labels and is_labelled(labels[name]).any()
    }


def score_task(task: Task, logits_NC: np.ndarray[Any, Any], labels: LabelsN) -> dict[str, Any]:
    """Scores on labelled rows.

    Returns:
        classification: macro_f1 (over labels that occur or are predicted), accuracy, ece (see
        `calibration_error`); multilabel: macro_f1, micro_f1, accuracy (all labels right); regression: mae and
        rmse in the target's unit, pearson (0 where either side is constant). Of all: num_labelled.
    """
    known = is_labelled(labels)
    values = probabilities(task, logits_NC[known])
    truth, predicted = labels[known], decisions(task, values)
    scores: dict[str, Any] = {}
    if task.kind == "regression":
        error = predicted.astype(np.float64) - truth
        scores["mae"] = float(np.abs(error).mean())
        scores["rmse"] = float(np.sqrt((error**2).mean()))
        scores["pearson"] = _pearson(predicted, truth)
        return scores | {"num_labelled": int(known.sum())}
    truth = truth.astype(np.int64)
    scores["macro_f1"] = float(f1_score(truth, predicted, average="macro", zero_division=0))
    if task.kind == "multilabel":
        scores["micro_f1"] = float(f1_score(truth, predicted, average="micro", zero_division=0))
    scores["accuracy"] = float(accuracy_score(truth, predicted))
    if task.kind == "classification":
        scores["ece"] = calibration_error(values, truth)
    return scores | {"num_labelled": int(known.sum())}


def calibration_error(probability_NC: np.ndarray[Any, Any], truth_N: LabelsN) -> float:
    """Expected calibration error: |confidence − accuracy| over 15 bins of equal width, weighted by their rows
    (Guo et al. 2017, arXiv 1706.04599).
    """
    confidence_N = probability_NC.max(axis=1).astype(np.float64)
    right_N = probability_NC.argmax(axis=1) == truth_N
    bin_N = np.minimum((confidence_N * _BINS).astype(np.int64), _BINS - 1)
    gap = np.bincount(bin_N, weights=confidence_N - right_N, minlength=_BINS)
    return float(np.abs(gap).sum() / max(1, len(truth_N)))


def _pearson(predicted: LabelsN, truth: LabelsN) -> float:
    if len(truth) < 2 or predicted.std() == 0 or truth.std() == 0:
        return 0.0
    return float(np.corrcoef(predicted, truth)[0, 1])


def main_scores(tasks: Mapping[str, Task], scores: Scores) -> dict[str, float]:
    """The main score of every task that was scored."""
    return {name: scores[name][task.main_score] for name, task in tasks.items() if name in scores}


def mean_score(tasks: Mapping[str, Task], scores: Scores) -> float:
    """Mean of the tasks' main scores; 0 when no task was scored."""
    main = main_scores(tasks, scores)
    return float(np.mean(list(main.values()))) if main else 0.0
