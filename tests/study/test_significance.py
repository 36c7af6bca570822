"""Bootstrap over rows and seeds, against what is known."""

import numpy as np
import pytest

from frostline.data.labels import Task
from frostline.study.significance import Answers, draw_scores
from frostline.training.intervals import difference_interval, percentiles

TASK = Task(name="topic", column="topic", kind="classification", labels=("a", "b", "c"))


def answers(right, *, rows=400, seed=0, missing=0):
    """A run that is right on a share of the rows."""
    generator = np.random.default_rng(1)
    labels = generator.integers(3, size=rows)
    said = np.where(np.random.default_rng(seed).random(rows) < right, labels, (labels + 1) % 3)
    logits = np.eye(3, dtype=np.float32)[said]
    labels[:missing] = -100
    return Answers({"topic": TASK}, {"topic": logits}, {"topic": labels})


def test_a_scenario_is_level_with_itself():
    draws = draw_scores({"a": [answers(0.8)], "b": [answers(0.8)]})
    assert (draws["a"].mean == draws["b"].mean).all()


def test_a_better_one_is_ahead_in_every_draw():
    draws = draw_scores({"good": [answers(0.95)], "bad": [answers(0.6)]})
    low, high = percentiles(draws["good"].mean - draws["bad"].mean)
    assert 0.25 < low < high < 0.45


def test_one_seed_gives_the_interval_of_rows_alone():
    one, two = answers(0.9, seed=1), answers(0.8, seed=2)
    draws = draw_scores({"one": [one], "two": [two]})
    found = percentiles(draws["two"].tasks["topic"] - draws["one"].tasks["topic"])
    labels = one.labels["topic"]
    expected = difference_interval((TASK, one.logits["topic"]), (TASK, two.logits["topic"]), labels)
    assert found == pytest.approx(expected, abs=0.012)


def test_seeds_that_differ_widen_the_interval():
    apart, same = [answers(0.9), answers(0.7)], [answers(0.8, seed=1), answers(0.8, seed=1)]
    draws = draw_scores({"apart": apart, "same": same})
    widths = {name: np.diff(percentiles(one.mean))[0] for name, one in draws.items()}
    assert widths["apart"] > 2 * widths["same"]


def test_a_scenario_that_lost_a_seed_is_still_drawn_around_its_own_mean():
    """Three runs beside two: every run of the two is drawn as often as the other."""
    runs = [answers(0.9), answers(0.5)]
    draws = draw_scores({"whole": [answers(0.8)] * 3, "lost": runs})
    alone = [draw_scores({"a": [run]})["a"].mean.mean() for run in runs]
    assert draws["lost"].mean.mean() == pytest.approx(np.mean(alone), abs=0.01)


def test_rows_without_a_label_count_nothing():
    whole, cut = answers(0.8), answers(0.8, missing=200)
    assert draw_scores({"a": [cut]})["a"].mean.mean() != draw_scores({"a": [whole]})["a"].mean.mean()
    assert np.isfinite(draw_scores({"a": [answers(0.8, rows=400, missing=399)]})["a"].mean).all()


def test_the_same_seed_gives_the_same_draws():
    one = {"a": [answers(0.8)]}
    assert (draw_scores(one)["a"].mean == draw_scores(one)["a"].mean).all()
