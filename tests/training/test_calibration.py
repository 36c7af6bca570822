"""Temperatures and thresholds: found where the truth is known, harmless where there is little to learn from."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from frostline.data.labels import Task
from frostline.model.heads import decisions, probabilities
from frostline.training.calibration import (
    _own_threshold,
    as_scored,
    before_training,
    best_temperature,
    best_thresholds,
    calibrate,
    calibration_report,
    shared_threshold,
)
from frostline.training.evaluate import calibration_error, score_task

CLASSES = Task(name="t", column="t", kind="classification", labels=("a", "b", "c"))
TAGS = Task(name="t", column="t", kind="multilabel", labels=("x", "y"))


def believed(number, *, seed=0):
    """Logits whose probabilities are right, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(number, 3), scale=2).astype(np.float32)
    labels = np.asarray([generator.choice(3, p=p) for p in softmax(logits.astype(np.float64), axis=1)])
    return logits, labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_by_which_logits_were_multiplied_is_found(factor):
    logits, labels = believed(4000)
    assert best_temperature(logits.astype(np.float64) * factor, labels) == pytest.approx(factor, rel=0.08)


def test_a_temperature_changes_no_answer_and_mends_the_confidence():
    logits, labels = believed(4000)
    task = calibrate(CLASSES, logits * 3, labels)
    fresh, truth = believed(4000, seed=1)
    before, after = probabilities(CLASSES, fresh * 3), probabilities(task, fresh * 3)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert calibration_error(after, truth) < 0.03 < 0.1 < calibration_error(before, truth)
    report = calibration_report(CLASSES, task, logits * 3, labels)
    assert report["ece_after"] < report["ece_before"]
    assert report["temperature"] == task.temperature


def test_a_few_rows_that_are_all_right_do_not_make_a_head_certain():
    labels = np.arange(60) % 3
    logits = np.eye(3)[labels] * 4
    sure = probabilities(calibrate(CLASSES, logits, labels), logits).max()
    assert 0.95 < sure < 0.99  # one in 62 may be otherwise


def test_too_few_rows_leave_the_head_as_it_is():
    logits, labels = believed(19)
    assert calibrate(CLASSES, logits, labels) == CLASSES
    number = Task(name="n", column="n", kind="regression")
    assert calibrate(number, logits[:, :1], logits[:, 0]) == number


def f1_scores(thresholds, values, truth):
    """Macro and micro F1."""
    given = values >= np.asarray(thresholds)
    hits, size = (given & truth).sum(axis=0), given.sum(axis=0) + truth.sum(axis=0)
    return (2 * hits / np.maximum(size, 1)).mean(), 2 * hits.sum() / max(1, size.sum())


def rare_labels(number, *, num_labels=12, seed=0):
    """Logits that are too low for labels that few rows have, so that 0.5 is too much to ask."""
    generator = np.random.default_rng(seed)
    truth = generator.random((number, num_labels)) < np.linspace(0.03, 0.3, num_labels)
    noise = generator.normal(size=truth.shape)
    return (1.5 * truth - 2 + noise).astype(np.float32), truth


def test_the_threshold_for_all_labels_is_the_best_of_the_grid():
    logits, truth = rare_labels(200)
    values = expit(np.round(logits.astype(np.float64), 1))  # many lie on a threshold
    grid = expit(np.linspace(-4, 4, 81))
    found = shared_threshold(values, truth)
    assert sum(f1_scores(found, values, truth)) == pytest.approx(
        max(sum(f1_scores(one, values, truth)) for one in grid), abs=1e-12
    )
    assert found < 0.4


def test_labels_with_many_rows_are_given_a_threshold_of_their_own():
    logits, truth = rare_labels(20_000, num_labels=2)
    logits[:, 1] += 3
    values = expit(logits)
    found = best_thresholds(values, truth)
    for i in range(2):
        best = max(f1_scores(one, values[:, [i]], truth[:, [i]])[0] for one in np.linspace(0.05, 0.95, 91))
        assert f1_scores(found[i], values[:, [i]], truth[:, [i]])[0] > best - 0.02
    assert found[0] + 0.2 < found[1]


def test_thresholds_of_few_rows_hold_for_others():
    """Better than 0.5, and than each label's own best, which follows the few rows that have it."""
    fresh, truth = rare_labels(4000, seed=1)
    values = expit(fresh)
    ours, own = [], []
    for seed in range(2, 12):
        logits, known = rare_labels(60, seed=seed)
        ours.append(f1_scores(best_thresholds(expit(logits), known), values, truth))
        best = [
            _own_threshold(p, t) if t.sum() >= 5 else 0.5
            for p, t in zip(expit(logits).T, known.T, strict=True)
        ]
        own.append(f1_scores(best, values, truth))
    macro, micro = np.mean(ours, axis=0)
    assert macro > np.mean(own, axis=0)[0] + 0.01
    assert micro > np.mean(own, axis=0)[1] - 0.01
    assert macro > f1_scores(0.5, values, truth)[0] + 0.1


def test_labels_that_no_row_has_and_labels_without_rows_keep_one_half():
    logits, _ = rare_labels(30)
    assert best_thresholds(expit(logits), np.zeros(logits.shape, bool)) == pytest.approx((0.5,) * 12)
    unknown = np.full((30, 2), np.nan, dtype=np.float32)
    assert calibrate(TAGS, logits[:, :2], unknown) == TAGS


def test_a_head_is_given_thresholds_by_the_rows_that_are_labelled():
    logits, truth = rare_labels(300, num_labels=2)
    labels = truth.astype(np.float32)
    task = calibrate(TAGS, logits, labels)
    assert task.thresholds == pytest.approx(best_thresholds(expit(logits), truth), abs=1e-6)
    assert score_task(task, logits, labels)["macro_f1"] > score_task(TAGS, logits, labels)["macro_f1"]
    given = decisions(task, probabilities(task, logits))
    assert (given[:, 0] == (probabilities(TAGS, logits)[:, 0] >= np.float32(task.thresholds[0]))).all()
    report = calibration_report(TAGS, task, logits, labels)
    assert report["thresholds"] == dict(zip("xy", task.thresholds, strict=True))
    half = np.where(np.arange(300)[:, None] < 150, labels, np.nan)
    assert calibrate(TAGS, logits, half).thresholds == calibrate(TAGS, logits[:150], labels[:150]).thresholds


def test_a_head_of_several_labels_is_scored_as_with_the_thresholds_that_it_would_be_given():
    logits, truth = rare_labels(300, num_labels=2)
    labels = truth.astype(np.float32)
    assert as_scored(TAGS, logits, labels) == calibrate(TAGS, logits, labels) != TAGS
    told = TAGS.model_copy(update={"thresholds": (0.2, 0.3)})
    assert as_scored(told, logits, labels) == told
    assert as_scored(CLASSES, *believed(400)) == CLASSES


def test_a_head_that_never_learns_keeps_its_answers_and_one_that_does_is_calibrated_anew():
    told = TAGS.model_copy(update={"thresholds": (0.2, 0.3)})
    assert before_training(told, learns=False) == told
    assert before_training(told, learns=True) == TAGS
    kept = before_training(TAGS, learns=False)
    logits, truth = rare_labels(300, num_labels=2)
    assert as_scored(kept, logits, truth.astype(np.float32)) == kept
    assert (decisions(kept, expit(logits)) == decisions(TAGS, expit(logits))).all()
    warm = CLASSES.model_copy(update={"temperature": 2.0})
    assert [before_training(warm, learns=learns).temperature for learns in (False, True)] == [2.0, 1.0]
