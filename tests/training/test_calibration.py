"""Temperatures and thresholds: found where the truth is known, harmless where there is little to learn from."""

import numpy as np
import pytest
from scipy.special import softmax

from frostline.data.labels import Task
from frostline.model.heads import decisions, probabilities
from frostline.training.calibration import best_temperature, best_threshold, calibrate, calibration_report
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


def test_a_threshold_is_the_best_of_all():
    generator = np.random.default_rng(0)
    truth = (generator.random(500) < 0.1).astype(np.int64)
    values = np.clip(0.2 * truth + generator.random(500) * 0.3, 0, 1).astype(np.float32)

    def f1(threshold):
        given = values >= threshold
        return 2 * (given & (truth == 1)).sum() / max(1, given.sum() + truth.sum())

    found = best_threshold(values, truth)
    assert f1(found) == max(f1(value) for value in values)
    assert f1(found) > f1(0.5)


def test_a_label_with_few_rows_keeps_one_half_and_the_others_gain():
    generator = np.random.default_rng(0)
    labels = np.zeros((300, 2), dtype=np.float32)
    labels[:, 0] = generator.random(300) < 0.2
    labels[:3, 1] = 1
    logits = (labels * 2 - 2.5 + generator.normal(size=(300, 2))).astype(np.float32)
    task = calibrate(TAGS, logits, labels)
    assert task.thresholds is not None
    assert task.thresholds[1] == 0.5
    assert score_task(task, logits, labels)["macro_f1"] > score_task(TAGS, logits, labels)["macro_f1"]
    given = decisions(task, probabilities(task, logits))
    assert (given[:, 0] == (probabilities(TAGS, logits)[:, 0] >= np.float32(task.thresholds[0]))).all()
    assert calibration_report(TAGS, task, logits, labels)["thresholds"] == {
        "x": task.thresholds[0], "y": 0.5,
    }  # fmt: skip
