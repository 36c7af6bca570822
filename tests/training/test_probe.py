"""Heads solved on embeddings: which strength is taken, and when the search ends."""

import numpy as np
import pytest
import torch

from frostline.data.labels import Task
from frostline.model.heads import Head
from frostline.training import probe
from frostline.training.probe import solve_head

TASK = Task(name="t", column="t", kind="classification", labels=("a", "b", "c"))


WEIGHTED = TASK.model_copy(update={"class_weights": (0.5, 1.0, 30.0)})
TAGS = Task(name="t", column="t", kind="multilabel", labels=("a", "b"), class_weights=(1.0, 5.0))
NUMBER = Task(name="t", column="t", kind="regression", labels=(), target_mean=0.5, target_std=0.5)


def _head(task=TASK):
    return Head(task, width=8, input_scale=1.0)


def _rows(number, seed, *, rare):
    """Two classes far apart, and a third of a few rows near the second."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1], number)
    states = generator.normal(size=(2 * number, 8)) * 0.2
    states[:, 0] += 3 * labels
    close = generator.normal(size=(rare, 8)) * 0.2 + np.eye(8)[0] * 3 + np.eye(8)[1] * 0.8
    states = np.concatenate([states, close]).astype(np.float32)
    return states, np.concatenate([labels, np.full(rare, 2)])


def _solve(train, held):
    return solve_head(_head(), train_ND=train[0], train_labels=train[1], held_ND=held[0], held_labels=held[1])


def test_a_rare_class_is_found_beyond_strengths_that_score_the_same():
    found = _solve(_rows(200, 0, rare=6), _rows(100, 1, rare=10))
    assert found["strength"] >= 0.1
    assert found["score"] > 0.9


@pytest.mark.parametrize(
    ("scores", "losses", "taken", "tried"),
    [
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9], [9, 8, 7, 6, 5, 4, 3, 2], 3.0, 8),
        ([0.5, 0.6, 0.5, 0.5, 0.9], [9, 8, 8, 8, 1], 0.003, 4),
        ([0.5, 0.5, 0.7, 0.5, 0.5], [9, 9, 9, 9, 9], 0.01, 5),
    ],
    ids=["the loss falls", "neither", "a better score"],
)
def test_the_search_goes_on_while_score_or_loss_improve(scores, losses, taken, tried, monkeypatch):
    left = iter(zip(scores, losses, strict=True))
    now = {}

    def score(task, logits, labels):
        now["score"], now["loss"] = next(left)
        return {"macro_f1": now["score"]}

    monkeypatch.setattr(probe, "score_task", score)
    monkeypatch.setattr(probe, "_loss", lambda *args: now["loss"])
    assert _solve(_rows(20, 0, rare=2), _rows(20, 1, rare=2))["strength"] == taken
    assert len(scores) - len(list(left)) == tried


@pytest.mark.parametrize("task", [TASK, WEIGHTED, TAGS, NUMBER], ids=["plain", "weighted", "tags", "number"])
def test_every_kind_of_task_is_solved(task):
    def labelled(seed):
        states, classes = _rows(200, seed, rare=6)
        if task.kind == "multilabel":
            return states, np.stack([classes > 0, classes > 1], axis=1).astype(np.float32)
        return states, classes.astype(np.float32) if task.kind == "regression" else classes

    train, held = labelled(0), labelled(1)
    head = _head(task)
    found = solve_head(head, train_ND=train[0], train_labels=train[1], held_ND=held[0], held_labels=held[1])
    assert found["score"] > 0.8
    assert torch.isfinite(head.linear.weight).all()
