"""Leak: what training the layers under a frozen head did to its answers.

A head's own earlier outputs are the reference, so that most of it needs no labels. Knows logits and labels,
not models.

Shapes: N texts, C outputs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import log_expit, log_softmax

from frostline.data.labels import LabelsN, Task, is_labelled
from frostline.model.heads import decisions, probabilities
from frostline.training.evaluate import score_task
from frostline.training.intervals import difference_interval

Matrix = np.ndarray[Any, np.dtype[Any]]


def lost_share(task: Task, before_NC: Matrix, after_NC: Matrix, labels: LabelsN) -> float:
    """What a guard compares with its tolerance: the loss of the main score on labelled rows, below 0 for a
    gain; without any label, the share of texts with another answer (regression: 1 − Pearson's r).
    """
    if is_labelled(labels).any():
        before, after = _main_scores(task, before_NC, after_NC, labels)
        return before - after
    if task.kind == "regression":
        return 1.0 - float(score_task(task, after_NC, probabilities(task, before_NC))["pearson"])
    return flip_rate(task, before_NC, after_NC)


def _main_scores(task: Task, before_NC: Matrix, after_NC: Matrix, labels: LabelsN) -> tuple[float, float]:
    first, second = (score_task(task, logits, labels) for logits in (before_NC, after_NC))
    return float(first[task.main_score]), float(second[task.main_score])


def flip_rate(task: Task, before_NC: Matrix, after_NC: Matrix) -> float:
    """Share of texts with another answer; of a multilabel task, with another set of labels."""
    first, second = (decisions(task, probabilities(task, logits)) for logits in (before_NC, after_NC))
    changed = first != second
    return float((changed.any(axis=1) if changed.ndim == 2 else changed).mean())


def mean_divergence(task: Task, before_NC: Matrix, after_NC: Matrix) -> float:
    """Mean Kullback–Leibler divergence in nats of the earlier probabilities from the present ones; of a
    multilabel task, the mean over its labels.
    """
    before_NC, after_NC = before_NC.astype(np.float64), after_NC.astype(np.float64)
    if task.kind == "classification":
        then_NC, now_NC = log_softmax(before_NC, axis=1), log_softmax(after_NC, axis=1)
        return float((np.exp(then_NC) * (then_NC - now_NC)).sum(axis=1).mean())
    parts = [(log_expit(sign * before_NC), log_expit(sign * after_NC)) for sign in (1, -1)]
    return float(np.mean(sum(np.exp(then) * (then - now) for then, now in parts)))


def measure_leak(task: Task, before_NC: Matrix, after_NC: Matrix, labels: LabelsN) -> dict[str, Any]:
    """What happened to a head's answers.

    Args:
        task: of the head.
        before_NC: its logits when it was frozen.
        after_NC: its logits now, on the same texts.
        labels: of these texts, as `encode_labels` made them.

    Returns:
        With labels: score_before, score_after, change and its 95 % interval (paired bootstrap over rows).
        Always: flip_rate and mean_kl; for a regression mean_shift, the mean absolute change in the target's
        unit.
    """
    found: dict[str, Any] = {}
    if is_labelled(labels).any():
        before, after = _main_scores(task, before_NC, after_NC, labels)
        interval = list(difference_interval((task, before_NC), (task, after_NC), labels))
        found = {"score": task.main_score, "score_before": before, "score_after": after}
        found |= {"change": after - before, "interval": interval}
    if task.kind == "regression":
        shift_N = probabilities(task, after_NC).astype(np.float64) - probabilities(task, before_NC)
        return found | {"mean_shift": float(np.abs(shift_N).mean())}
    flips, divergence = flip_rate(task, before_NC, after_NC), mean_divergence(task, before_NC, after_NC)
    return found | {"flip_rate": flips, "mean_kl": divergence}


def leak_sentence(name: str, leak: Mapping[str, Any]) -> str:
    """A leak in words, for the terminal."""
    parts = []
    if "change" in leak:
        low, high = leak["interval"]
        parts.append(
            f"{leak['score']} {leak['score_before']:.3f} → {leak['score_after']:.3f} ({leak['change']:+.3f}, "
            f"95 % {low:+.3f} … {high:+.3f})"
        )
    if "flip_rate" in leak:
        parts.append(f"{leak['flip_rate']:.1%} of answers changed, KL {leak['mean_kl']:.3f}")
    if "mean_shift" in leak:
        parts.append(f"answers moved by {leak['mean_shift']:.3f}")
    if leak.get("probe_gap") is not None:
        parts.append(f"a head solved anew scores {leak['probe_gap']:+.3f}")
    return f"{name} head, frozen: {'; '.join(parts)}"
