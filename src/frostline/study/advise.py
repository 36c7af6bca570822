"""Which plan a data set wants, said before any training: probes of every layer, and a short race of depths.

One pass over a sample, linear probes, and two short trainings on a tenth of the rows: a small part of what
the plans themselves would cost. What it predicts is a guess with a reason; `compare` measures.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.config import Config, as_config
from frostline.data.batches import Split
from frostline.data.labels import is_labelled
from frostline.dry_run import build_estimator
from frostline.errors import ConfigError, DataError
from frostline.plan.groups import stage_name
from frostline.plan.phase import Phase, PlanSettings, TopLayers
from frostline.prepare import Prepared, phases_of, prepare, texts_of
from frostline.study.charts import duration
from frostline.study.domain import domain_signs
from frostline.study.layers import Matrix, probe_scores, separability, stage_scores
from frostline.study.race import drawn, race, race_rows, race_steps, subset
from frostline.training.embed import StageMeans, stage_means
from frostline.training.journal import Event

_SAMPLE_ROWS, _HELD_ROWS = 3000, 500
_LAYER_ROWS = 1000
_RACE_HELD_ROWS = 400
# Growth of what a depth gains over the heads, for ten times the steps of the race (docs/advise.md).
_GROWTH = 0.5
# Of two plans, the cheaper one is put first where it promises less by no more than this.
_LEVEL = 0.003
_RECIPES = ("features", "heads", "top-layers", "gradual", "full")
# What a start from heads at zero costs, in score, against solved ones.
_UNSOLVED = 0.004


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


@dataclass(frozen=True)
class Advice:
    """What was found and what follows.

    Attributes:
        plans: the best first.
        layers: probe score of every stage, by task; "embedding" is what heads read.
        separability: by task, share of variance between classes at every stage; of classification alone.
        growth: mean probe score on a tenth, three tenths and all of the sample, by rows.
        race: by depth, mean score of solved heads and after the race.
        domain: signs of a domain that the backbone does not know, a sentence each.
        seconds: that the advice took.
    """

    plans: tuple[PlanAdvice, ...]
    layers: dict[str, dict[str, float]]
    separability: dict[str, dict[str, float]]
    growth: dict[int, float]
    race: dict[str, tuple[float, float]]
    domain: tuple[str, ...]
    seconds: float

    def content(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def advise(
    config: Config | str | Path | Mapping[str, Any], *, show: Callable[[Event], None] | None = None
) -> Advice:
    """Looks at the data through the pretrained backbone and ranks the recipes.

    Args:
        config: as `train` takes it; its plan is not looked at.
        show: called with every event as it happens.

    Raises:
        FrostlineError: anything that `train` would refuse.
    """
    started = time.monotonic()
    asked = as_config(config).located(Path.cwd())
    if any(task.frozen for task in asked.tasks.values()):
        raise ConfigError("tasks: advice is for heads that learn; leave out the frozen ones.")
    prepared = prepare(asked.with_({"plan": {"recipe": "features"}}))
    show = show or (lambda event: None)
    show({"event": "part", "name": "a pass over a sample, and probes of every layer"})
    sample = drawn(prepared, train=_SAMPLE_ROWS, validation=_HELD_ROWS)
    means = {
        name: stage_means(
            prepared.model.backbone, split.tokens, precision=prepared.precision, device=prepared.device
        )
        for name, split in sample.items()
    }
    layers, apart = _look_at_layers(prepared, sample, means)
    growth = _growth(prepared, sample, {name: one.embedding_ND for name, one in means.items()})
    plans = _fitting(prepared)
    ran = _race(prepared, [_deepest(phases) for phases in plans.values()], show=show)
    show({"event": "part", "name": "what the plans would cost"})
    ranked = _rank(prepared, plans, growth=growth, ran=ran)
    domain = domain_signs(
        prepared.model.backbone, prepared.splits["validation"], texts_of(prepared, "validation")
    )
    return Advice(ranked, layers, apart, growth, ran, domain, time.monotonic() - started)


def advice_file(asked: Config, advice: Advice) -> str:
    """The config with the first plan of an advice, and the others as a comment: a file that `train` takes."""
    lines = ["What `frostline advise` found; a prediction, not a measurement.", ""]
    for number, plan in enumerate(advice.plans, 1):
        lines.append(
            f"{number}. {plan.recipe}: about {plan.score:.3f} in {duration(plan.seconds)}. {plan.reason}."
        )
    lines += [f"Note: {sign}." for sign in advice.domain]
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    chosen = asked.with_({"plan": {"recipe": advice.plans[0].recipe}})
    return f"{head}\n{chosen.to_toml()}"


def _look_at_layers(
    prepared: Prepared, sample: Mapping[str, Split], means: Mapping[str, StageMeans]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Probe scores and separability of every stage, from the first thousand rows."""
    model = prepared.model
    few = {name: subset(split, np.arange(min(_LAYER_ROWS, len(split)))) for name, split in sample.items()}
    states = {
        name: [*one.means_NSD[:_LAYER_ROWS].swapaxes(0, 1), one.embedding_ND[:_LAYER_ROWS]]
        for name, one in means.items()
    }
    names = [stage_name(i) for i in range(model.backbone.num_stages)] + ["embedding"]
    known = {
        name: task
        for name, task in model.tasks.items()
        if all(_can_probe(split.labels[name], task.kind) for split in few.values())
    }
    scores = stage_scores(known, states, few)
    apart: dict[str, dict[str, float]] = {}
    for name, task in known.items():
        for stage, states_ND in zip(names, states["train"], strict=True):
            share = separability(task, states_ND, few["train"].labels[name])
            if share is not None:
                apart.setdefault(name, {})[stage] = share
    return {name: dict(zip(names, values, strict=True)) for name, values in scores.items()}, apart


