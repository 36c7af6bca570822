"""Classical classifiers on frozen embeddings, returned as linear heads.

Logistic regression (classification, each label of a multilabel task) and ridge regression, their strength
chosen on validation; a head that learned before stays where that gains too little. Knows embeddings and
labels, not the backbone.

Shapes: N texts, D width, C outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from frostline.data.labels import LabelsN, Task, is_labelled
from frostline.model.heads import Head
from frostline.training.calibration import as_scored
from frostline.training.evaluate import score_task

_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_BLIND_STRENGTH = 0.03
# The search ends after so many strengths with neither a better score nor a lower loss: a class of a handful
# of rows is found late, when the loss has long told that the solution is too weak.
_PATIENCE = 2
# What a solution must gain over a head that has learned; less is chance (docs/experiments.md).
_LEAST_GAIN = 0.002
_TOLERANCE = 1e-4  # of the mean gradient; at 1e-3 a start from the solution before moves no further
# Up to so many numbers one thread is quicker: two of OpenBLAS take 1.5 to 15 times as long for products as
# narrow as there are classes (docs/experiments.md).
_SLENDER_SIZE = 2**26
Matrix = np.ndarray[Any, np.dtype[Any]]


def solve_heads(
    heads: Iterable[Head],
    *,
    train: tuple[Matrix, Mapping[str, LabelsN]],
    held: tuple[Matrix, Mapping[str, LabelsN]],
    temperatures: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, dict[str, float | bool]]]:
    """Solves heads one after the other, but for those that this would raise by less than .002.

    Args:
        heads: changed.
        train: embeddings (N, D) and labels by task.
        held: those by which the strength is chosen.
        temperatures: by task, what the logits of a solution are divided by, of a classification alone.

    Yields:
        Name of a head's task, what `solve_head` found, and of a head that had learned `score_before` and
        whether it is `kept`.
    """
    (train_ND, train_labels), (held_ND, held_labels) = train, held
    for head in heads:
        name, linear = head.task.name, head.linear
        before, score_before = copy.deepcopy(linear.state_dict()), _score(head, held_ND, held_labels[name])
        found = solve_head(
            head,
            train_ND=train_ND,
            train_labels=train_labels[name],
            held_ND=held_ND,
            held_labels=held_labels[name],
        )
        kept = score_before is not None and found["score"] < score_before + _LEAST_GAIN
        if kept:
            linear.load_state_dict(before)
        elif head.task.kind == "classification":
            with torch.no_grad():
                for parameter in linear.parameters():
                    parameter.div_((temperatures or {}).get(name, 1.0))
        yield name, found | ({} if score_before is None else {"score_before": score_before, "kept": kept})


def solve_head(
    head: Head, *, train_ND: Matrix, train_labels: LabelsN, held_ND: Matrix, held_labels: LabelsN
) -> dict[str, float]:
    """Solves a head to convergence and writes the solution into it.

    Args:
        head: changed: its weight and bias.
        train_ND: embeddings as `encode` returns them.
        train_labels: as `encode_labels` made them.
        held_ND: embeddings by which the strength is chosen.
        held_labels: their labels; without any, a strength of 0.03 is taken.

    Returns:
        The strength C taken (1 / alpha for ridge regression) and its validation score; no score without
        validation labels.
    """
    known, held = is_labelled(train_labels), is_labelled(held_labels)
    features, held_features = _features(head, train_ND[known]), _features(head, held_ND[held])
    best_score, best_strength, best_loss, since_best = -np.inf, _BLIND_STRENGTH, np.inf, 0
    best: tuple[Matrix, Matrix] | None = None
    strengths = _STRENGTHS if held.any() else (_BLIND_STRENGTH,)
    with threadpool_limits(limits=1 if features.size <= _SLENDER_SIZE else None, user_api="blas"):
        for strength, weight_CD, bias_C in _solutions(head.task, features, train_labels[known], strengths):
            if not held.any():
                best = (weight_CD, bias_C)
                break
            logits = held_features @ weight_CD.T + bias_C
            task = as_scored(head.task, logits, held_labels[held])
            score = score_task(task, logits, held_labels[held])[task.main_score]
            loss = _loss(head, logits, held_labels[held])
            since_best = 0 if score > best_score or loss < best_loss else since_best + 1
            if since_best == _PATIENCE:
                break
            best_loss = min(best_loss, loss)
            if score > best_score:
                best_score, best_strength, best = score, strength, (weight_CD, bias_C)
    assert best is not None, f"no solution for task {head.task.name}"
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(best[0]))
        head.linear.bias.copy_(torch.from_numpy(best[1]))
    return {"strength": best_strength} | ({"score": float(best_score)} if held.any() else {})


def _score(head: Head, embedding_ND: Matrix, labels: LabelsN) -> float | None:
    """Main score of a head; None without labels, and of a head that has learned nothing."""
    known = is_labelled(labels)
    if not known.any() or not head.has_learned:
        return None
    weight_CD, bias_C = (
        parameter.detach().cpu().numpy() for parameter in (head.linear.weight, head.linear.bias)
    )
    logits_NC = _features(head, embedding_ND[known]) @ weight_CD.T + bias_C
    task = as_scored(head.task, logits_NC, labels[known])
    return float(score_task(task, logits_NC, labels[known])[task.main_score])


def _loss(head: Head, logits_NC: Matrix, labels: LabelsN) -> float:
    """Loss of a head's outputs, summed over labelled rows; in float32, as the head's class weights are."""
    device = head.linear.weight.device
    logits = torch.from_numpy(logits_NC).to(device, torch.float32)
    return float(head.loss_sum(logits, torch.from_numpy(labels).to(device)))


def _features(head: Head, embedding_ND: Matrix) -> Matrix:
    """What the head's linear map reads."""
    device = head.linear.weight.device
    with torch.no_grad():
        features: Matrix = head.features(torch.from_numpy(embedding_ND).to(device)).cpu().numpy()
    return features


