"""Bootstrap intervals: of the very scores that scikit-learn gives, as wide as they should be, paired."""

import numpy as np
import pytest

from frostline.data.labels import Task
from frostline.training import intervals
from frostline.training.evaluate import score_task
from frostline.training.intervals import difference_interval, score_intervals

LABELS = ("a", "b", "c", "d")
CLASSES = Task(name="t", column="t", kind="classification", labels=LABELS)
TAGS = Task(name="t", column="t", kind="multilabel", labels=LABELS, thresholds=(0.5, 0.4, 0.6, 0.5))
NUMBER = Task(name="t", column="t", kind="regression", target_mean=3.0, target_std=2.0)


def draw(task, number, *, seed=0, noise=1.0):
    """Labels and logits that know something of them; the last label never occurs."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(number, task.num_outputs), scale=noise)
    if task.kind == "classification":
        labels = generator.integers(0, 3, number)
        logits[np.arange(number), labels] += 1
    elif task.kind == "multilabel":
        labels = (generator.random((number, 4)) < [0.5, 0.3, 0.1, 0]).astype(np.float32)
        logits += labels
    else:
        labels = generator.normal(size=number).astype(np.float32)
        logits[:, 0] += labels
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("task", [CLASSES, TAGS, NUMBER], ids=lambda task: task.kind)
def test_a_draw_of_every_row_once_gives_the_scores_themselves(task):
    logits, labels = draw(task, 300)
    expected = score_task(task, logits, labels)
    truth, answer = intervals._flat(labels), intervals.answer_matrix(task, logits)
    found = intervals.scores_of_draws(task, truth, answer, np.ones((1, 300)))
    assert found.keys() == expected.keys() - {"num_labelled", "ece"}
    for name, values in found.items():
        assert values[0] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize("task", [CLASSES, TAGS, NUMBER], ids=lambda task: task.kind)
def test_an_interval_holds_the_score_and_narrows_with_the_root_of_the_rows(task):
    widths = []
    for number in (200, 3200):
        logits, labels = draw(task, number)
        low, high = score_intervals(task, logits, labels)[task.main_score]
        assert low < score_task(task, logits, labels)[task.main_score] < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.35)


def test_the_interval_of_an_accuracy_is_that_of_a_binomial():
    logits, labels = draw(CLASSES, 1000)
    share = score_task(CLASSES, logits, labels)["accuracy"]
    low, high = score_intervals(CLASSES, logits, labels)["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 1000), rel=0.15)


def test_nineteen_of_twenty_intervals_hold_the_true_value():
    true = np.mean([score_task(NUMBER, *draw(NUMBER, 5000, seed=s))["mae"] for s in range(20)])
    held = 0
    for seed in range(100, 200):
        low, high = score_intervals(NUMBER, *draw(NUMBER, 150, seed=seed), seed=seed)["mae"]
        held += low <= true <= high
    assert 88 <= held <= 99


def test_a_regression_that_answers_a_constant_is_not_correlated_whatever_its_unit():
    _, labels = draw(NUMBER, 200)
    constant = np.full((200, 1), 0.1, dtype=np.float32)
    assert score_intervals(NUMBER, constant, labels)["pearson"] == (0.0, 0.0)
    far = NUMBER.model_copy(update={"target_mean": 2e6})
    logits, labels = draw(NUMBER, 200)
    low, high = score_intervals(far, logits, (labels + 2e6).astype(np.float32))["pearson"]
    assert low < score_task(far, logits, (labels + 2e6).astype(np.float32))["pearson"] < high


def test_rows_without_a_label_do_not_count():
    logits, labels = draw(CLASSES, 400)
    some = labels.copy()
    some[200:] = -100
    assert score_intervals(CLASSES, logits, some) == score_intervals(CLASSES, logits[:200], labels[:200])


def test_the_change_of_a_model_to_itself_is_nothing_and_the_draws_are_paired():
    logits, labels = draw(CLASSES, 500)
    assert difference_interval((CLASSES, logits), (CLASSES, logits), labels) == (0.0, 0.0)
    near = logits + np.random.default_rng(1).normal(size=logits.shape, scale=0.05)
    low, high = difference_interval((CLASSES, logits), (CLASSES, near), labels)
    single = score_intervals(CLASSES, logits, labels)["macro_f1"]
    assert high - low < (single[1] - single[0]) / 2


def test_a_change_that_is_there_is_seen():
    logits, labels = draw(CLASSES, 500)
    worse = draw(CLASSES, 500, seed=9)[0]
    low, high = difference_interval((CLASSES, logits), (CLASSES, worse), labels)
    assert high < 0
    assert low == pytest.approx(
        score_task(CLASSES, worse, labels)["macro_f1"] - score_task(CLASSES, logits, labels)["macro_f1"],
        abs=0.1,
    )


def test_many_rows_are_drawn_in_blocks_that_change_nothing(monkeypatch):
    logits, labels = draw(NUMBER, 300)
    whole = score_intervals(NUMBER, logits, labels)
    monkeypatch.setattr(intervals, "_MOST_CELLS", 10_000)
    for name, (low, high) in score_intervals(NUMBER, logits, labels).items():
        assert (low, high) == pytest.approx(whole[name]), name


def test_a_class_of_two_rows_does_not_lift_the_interval_over_the_score():
    labels = np.repeat([0, 1, 2], [100, 100, 2])
    logits = np.zeros((202, 4), dtype=np.float32)
    logits[np.arange(202), np.where(np.arange(202) % 10 == 0, 3, labels)] = 5
    logits[200:] = [5, 0, 0, 0]  # neither of the two is found
    score = score_task(CLASSES, logits, labels)["macro_f1"]
    low, high = score_intervals(CLASSES, logits, labels)["macro_f1"]
    assert low < score < high < score + 0.03
