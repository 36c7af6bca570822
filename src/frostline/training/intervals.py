"""How sure a score is: bootstrap intervals over rows, for one model and for the difference of two.

Rows are drawn again with replacement (Efron & Tibshirani 1993, percentile intervals), of a classification as
many of each class as there are; both models of a difference see the same draws. Knows logits and labels, not
models.

Shapes: N labelled rows, K different rows (truth and answers alike are one), R draws, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from frostline.data.labels import LabelsN, Task, is_labelled
from frostline.model.heads import decisions, probabilities
from frostline.training.evaluate import mean_score, score_tasks

NUM_DRAWS = 1000
_MOST_CELLS = 4_000_000
Matrix = np.ndarray[Any, np.dtype[Any]]


def score_intervals(
    task: Task, logits_NC: Matrix, labels: LabelsN, *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % interval of every score but `ece` that `score_task` gives, from 1,000 draws of the labelled rows.

    Args:
        task: says what logits and labels mean.
        logits_NC: of the head, all rows.
        labels: as `encode_labels` made them; rows without a label are left out.
        seed: of the draws.
    """
    known = is_labelled(labels)
    columns = np.column_stack([_flat(labels[known]), answer_matrix(task, logits_NC[known])])
    draws: dict[str, list[Matrix]] = {}
    for weights_RK, row_K in _draws(columns, seed, by_class=task.kind == "classification"):
        for name, values_R in scores_of_draws(task, *_halves(columns[row_K]), weights_RK).items():
            draws.setdefault(name, []).append(values_R)
    return {name: percentiles(np.concatenate(values)) for name, values in draws.items()}