def _solutions(
    task: Task, features_ND: Matrix, labels: LabelsN, strengths: Sequence[float]
) -> Iterator[tuple[float, Matrix, Matrix]]:
    """Weight (C, D) and bias (C,) for each strength, weakest first, each started from the one before."""
    if task.kind == "regression":
        target = (labels - task.target_mean) / task.target_std
        for strength in strengths:
            ridge = Ridge(alpha=1 / strength).fit(features_ND, target)
            yield strength, ridge.coef_[None, :], np.asarray([ridge.intercept_])
        return
    columns = [labels] if task.kind == "classification" else list(labels.T.astype(np.int64))
    models = [_logistic(task, column) for column in range(len(columns))]
    for strength in strengths:
        fits = []
        for model, column in zip(models, columns, strict=True):
            fits.append(_fit(model.set_params(C=strength), features_ND, column, task))
        yield strength, np.concatenate([w for w, _ in fits]), np.concatenate([b for _, b in fits])


def _logistic(task: Task, column: int) -> LogisticRegression:
    weights: dict[int, float] | None = None
    if task.class_weights is not None:
        binary = {0: 1.0, 1: task.class_weights[column]}
        weights = dict(enumerate(task.class_weights)) if task.kind == "classification" else binary
    return LogisticRegression(max_iter=1000, tol=_TOLERANCE, warm_start=True, class_weight=weights)


def _fit(
    model: LogisticRegression, features_ND: Matrix, labels_N: LabelsN, task: Task
) -> tuple[Matrix, Matrix]:
    """Weights of every output; a class without rows gets a bias that never wins."""
    present = np.unique(labels_N)
    if task.kind == "multilabel" and len(present) == 1:
        return np.zeros((1, features_ND.shape[1])), np.asarray([20.0 if present[0] else -20.0])
    if model.class_weight:
        model.set_params(class_weight={k: v for k, v in model.class_weight.items() if k in present})
    model.fit(features_ND, labels_N)
    if task.kind == "multilabel":
        return model.coef_, model.intercept_
    if len(present) == 1:
        raise AssertionError(f"one class in task {task.name}")
    # Two classes have one row of coefficients; split evenly, the difference of logits is the same.
    coefficients = model.coef_ if len(present) > 2 else np.concatenate([-model.coef_, model.coef_]) / 2
    intercepts = (
        model.intercept_ if len(present) > 2 else np.concatenate([-model.intercept_, model.intercept_]) / 2
    )
    weight_CD = np.zeros((task.num_outputs, features_ND.shape[1]))
    bias_C = np.full(task.num_outputs, intercepts.min() - 20.0)
    weight_CD[present], bias_C[present] = coefficients, intercepts
    return weight_CD, bias_C
