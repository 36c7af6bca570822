"""A plan for one task, out of a plan for several."""

from __future__ import annotations

from collections.abc import Sequence

from frostline.plan.phase import Phase, Until
from frostline.plan.plateau import JUDGES


def phases_alone(phases: Sequence[Phase], task: str) -> tuple[Phase, ...]:
    """The phases as one task by itself would go through them: what they say of other tasks is left out.

    A phase that freezes the task's head trains nothing of it, and is left out as a whole.
    """
    return tuple(_alone(phase, task) for phase in phases if task not in phase.frozen_heads)


def _alone(phase: Phase, task: str) -> Phase:
    update = {
        "frozen_heads": (),
        "head_lrs": {name: rate for name, rate in phase.head_lrs.items() if name == task},
        "until": phase.until and _until_alone(phase.until),
        "protect": "none",
        "distill_weight": Phase.model_fields["distill_weight"].default,
        "guard": None,
    }
    return phase.model_copy(update=update)


def _until_alone(until: Until) -> Until:
    return until if until.monitor in JUDGES else until.model_copy(update={"monitor": "mean"})
