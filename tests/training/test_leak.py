"""What a head lost is what an independent calculation says."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from frostline.data.labels import Task
from frostline.training.evaluate import score_task
from frostline.training.leak import leak_sentence, lost_share, measure_leak

CLASSES = Task(name="t", column="t", kind="classification", labels=("a", "b", "c"))
TAGS = Task(name="t", column="t", kind="multilabel", labels=("x", "y"))
NUMBER = Task(name="t", column="t", kind="regression", target_mean=1.0, target_std=2.0)


def logits_of(task, seed):
    return np.random.default_rng(seed).normal(size=(200, task.num_outputs)).astype(np.float32)


def labels_of(task):
    generator = np.random.default_rng(7)
    if task.kind == "classification":
        return generator.integers(0, 3, 200)
    if task.kind == "multilabel":
        return generator.integers(0, 2, (200, 2)).astype(np.float32)
    return generator.normal(size=200).astype(np.float32)


@pytest.mark.parametrize("task", [CLASSES, TAGS, NUMBER], ids=lambda task: task.kind)
def test_a_head_that_did_not_move_has_no_leak(task):
    before, labels = logits_of(task, 0), labels_of(task)
    leak = measure_leak(task, before, before, labels)
    assert leak["change"] == 0
    assert leak["interval"] == [0.0, 0.0]
    assert {leak[name] for name in leak.keys() & {"flip_rate", "mean_kl", "mean_shift"}} == {0.0}
    assert lost_share(task, before, before, labels) == 0


def test_flips_and_divergence_are_counted():
    before, after = logits_of(CLASSES, 0), logits_of(CLASSES, 1)
    leak = measure_leak(CLASSES, before, after, labels_of(CLASSES))
    assert leak["flip_rate"] == (before.argmax(axis=1) != after.argmax(axis=1)).mean()
    first, second = softmax(before.astype(float), axis=1), softmax(after.astype(float), axis=1)
    assert leak["mean_kl"] == pytest.approx(np.mean(entropy(first.T, second.T)))
    assert "answers changed" in leak_sentence("t", leak)


def test_a_regression_moves_in_its_own_unit():
    before = logits_of(NUMBER, 0)
    leak = measure_leak(NUMBER, before, before + 0.5, labels_of(NUMBER))
    assert leak["mean_shift"] == pytest.approx(1.0, rel=1e-5)
    assert "moved by 1.000" in leak_sentence("t", leak)


@pytest.mark.parametrize("task", [CLASSES, TAGS, NUMBER], ids=lambda task: task.kind)
def test_what_the_guard_compares_is_the_loss_of_the_score(task):
    before, after, labels = logits_of(task, 0), logits_of(task, 1), labels_of(task)
    scores = [score_task(task, logits, labels)[task.main_score] for logits in (before, after)]
    assert lost_share(task, before, after, labels) == pytest.approx(scores[0] - scores[1])


@pytest.mark.parametrize("task", [CLASSES, TAGS, NUMBER], ids=lambda task: task.kind)
def test_without_labels_the_guard_compares_the_head_with_itself(task):
    none = np.full(200, -100) if task.kind == "classification" else np.full((200, task.num_outputs), np.nan)
    none = none[:, 0] if task.kind == "regression" else none
    before = logits_of(task, 0)
    assert lost_share(task, before, before, none) == pytest.approx(0, abs=1e-6)
    assert lost_share(task, before, logits_of(task, 1), none) > 0.3
    assert "change" not in measure_leak(task, before, before, none)