def _can_probe(labels: np.ndarray[Any, Any], kind: str) -> bool:
    known = labels[is_labelled(labels)]
    return len(known) > 1 and (kind != "classification" or len(np.unique(known)) > 1)


def _growth(
    prepared: Prepared, sample: Mapping[str, Split], embeddings: Mapping[str, Matrix]
) -> dict[int, float]:
    """Mean score of probes on the embeddings, by training rows."""
    total = len(sample["train"])
    sizes = dict.fromkeys(min(total, max(20, total * share // 10)) for share in (1, 3, 10))
    found = {rows: probe_scores(prepared.model, embeddings, sample, rows=rows) for rows in sizes}
    probed = found[total]
    if not probed:
        raise DataError("data: no task has labels of two kinds in a sample of the training rows.")
    # A task that few rows cannot teach would bend the curve: those of all sizes, else the whole sample alone.
    shared = set.intersection(*(set(scores) for scores in found.values()))
    if not shared:
        return {total: float(np.mean(list(probed.values())))}
    return {rows: float(np.mean([scores[name] for name in sorted(shared)])) for rows, scores in found.items()}


def _fitting(prepared: Prepared) -> dict[str, tuple[Phase, ...]]:
    """The recipes that fit the backbone, with their phases."""
    found = {}
    for recipe in _RECIPES:
        with suppress(ConfigError):  # fewer layers than it wants
            found[recipe] = phases_of(prepared, PlanSettings(recipe=recipe))
    return found


def _deepest(phases: Sequence[Phase]) -> TopLayers:
    """How many top layers learn in the end."""
    last = phases[-1]
    return last.thaw.to if last.thaw else last.top_layers


def _race(
    prepared: Prepared, depths: Sequence[TopLayers], *, show: Callable[[Event], None]
) -> dict[str, tuple[float, float]]:
    """Scores before and after the race of each depth."""
    rows = race_rows(len(prepared.splits["train"]))
    splits = drawn(prepared, train=rows, validation=_RACE_HELD_ROWS)
    store = prepared.config.train.activations
    place = store.place() if store.store != "never" else None
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="frostline-race-", dir=place) as name:
        return {
            str(depth): race(prepared, depth, splits, folder=Path(name), show=show)
            for depth in dict.fromkeys(depths)
            if depth == "all" or 0 < int(depth) < prepared.model.backbone.num_layers
        }


def _rank(
    prepared: Prepared,
    plans: Mapping[str, tuple[Phase, ...]],
    *,
    growth: Mapping[int, float],
    ran: Mapping[str, tuple[float, float]],
) -> tuple[PlanAdvice, ...]:
    num_rows = len(prepared.splits["train"])
    probe = _extrapolated(growth, num_rows)
    raced = race_steps(num_rows, batch_size=prepared.config.train.batch_size)
    estimator = build_estimator(prepared)
    found = []
    for recipe, phases in plans.items():
        depth = _deepest(phases)
        if depth != 0 and str(depth) not in ran:
            continue
        seconds = sum(estimator.seconds(phase) for phase in phases)
        steps = sum(phase.epochs for phase in phases if phase.top_layers != 0) * math.ceil(
            num_rows / prepared.config.train.batch_size
        )
        score, reason = _predict(phases, probe=probe, ran=ran.get(str(depth)), steps=steps, raced=raced)
        found.append(PlanAdvice(recipe, score, seconds, reason))
    return tuple(_sorted(found))


def _extrapolated(growth: Mapping[int, float], num_rows: int) -> float:
    """Probe score on all rows: that of the sample, and half of its growth since a tenth for each tenfold."""
    rows, scores = list(growth), list(growth.values())
    if len(rows) < 2 or num_rows <= rows[-1]:
        return scores[-1]
    slope = max(0.0, (scores[-1] - scores[0]) / math.log10(rows[-1] / rows[0]))
    return scores[-1] + 0.5 * slope * math.log10(num_rows / rows[-1])


def _predict(
    phases: Sequence[Phase], *, probe: float, ran: tuple[float, float] | None, steps: int, raced: int
) -> tuple[float, str]:
    """Predicted score of a plan, and why."""
    lost = 0.0 if phases[0].solver == "probe" else _UNSOLVED
    if ran is None:
        words = "trained by descent" if lost else "solved"
        return probe - lost, f"heads {words} on the embeddings as they are: a probe reaches {probe:.3f}"
    before, after = ran
    grown = 1 + _GROWTH * max(0.0, math.log10(max(1, steps) / raced))
    gain = after - before
    score = min(1.0, probe + gain * (grown if gain > 0 else 1.0)) - lost
    layers = "every layer" if _deepest(phases) == "all" else "the top layers"
    return score, (
        f"{raced} steps with {layers} awake moved {before:.3f} to {after:.3f} ({gain:+.3f}); this plan "
        f"takes {steps} steps"
    )


def _sorted(plans: Sequence[PlanAdvice]) -> list[PlanAdvice]:
    """The best first; a cheaper one before it where it promises about as much."""
    left, ranked = list(plans), []
    while left:
        best = max(plan.score for plan in left)
        level = [plan for plan in left if plan.score >= best - _LEVEL]
        first = min(level, key=lambda plan: plan.seconds)
        ranked.append(first)
        left.remove(first)
    return ranked
