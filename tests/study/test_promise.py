"""What plans promise: figures in, a ranking out."""

from dataclasses import replace

import pytest

from frostline.study.promise import Course, Findings, PlanAdvice, extrapolated, promise, ranked
from frostline.study.race import Race

FULL = Course("full", 100, deepest="all", steps=500, is_solved=False)
HEADS = Course("heads", 10, deepest=0, steps=0, is_solved=False)
FOUND = Findings(probe=0.7, race=Race(0.7, 0.74, steps=50, num_held=10**9))


def _score(course, found=FOUND):
    return promise(course, found).score


def test_a_gain_grows_with_the_steps_and_a_loss_does_not():
    assert _score(replace(FULL, steps=50)) == pytest.approx(0.74)
    assert _score(FULL) == pytest.approx(0.76)
    lost = replace(FOUND, race=Race(0.7, 0.66, steps=50, num_held=10**9))
    assert _score(FULL, lost) == pytest.approx(0.66)


@pytest.mark.parametrize("after", [0.6, 0.72, 0.9])
def test_a_race_on_few_rows_is_believed_less(after):
    usual = _score(FULL, replace(FOUND, race=None))
    assert usual == pytest.approx(0.7 + 0.2 * 0.3)
    raced = replace(FOUND.race, after=after)
    scores = [_score(FULL, replace(FOUND, race=replace(raced, num_held=n))) for n in (10, 100, 10**9)]
    apart = [abs(score - usual) for score in scores]
    assert 0 < apart[0] < apart[1] < apart[2]


def test_a_task_without_a_signal_promises_no_gain():
    usual = replace(FOUND, probe=0.5, race=None)
    assert _score(FULL, usual) == pytest.approx(0.5 + 0.2 * 0.5)
    assert _score(FULL, replace(usual, hopeless=0.4)) == pytest.approx(0.5 + 0.2 * 0.1)
    assert _score(FULL, replace(usual, hopeless=0.6)) == 0.5
    assert "tasks of chance aside" in promise(FULL, replace(usual, hopeless=0.4)).reason
    assert "chance" not in promise(FULL, usual).reason


def test_a_few_layers_win_a_part_of_the_gain():
    some = promise(replace(FULL, deepest=2), FOUND)
    assert some.score == pytest.approx(0.7 + 0.6 * 0.06)
    assert "a few top layers" in some.reason


def test_a_gradual_plan_is_ahead_by_a_share_of_what_is_left_unless_heads_tell_numbers():
    gradual = replace(FULL, is_solved=True, is_gradual=True)
    assert _score(gradual) == pytest.approx(_score(FULL) + 0.02 * 0.3)
    assert _score(gradual, replace(FOUND, regression_share=0.5)) == pytest.approx(_score(FULL) + 0.003)
    assert _score(gradual, replace(FOUND, regression_share=1)) == _score(FULL)
    assert "two solutions" in promise(gradual, FOUND).reason
    lost = replace(FOUND, race=Race(0.7, 0.66, steps=50, num_held=10**9))
    assert _score(gradual, lost) == _score(FULL, lost)
    assert "two solutions" not in promise(gradual, lost).reason
    assert _score(gradual, Findings(probe=0.99, race=None)) - _score(FULL, Findings(0.99, None)) < 0.001


def test_heads_alone_promise_what_a_probe_reaches():
    assert _score(replace(HEADS, is_solved=True)) == 0.7
    assert 0.69 < _score(HEADS) < 0.7


@pytest.mark.parametrize("course", [FULL, HEADS, replace(HEADS, is_solved=True)])
def test_no_promise_is_above_one(course):
    assert _score(course, replace(FOUND, probe=extrapolated({300: 0.85, 900: 0.9, 3000: 0.95}, 10**6))) <= 1


def test_a_plan_of_no_steps_is_no_error():
    assert _score(replace(FULL, steps=0)) == pytest.approx(0.74)


def test_a_probe_that_still_grows_is_carried_on():
    assert extrapolated({100: 0.6, 300: 0.65, 1000: 0.7}, 1000) == 0.7
    assert extrapolated({100: 0.6, 300: 0.65, 1000: 0.7}, 10_000) == pytest.approx(0.75)
    assert extrapolated({100: 0.7, 1000: 0.6}, 10_000) == 0.6


def test_the_cheaper_of_two_level_plans_comes_first():
    plans = [
        PlanAdvice("bad", 0.7, 0.1, ""),
        PlanAdvice("dear", 0.802, 9, ""),
        PlanAdvice("cheap", 0.8, 1, ""),
    ]
    assert [plan.recipe for plan in ranked(plans)] == ["cheap", "dear", "bad"]
