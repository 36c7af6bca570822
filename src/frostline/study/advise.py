"""Which plan a data set wants, said before any training: probes of every layer, and a short race.

One pass over a sample, linear probes, and a short training on a tenth of the rows: a tenth of what the plans
themselves would cost, or little more. What it predicts is a guess with a reason; `compare` measures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.config import Config, as_config
from frostline.data.batches import Split
from frostline.data.labels import is_labelled
from frostline.dry_run import build_estimator
from frostline.errors import ConfigError, DataError, counted
from frostline.plan.groups import stage_name
from frostline.plan.phase import Phase, PlanSettings
from frostline.prepare import Prepared, phases_of, prepare, texts_of
from frostline.study.charts import duration
from frostline.study.domain import domain_signs
from frostline.study.layers import Matrix, probe_scores, separability, stage_scores, without_signal
from frostline.study.promise import Course, Findings, PlanAdvice, extrapolated, promise, ranked
from frostline.study.race import Race, drawn, race_phase, race_splits, repeated, run_race, subset
from frostline.training.embed import StageMeans, stage_means
from frostline.training.estimate import Estimator
from frostline.training.journal import Event

_SAMPLE_ROWS, _HELD_ROWS, _SAMPLE_TOKENS = 3000, 1000, 40  # tokens of a row on average, at most
_LAYER_ROWS = 1000
_ENOUGH_HELD = 200
# A race is run where it takes at most this share of what all plans would take.
_RACE_SHARE = 0.05
_RECIPES = ("features", "heads", "top-layers", "gradual", "full")


@dataclass(frozen=True)
class Advice:
    """What was found and what follows.

    Attributes:
        plans: the best first.
        layers: probe score of every stage, by task; "embedding" is what heads read.
        separability: by task, share of variance between classes at every stage; of classification alone.
        growth: mean probe score on a tenth, three tenths and all of the sample, by rows.
        race: None where it would have taken too large a part of what the plans take.
        domain: signs of a domain that the backbone does not know, a sentence each.
        warnings: what the user should know besides, a sentence each.
        seconds: that the advice took.
    """

    plans: tuple[PlanAdvice, ...]
    layers: dict[str, dict[str, float]]
    separability: dict[str, dict[str, float]]
    growth: dict[int, float]
    race: Race | None
    domain: tuple[str, ...]
    warnings: tuple[str, ...]
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
        FrostlineError: anything that `train` would refuse, and tasks with a frozen head.
    """
    started = time.monotonic()
    asked = as_config(config).located(Path.cwd())
    if any(task.frozen for task in asked.tasks.values()):
        raise ConfigError("tasks: advice is for heads that learn; leave out the frozen ones.")
    prepared = prepare(asked.with_({"plan": {"recipe": "features"}}))
    show = show or (lambda event: None)
    show({"event": "part", "name": "a pass over a sample, and probes of every layer"})
    most = {"train": _SAMPLE_ROWS, "validation": _HELD_ROWS}
    sample = drawn(prepared, most, mean_tokens=_SAMPLE_TOKENS)
    means = {
        name: stage_means(
            prepared.model.backbone, split.tokens, precision=prepared.precision, device=prepared.device
        )
        for name, split in sample.items()
    }
    layers, apart = _look_at_layers(prepared, sample, means)
    growth = _growth(prepared, sample, {name: one.embedding_ND for name, one in means.items()})
    show({"event": "part", "name": "what the plans would cost"})
    estimator = build_estimator(prepared)
    courses = _courses(prepared, estimator)
    ran = _race(prepared, estimator, sum(course.seconds for course in courses), show=show)
    probe = extrapolated(growth, len(prepared.splits["train"]))
    silent = without_signal(prepared.model.tasks, layers, sample["validation"])
    hopeless = sum(1 - max(0.0, layers[name]["embedding"]) for name in silent) / max(1, len(layers))
    num_regressions = sum(task.kind == "regression" for task in prepared.model.tasks.values())
    found = Findings(probe, ran, hopeless, regression_share=num_regressions / len(prepared.model.tasks))
    plans = ranked([promise(course, found) for course in courses])
    domain = domain_signs(
        prepared.model.backbone, prepared.splits["validation"], texts_of(prepared, "validation")
    )
    warnings = (
        *prepared.warnings,
        *(f"no layer knows anything of '{name}': are its labels right?" for name in silent),
        *_few_rows(len(prepared.splits["validation"])),
    )
    return Advice(plans, layers, apart, growth, ran, domain, warnings, time.monotonic() - started)


def advice_file(asked: Config, advice: Advice) -> str:
    """The config with the first plan of an advice, and the others as a comment: a file that `train` takes."""
    lines = ["What `frostline advise` found; a prediction, not a measurement.", ""]
    for number, plan in enumerate(advice.plans, 1):
        lines.append(
            f"{number}. {plan.recipe}: about {plan.score:.3f} in {duration(plan.seconds)}. {plan.reason}."
        )
    lines += [f"Note: {sentence.rstrip('.')}." for sentence in (*advice.warnings, *advice.domain)]
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    chosen = asked.with_({"plan": {"recipe": advice.plans[0].recipe}})
    return f"{head}\n{chosen.to_toml()}"


def _few_rows(number: int) -> list[str]:
    """A warning where the promises rest on few validation rows."""
    if number >= _ENOUGH_HELD:
        return []
    tells_apart = 0.5 / math.sqrt(number)  # standard error of a share near a half
    verb = "decides" if number == 1 else "decide"
    rows = counted(number, "row")
    return [f"{rows} for validation {verb} this: scores nearer than {tells_apart:.2f} are the same."]


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


def _courses(prepared: Prepared, estimator: Estimator) -> list[Course]:
    """What the recipes that fit the backbone would do."""
    steps_per_epoch = math.ceil(len(prepared.splits["train"]) / prepared.config.train.batch_size)
    found = []
    for recipe in _RECIPES:
        phases: tuple[Phase, ...] = ()
        with suppress(ConfigError):  # fewer layers than it wants
            phases = phases_of(prepared, PlanSettings(recipe=recipe))
        if not phases:
            continue
        last = next((phase for phase in reversed(phases) if phase.solver == "adamw"), phases[-1])
        epochs_awake = sum(phase.epochs for phase in phases if phase.top_layers != 0)
        found.append(
            Course(
                recipe,
                sum(estimator.seconds(phase) for phase in phases),
                deepest=last.thaw.to if last.thaw else last.top_layers,
                steps=epochs_awake * steps_per_epoch,
                is_solved=phases[0].solver == "probe",
                is_gradual=bool(last.thaw) and phases[0].solver == phases[-1].solver == "probe",
            )
        )
    return found


def _race(
    prepared: Prepared, estimator: Estimator, plans_seconds: float, *, show: Callable[[Event], None]
) -> Race | None:
    """The race, unless it takes too much of the seconds that the plans would take."""
    splits = race_splits(prepared)
    learned = repeated(prepared, splits)
    phase = race_phase(prepared, learned)
    sizes = {"num_texts": len(learned["train"]), "num_held": len(splits["validation"])}
    if estimator.seconds_of(phase, **sizes) > _RACE_SHARE * plans_seconds:
        return None
    return run_race(prepared, splits, show=show)
