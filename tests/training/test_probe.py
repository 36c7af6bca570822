"""Heads solved on embeddings: which strength is taken, and when the search ends."""

import numpy as np
import pytest
import torch

from frostline.data.labels import Task
from frostline.model.heads import Head
from frostline.training import probe
from frostline.training.probe import solve_head, solve_heads

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


KINDS = pytest.mark.parametrize(
    "task", [TASK, WEIGHTED, TAGS, NUMBER], ids=["plain", "weighted", "tags", "number"]
)


def _labelled(task, seed):
    states, classes = _rows(200, seed, rare=6)
    if task.kind == "multilabel":
        return states, np.stack([classes > 0, classes > 1], axis=1).astype(np.float32)
    return states, classes.astype(np.float32) if task.kind == "regression" else classes


def _solve_all(head, train, held, **more):
    name = head.task.name
    (found,) = solve_heads(
        [head], train=(train[0], {name: train[1]}), held=(held[0], {name: held[1]}), **more
    )
    return found[1]


@KINDS
def test_every_kind_of_task_is_solved(task):
    train, held = _labelled(task, 0), _labelled(task, 1)
    head = _head(task)
    found = solve_head(head, train_ND=train[0], train_labels=train[1], held_ND=held[0], held_labels=held[1])
    assert found["score"] > 0.8
    assert torch.isfinite(head.linear.weight).all()


@KINDS
def test_a_temperature_leaves_answers_and_takes_sureness(task):
    train, held = _labelled(task, 0), _labelled(task, 1)
    sure, unsure = _head(task), _head(task)
    assert _solve_all(sure, train, held) == _solve_all(unsure, train, held, temperatures={"t": 16.0})
    states = torch.from_numpy(held[0])
    factor = 16.0 if task.kind == "classification" else 1.0
    torch.testing.assert_close(unsure(states) * factor, sure(states))
    assert sure(states).abs().max() > 1


@KINDS
def test_a_head_that_scores_better_as_it_is_stays_so(task):
    train, held = _labelled(task, 0), _labelled(task, 1)
    head = _head(task)
    good = _solve_all(head, train, held)
    before = {name: one.clone() for name, one in head.state_dict().items()}
    wrong = np.random.default_rng(0).permutation(train[1])
    found = _solve_all(head, (train[0], wrong), held, temperatures={"t": 16.0})
    assert found["score_before"] == pytest.approx(good["score"], abs=1e-6)
    assert found["kept"] and found["score"] < found["score_before"]
    assert all(torch.equal(one, before[name]) for name, one in head.state_dict().items())


@pytest.mark.parametrize(("gain", "kept"), [(-0.1, True), (0.0019, True), (0.0021, False)])
def test_a_head_is_solved_again_for_two_thousandths(gain, kept, monkeypatch):
    def solved(head, **_):
        with torch.no_grad():
            head.linear.weight.fill_(2)
        return {"strength": 1.0, "score": 0.8 + gain}

    head = _head()
    with torch.no_grad():
        head.linear.weight.fill_(1)
    monkeypatch.setattr("frostline.training.probe._score", lambda *_: 0.8)
    monkeypatch.setattr("frostline.training.probe.solve_head", solved)
    found = _solve_all(head, _labelled(TASK, 0), _labelled(TASK, 1))
    assert found["kept"] is kept
    assert (head.linear.weight == (1 if kept else 2)).all()


def test_a_head_that_has_learned_nothing_is_never_kept():
    train, (states, numbers) = _labelled(NUMBER, 0), _labelled(NUMBER, 1)
    head = _head(NUMBER)
    found = _solve_all(head, train, (states, -numbers))  # a correlation below that of a constant
    assert found["score"] < 0 and "score_before" not in found
    assert head.linear.weight.abs().max() > 0


def test_without_labels_to_judge_by_a_head_is_solved_all_the_same():
    train, held = _labelled(TASK, 0), _labelled(TASK, 1)
    head = _head()
    assert _solve_all(head, train, (held[0], np.full(len(held[1]), -100))) == {"strength": 0.03}
    assert head.linear.weight.abs().max() > 0
