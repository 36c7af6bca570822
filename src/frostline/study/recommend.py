"""Which scenario to take, and how sure that is.

Decided on validation scores; test only tells how it came out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frostline.errors import counted
from frostline.study.significance import Draws
from frostline.training.intervals import percentiles

# A score that is lower by less than the first is as good; by less than the second, if that may be chance.
_NOTHING = 0.002
_LITTLE = 0.01
# Evaluations, of which the best is kept: times those of another plan from which on this is said.
_FAR_MORE = 5


def recommend(
    scenarios: Sequence[Mapping[str, Any]],
    draws: Mapping[str, Draws],
    *,
    num_rows: int,
    keeps_best: bool = True,
) -> dict[str, Any]:
    """The cheapest scenario that is as good as the best one, with the reason and its uncertainty in words.

    As good is: its validation score is lower by at most .002, or by at most .01 and the 95 % interval of the
    difference (bootstrap over rows and seeds) has 0 in it.

    Args:
        scenarios: entries of `compare.json`, cheapest first.
        draws: of their validation scores.
        num_rows: validation rows.
        keeps_best: whether runs keep the weights of their best evaluation, which more evaluations make
            better by chance.
    """
    best = max(scenarios, key=lambda one: one["validation"])
    level = [one for one in scenarios if _is_as_good(one, best, draws)]
    # By the estimate: of the measured seconds, the first run pays for embeddings that the others read.
    taken = min(level, key=lambda one: one["seconds_estimated"])
    kept = [one for one in scenarios if one["drift"]["is_identical"]]
    rival = _rival(taken, scenarios, draws)
    uncertainty = _uncertainty(
        taken, rival, draws, num_rows=num_rows, num_seeds=max(len(one["seeds"]) for one in scenarios)
    )
    if rival and keeps_best:
        uncertainty += _chance_of_looking(taken, rival)
    return {
        "scenario": taken["name"],
        "best": best["name"],
        "reason": _reason(taken, best, draws),
        "uncertainty": uncertainty,
        "keeping_embeddings": _keeping(taken, kept),
    }


def _is_as_good(one: Mapping[str, Any], best: Mapping[str, Any], draws: Mapping[str, Draws]) -> bool:
    lost = best["validation"] - one["validation"]
    low, _ = percentiles(draws[best["name"]].mean - draws[one["name"]].mean)
    return bool(lost <= _NOTHING or (lost <= _LITTLE and low <= 0))


def _reason(taken: Mapping[str, Any], best: Mapping[str, Any], draws: Mapping[str, Draws]) -> str:
    if taken["name"] == best["name"]:
        return (
            f"{taken['name']} has the best validation score, {taken['validation']:.3f}, and nothing cheaper "
            "is as good."
        )
    low, high = percentiles(draws[taken["name"]].mean - draws[best["name"]].mean)
    times = best["seconds"] / max(taken["seconds"], 1e-9)
    return (
        f"{taken['name']} reaches {taken['validation']:.3f} on validation, the best one, {best['name']}, "
        f"{best['validation']:.3f}: a difference of {taken['validation'] - best['validation']:+.3f} (95 % "
        f"{low:+.3f} … {high:+.3f}) for {times:.1f} times the seconds."
    )


def _rival(
    taken: Mapping[str, Any], scenarios: Sequence[Mapping[str, Any]], draws: Mapping[str, Draws]
) -> Mapping[str, Any] | None:
    """The best of the others."""
    others = [one for one in scenarios if one["name"] != taken["name"]]
    return max(others, key=lambda one: float(draws[one["name"]].mean.mean()), default=None)


def _uncertainty(
    taken: Mapping[str, Any],
    rival: Mapping[str, Any] | None,
    draws: Mapping[str, Draws],
    *,
    num_rows: int,
    num_seeds: int,
) -> str:
    basis = f"Judged on {num_rows:,} validation rows and {counted(num_seeds, 'seed')}"
    caution = "" if num_seeds > 1 else "; how much another seed changes is not known (give more --seeds)"
    if rival is None:
        return f"{basis}{caution}. Nothing was compared."
    name = rival["name"]
    share = float((draws[taken["name"]].mean >= draws[name].mean).mean())
    return f"{basis}{caution}. In {share:.0%} of 1,000 redrawn validation sets it is no worse than {name}."


def _chance_of_looking(taken: Mapping[str, Any], rival: Mapping[str, Any]) -> str:
    """A sentence where one of two kept the best of far more evaluations than the other."""
    looks = {one["name"]: max(len(curve["steps"]) for curve in one["curves"]) for one in (taken, rival)}
    (fewer, few), (more, many) = sorted(looks.items(), key=lambda pair: pair[1])
    if many <= _FAR_MORE * few:
        return ""
    return (
        f" {more} kept the best of {many} evaluations there, {fewer} of {few}: "
        f"part of what {more} has on validation is chance, and test may say otherwise."
    )


def _keeping(taken: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> str:
    """What it costs not to have to embed a corpus again."""
    if taken["drift"]["is_identical"]:
        return "It leaves every embedding as it was: nothing has to be embedded again."
    verdict = str(taken["drift"]["verdict"])
    if not kept:
        return verdict
    other = max(kept, key=lambda one: one["validation"])
    return (
        f"{verdict} {other['name']} leaves every embedding as it was and reaches "
        f"{other['validation']:.3f} on validation ({other['validation'] - taken['validation']:+.3f})."
    )
