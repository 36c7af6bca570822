"""What plans promise, from a probe of the embeddings and a short race: the ranking of an advice.

Knows figures alone, no model and no clock. Its constants are from a few data sets and a backbone of six
layers (docs/advise.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline.plan.phase import TopLayers
from frostline.study.race import Race

# Growth of what a race gained over the heads, for ten times its steps.
_GROWTH = 0.5
# Of what solved heads leave to be gained, the share that learning layers usually win; and the spread of gains
# between data sets.
_USUAL_SHARE, _SPREAD = 0.2, 0.04
# Rows that two plans answer otherwise; so few rows tell little of a difference.
_OTHERWISE = 0.15
# Of the gain of all layers, what a few top layers win.
_TOP_SHARE = 0.6
# Of what solved heads leave to be gained, what a plan wins above `full` that thaws its layers between two
# solutions of its heads, less sure at first; of a regression, whose head keeps its strength, nothing.
_GRADUAL_SHARE = 0.02
# What a start from heads that are not solved costs where only heads learn.
_UNSOLVED = 0.004
# Of two plans, the cheaper one is put first where it promises less by no more than this.
_LEVEL = 0.003


@dataclass(frozen=True)
class Findings:
    """What is known of a data set before any plan is trained.

    Attributes:
        probe: expected mean score of heads solved on all rows.
        race: None where it would have cost too much.
        hopeless: of what the probe leaves to be gained, the part of tasks in which no layer shows a signal.
        regression_share: of the tasks.
    """

    probe: float
    race: Race | None
    hopeless: float = 0.0
    regression_share: float = 0.0


@dataclass(frozen=True)
class Course:
    """What a plan would do.

    Attributes:
        recipe: its name.
        seconds: estimated for training.
        deepest: how many top layers learn in the end.
        steps: with layers awake.
        is_solved: whether its heads are solved first.
        is_gradual: whether its layers thaw between two solutions of its heads.
    """

    recipe: str
    seconds: float
    deepest: TopLayers
    steps: int
    is_solved: bool
    is_gradual: bool = False


@dataclass(frozen=True)
class PlanAdvice:
    """A plan in the ranking.

    Attributes:
        recipe: its name.
        score: predicted mean of the tasks' main scores on validation.
        seconds: predicted for training.
        reason: in words.
    """

    recipe: str
    score: float
    seconds: float
    reason: str


def promise(course: Course, found: Findings) -> PlanAdvice:
    """The score to expect of a plan, and why."""
    if course.deepest == 0:
        words = "solved" if course.is_solved else "trained by descent"
        score = found.probe - (0.0 if course.is_solved else _UNSOLVED)
        reason = f"heads {words} on the embeddings as they are: a probe reaches {found.probe:.3f}"
        return PlanAdvice(course.recipe, score, course.seconds, reason)
    gain, reason = _gain(course, found)
    if course.deepest != "all":
        gain *= _TOP_SHARE
        reason += f"; a few top layers move about {_TOP_SHARE:.0%} of that: {gain:+.3f}"
    ahead = _GRADUAL_SHARE * _left(found) * (1 - found.regression_share)
    if course.is_gradual and gain > 0 and ahead > 0:
        gain += ahead
        reason += f"; thawed between two solutions of the heads, as measured elsewhere: {ahead:+.3f}"
    return PlanAdvice(course.recipe, min(1.0, found.probe + gain), course.seconds, reason)


def _gain(course: Course, found: Findings) -> tuple[float, str]:
    """What all layers awake are expected to gain over solved heads in the steps of a plan, and from what."""
    usual = _USUAL_SHARE * _left(found)
    if found.race is None:
        aside = ", tasks of chance aside" if found.hopeless else ""
        words = f"a guess: layers that learn usually win a fifth of what a probe leaves{aside}"
        return usual, f"{words}: {usual:+.3f}"
    race = found.race
    raced = race.after - race.before
    words = f"{race.steps} steps with every layer awake moved {race.before:.3f} to {race.after:.3f}"
    if raced > 0:
        raced *= 1 + _GROWTH * max(0.0, math.log10(max(1, course.steps) / race.steps))
    trust = _SPREAD**2 / (_SPREAD**2 + _OTHERWISE / race.num_held)
    gain = trust * raced + (1 - trust) * usual
    return gain, f"{words}; for {course.steps} steps, and weighed with what is usual: {gain:+.3f}"


def _left(found: Findings) -> float:
    """What solved heads leave to be gained, without tasks of chance."""
    return max(0.0, 1.0 - min(1.0, max(0.0, found.probe)) - found.hopeless)


def ranked(plans: Sequence[PlanAdvice]) -> tuple[PlanAdvice, ...]:
    """The best first; a cheaper one before it where it promises about as much."""
    left, found = list(plans), []
    while left:
        best = max(plan.score for plan in left)
        level = [plan for plan in left if plan.score >= best - _LEVEL]
        first = min(level, key=lambda plan: plan.seconds)
        found.append(first)
        left.remove(first)
    return tuple(found)


def extrapolated(growth: Mapping[int, float], num_rows: int) -> float:
    """Probe score on all rows: that of the sample, and half of its growth since a tenth for each tenfold; at
    most 1.
    """
    rows, scores = list(growth), list(growth.values())
    if len(rows) < 2 or num_rows <= rows[-1]:
        return scores[-1]
    slope = max(0.0, (scores[-1] - scores[0]) / math.log10(rows[-1] / rows[0]))
    return min(1.0, scores[-1] + 0.5 * slope * math.log10(num_rows / rows[-1]))
