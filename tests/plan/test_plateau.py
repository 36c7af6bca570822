import json

import pytest

from frostline.plan.phase import Until
from frostline.plan.plateau import Plateau, watched_score


def seen(scores, **settings):
    """At which evaluations the plateau was there."""
    plateau, until = Plateau(), Until(**{"patience": 2, "min_delta": 0.01} | settings)
    return [plateau.saw(score if isinstance(score, dict) else {"a": score}, until) for score in scores]


def test_a_plateau_is_patience_evaluations_without_an_improvement():
    assert seen([0.5, 0.6, 0.6, 0.6]) == [False, False, False, True]
    assert seen([0.5, 0.4, 0.52, 0.5, 0.4]) == [False, False, False, False, True]
    assert seen([0.5, 0.5], patience=1) == [False, True]


def test_with_patience_for_none_every_evaluation_is_a_plateau():
    plateau, until = Plateau(), Until(patience=2)
    assert [plateau.saw({"a": score}, until, patience=0) for score in (0.5, 0.9, 0.9)] == [True, True, True]


def test_small_steps_are_no_improvement_until_they_add_up():
    assert seen([0.5, 0.508, 0.516, 0.52]) == [False, False, False, False]
    assert seen([0.5, 0.504, 0.508]) == [False, False, True]


def test_one_task_a_weighting_every_task_or_any_can_be_watched():
    scores = [{"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.6}, {"a": 0.5, "b": 0.7}]
    assert seen(scores, monitor="mean")[-1] is False
    assert seen(scores, monitor="a")[-1] is True
    assert seen(scores, monitor="b")[-1] is False
    assert seen(scores, monitor={"a": 99, "b": 1})[-1] is True
    assert seen(scores, monitor="all")[-1] is False
    assert seen(scores, monitor="any")[-1] is True


def test_the_watched_score_is_a_weighted_mean():
    scores = {"a": 0.2, "b": 0.8}
    assert watched_score("mean", scores) == pytest.approx(0.5)
    assert watched_score("all", scores) == pytest.approx(0.5)
    assert watched_score("b", scores) == 0.8
    assert watched_score({"a": 3, "b": 1}, scores) == pytest.approx(0.35)


def test_rest_gives_new_patience_but_keeps_the_mark():
    plateau, until = Plateau(), Until(patience=1, min_delta=0)
    assert [plateau.saw({"a": 0.9}, until), plateau.saw({"a": 0.8}, until)] == [False, True]
    plateau.rest()
    assert plateau.saw({"a": 0.85}, until) is True


def test_counts_survive_as_json_to_the_last_bit():
    plateau, until = Plateau(), Until()
    plateau.saw({"a": 1 / 3}, until)
    again = Plateau.build(json.loads(json.dumps(plateau.content())))
    assert again == plateau