def difference_interval(
    before: tuple[Task, Matrix], after: tuple[Task, Matrix], labels: LabelsN, *, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the main score's change from one model to another on the same rows (paired).

    Args:
        before: the task as the one model has it, with its thresholds, and its logits (N, C).
        after: the same of the other model.
        labels: as `encode_labels` made them.
        seed: of the draws.
    """
    known = is_labelled(labels)
    truth, task = _flat(labels[known]), before[0]
    answers = (answer_matrix(one, logits[known]) for one, logits in (before, after))
    columns = np.column_stack([truth, *answers])
    width = truth.shape[1]
    changes = []
    for weights_RK, row_K in _draws(columns, seed, by_class=task.kind == "classification"):
        rows = columns[row_K]
        first, second = (
            scores_of_draws(task, rows[:, :width], part, weights_RK)[task.main_score]
            for part in (rows[:, width : 2 * width], rows[:, 2 * width :])
        )
        changes.append(second - first)
    return percentiles(np.concatenate(changes))


def scores_with_intervals(
    tasks: Mapping[str, Task], logits: Mapping[str, Matrix], labels: Mapping[str, LabelsN]
) -> dict[str, Any]:
    """What is said of a labelled split: `score` (mean of main scores), `tasks` (scores by task, with
    `intervals`), and `without_labels` (columns by task of those that have no label there, hence no scores and
    no part in the mean).
    """
    scores = score_tasks(tasks, logits, labels)
    for name, values in scores.items():
        found = score_intervals(tasks[name], logits[name], labels[name])
        values["intervals"] = {key: list(pair) for key, pair in found.items()}
    without = {name: task.column for name, task in tasks.items() if name not in scores}
    return {"score": mean_score(tasks, scores), "tasks": scores, "without_labels": without}


def answer_matrix(task: Task, logits_NC: Matrix) -> Matrix:
    """A head's answers as `scores_of_draws` takes them: (N, 1), of a multilabel task (N, C)."""
    return _flat(decisions(task, probabilities(task, logits_NC)))


def _flat(values: Matrix) -> Matrix:
    return values.reshape(len(values), -1).astype(np.float64)


def _halves(columns: Matrix) -> tuple[Matrix, Matrix]:
    width = columns.shape[1] // 2
    return columns[:, :width], columns[:, width:]


def _draws(columns: Matrix, seed: int, *, by_class: bool) -> Iterator[tuple[Matrix, Matrix]]:
    """How often each different row was drawn (R, K), in blocks that fit the memory; and where it stands.

    Args:
        columns: the truth first.
        seed: of the draws.
        by_class: as many rows of each class as there are: without one of its rows a rare class would be left
            out of a mean over classes, which then rises.
    """
    _, row_K, count_K = np.unique(columns, axis=0, return_index=True, return_counts=True)
    truth_K = columns[row_K, 0] if by_class else np.zeros(len(row_K))
    counts = [count_K[truth_K == truth] for truth in np.unique(truth_K)]  # rows come sorted by their truth
    generator = np.random.default_rng(seed)
    block = max(1, min(NUM_DRAWS, _MOST_CELLS // len(row_K)))
    for start in range(0, NUM_DRAWS, block):
        size = min(block, NUM_DRAWS - start)
        draws = [generator.multinomial(one.sum(), one / one.sum(), size=size) for one in counts]
        yield np.concatenate(draws, axis=1), row_K


def scores_of_draws(task: Task, truth: Matrix, answer: Matrix, weights_RK: Matrix) -> dict[str, Matrix]:
    """Every score of `score_task` but `ece`, for each row of weights.

    Args:
        task: of the head.
        truth: labels (K, 1), of a multilabel task (K, C).
        answer: of the head, alike.
        weights_RK: how often each row was drawn; where no row was, the score is 0.
    """
    if task.kind == "regression":
        return _regression_scores(truth[:, 0], answer[:, 0], weights_RK)
    total_R = np.maximum(weights_RK.sum(axis=1), 1)
    right_K = (truth == answer).all(axis=1)
    scores = {"accuracy": weights_RK @ right_K / total_R}
    if task.kind == "classification":
        classes = np.arange(task.num_outputs)
        truth, answer = (values == classes for values in (truth, answer))
    hits_RC = weights_RK @ (truth * answer)
    sizes_RC = weights_RK @ truth.astype(np.float64) + weights_RK @ answer.astype(np.float64)
    f1_RC = np.divide(2 * hits_RC, sizes_RC, out=np.zeros_like(sizes_RC), where=sizes_RC > 0)
    # As scikit-learn has it: a class that neither occurs nor is predicted has no F1, a label has 0.
    counted = np.maximum((sizes_RC > 0).sum(axis=1), 1) if task.kind == "classification" else task.num_outputs
    scores["macro_f1"] = f1_RC.sum(axis=1) / counted
    if task.kind == "multilabel":
        scores["micro_f1"] = 2 * hits_RC.sum(axis=1) / np.maximum(sizes_RC.sum(axis=1), 1)
    return scores


def _regression_scores(truth_K: Matrix, answer_K: Matrix, weights_RK: Matrix) -> dict[str, Matrix]:
    total_R = np.maximum(weights_RK.sum(axis=1), 1)
    error_K = answer_K - truth_K
    # From the first value on: large numbers lose no digits, and a constant side has no spread at all.
    truth_K, answer_K = truth_K - truth_K[:1], answer_K - answer_K[:1]
    mean_t, mean_a = (weights_RK @ values / total_R for values in (truth_K, answer_K))
    spread_t, spread_a = (
        np.maximum(weights_RK @ values**2 / total_R - mean**2, 0)
        for values, mean in ((truth_K, mean_t), (answer_K, mean_a))
    )
    covariance = weights_RK @ (truth_K * answer_K) / total_R - mean_t * mean_a
    spread = np.sqrt(spread_t * spread_a)
    return {
        "mae": weights_RK @ np.abs(error_K) / total_R,
        "rmse": np.sqrt(weights_RK @ error_K**2 / total_R),
        "pearson": np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0),
    }


def percentiles(values_R: Matrix) -> tuple[float, float]:
    """The 95 % interval of draws."""
    low, high = np.quantile(values_R, (0.025, 0.975))
    return float(low), float(high)
