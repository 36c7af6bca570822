"""Has it stopped improving: counts the evaluations since each watched score last did.

Knows names and scores, not how they came about; its counts are plain data, so that a run can go on from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from frostline.plan.phase import Until

JUDGES = ("mean", "all", "any")


@dataclass
class Plateau:
    """What was seen of the watched scores.

    Attributes:
        best: the highest value of each that counted as an improvement.
        num_stale: evaluations of each since then.
    """

    best: dict[str, float] = field(default_factory=dict)
    num_stale: dict[str, int] = field(default_factory=dict)

    def saw(self, scores: Mapping[str, float], until: Until, *, patience: int | None = None) -> bool:
        """Takes in an evaluation; says whether the plateau is reached.

        Args:
            scores: main score of each task.
            until: what is watched, and how patiently.
            patience: instead of that of `until`.
        """
        for name, score in _watched(until.monitor, scores).items():
            if name not in self.best or score > self.best[name] + until.min_delta:
                self.best[name], self.num_stale[name] = score, 0
            else:
                self.num_stale[name] += 1
        needed = until.patience if patience is None else patience
        flat = [count >= needed for count in self.num_stale.values()]
        return any(flat) if until.monitor == "any" else all(flat)

    def rest(self) -> None:
        """Gives the scores new patience, since more learns from now on; the best so far stays the mark."""
        self.num_stale = dict.fromkeys(self.num_stale, 0)

    def content(self) -> dict[str, Any]:
        """As JSON; floats keep every bit."""
        return {"best": self.best, "num_stale": self.num_stale}

    @classmethod
    def build(cls, content: Mapping[str, Any]) -> Self:
        """The counts that `content` described."""
        return cls(dict(content["best"]), dict(content["num_stale"]))


def monitored_tasks(monitor: str | Mapping[str, float]) -> tuple[str, ...]:
    """Tasks that `until.monitor` names."""
    if isinstance(monitor, str):
        return () if monitor in JUDGES else (monitor,)
    return tuple(monitor)


def watched_score(monitor: str | Mapping[str, float], scores: Mapping[str, float]) -> float:
    """The one number by which the best weights of a phase are chosen; 0 without any score.

    Args:
        monitor: a task, a weighting, or 'mean', which 'all' and 'any' fall back to.
        scores: main score of each task.
    """
    weights = (
        monitor if isinstance(monitor, Mapping) else dict.fromkeys(monitored_tasks(monitor) or scores, 1.0)
    )
    total = sum(weights.values())
    return sum(weight * scores[name] for name, weight in weights.items()) / total if total else 0.0


def _watched(monitor: str | Mapping[str, float], scores: Mapping[str, float]) -> dict[str, float]:
    if monitor in ("all", "any"):
        return dict(scores)
    return {"watched": watched_score(monitor, scores)}
