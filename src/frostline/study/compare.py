"""Which plan is right for this data: every scenario on the same rows, cheapest first, then side by side.

Each run is a run's folder of its own, made by a process of its own, and shares every stored activation with
the others. A study that was stopped goes on with the runs that are missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frostline.atomic import write_json, write_text
from frostline.config import Config, as_config
from frostline.data.labels import is_labelled
from frostline.dry_run import build_estimator
from frostline.errors import ConfigError, RunError, did_you_mean, listing
from frostline.folder import check_sources, locked
from frostline.prepare import Prepared, phases_of, prepare, texts_of
from frostline.study.drift import FEW_TEXTS, thinned
from frostline.study.jobs import JobError, run_job
from frostline.study.outcome import build_outcome
from frostline.study.place import Place
from frostline.study.report import build_report, draw_scenarios
from frostline.study.scenarios import OWN, Scenario, build_scenarios
from frostline.training.journal import Event

Show = Callable[[Event], None]


@dataclass(frozen=True)
class Comparison:
    """A study that has ended.

    Attributes:
        folder: with `report.html`, `compare.json` and every run.
        content: of `compare.json`.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def recommendation(self) -> str:
        """Name of the scenario to take."""
        return str(self.content["recommendation"]["scenario"])


def compare(
    config: Config | str | Path | Mapping[str, Any],
    *,
    output: str | Path,
    scenarios: Sequence[str] | None = None,
    seeds: int = 1,
    yardstick: str | None = None,
    overwrite: bool = False,
    show: Show | None = None,
) -> Comparison:
    """Trains several plans on the same rows and says which one to take.

    Args:
        config: as `train` takes it; its plan is not looked at, unless the scenario `own` is asked for.
        output: the study's folder; one that was stopped goes on, also with more scenarios or seeds.
        scenarios: recipes, `one-head:TASK`, `own`, TOML files with a plan; None: `features`, `heads`,
            `top-layers`, `gradual`, `full`, and `one-head` for each head where there are several.
        seeds: runs of each scenario, from `train.seed` upward; one that solves its heads alone has one run.
        yardstick: scenario with which the others are compared; None: `full`, or else the dearest.
        overwrite: replace a study that stands there.
        show: called with every event as it happens.

    Returns:
        What came out; a scenario that failed is named there with its reason.

    Raises:
        FrostlineError: a mistake in the config, the data or a plan; or every scenario failed.
        Interrupted: Ctrl-C; the same call goes on.
    """
    show = show or (lambda event: None)
    asked = as_config(config).located(Path.cwd())
    _check_asked(asked, seeds=seeds)
    place = Place(Path(output).absolute())
    check_sources(asked, place.folder)
    with locked(place.folder):
        place.check_free()
        named = build_scenarios(scenarios, own=asked.plan, tasks=asked.tasks)
        _check_yardstick(yardstick, [scenario.name for scenario in named])
        _say_unused(asked, named, show)
        prepared = prepare(asked.with_({"plan": {"recipe": "features"}}))
        plans = _with_phases(named, prepared, is_asked=bool(scenarios), show=show)
        if overwrite:
            place.clear()
        base = place.open(asked, prepared, _probe_texts(prepared))
        jobs = [(one, base.train.seed + i) for one in plans for i in range(1 if one.is_solved else seeds)]
        for scenario, seed in jobs:
            place.write_run(base, scenario, seed)
        failures = _run_all(place, jobs, show)
        finished: list[tuple[Scenario, list[int]]] = []
        for scenario in plans:
            done = [seed for other, seed in jobs if other is scenario and place.is_done(scenario, seed)]
            if done:
                finished.append((scenario, done))
        if not finished:
            raise RunError("every scenario failed. " + " ".join(f"{k}: {v}" for k, v in failures.items()))
        return _conclude(place, prepared, finished, failures=failures, yardstick=yardstick)


def _check_asked(asked: Config, *, seeds: int) -> None:
    if seeds < 1:
        raise ConfigError(f"--seeds: 1 or more, {seeds} arrived.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("compare starts a process for each run by itself; start it without torchrun.")
    if asked.train.each_task_alone:
        raise ConfigError("train.each_task_alone: compare does not show it. Leave it out.")


def _say_unused(asked: Config, named: Sequence[Scenario], show: Show) -> None:
    """Says which changes of the config's plan no scenario looks at."""
    if asked.plan.changes() and OWN not in [scenario.name for scenario in named]:
        keys = listing(f"plan.{key}" for key in asked.plan.changes())
        message = f"{keys}: not looked at; the scenario 'own' is the plan of the config."
        show({"event": "warning", "message": message})


def _check_yardstick(yardstick: str | None, names: Sequence[str]) -> None:
    if yardstick and yardstick not in names:
        raise ConfigError(
            f"--yardstick {yardstick}: is none of the scenarios ({listing(names)})."
            + did_you_mean(yardstick, names)
        )


def _probe_texts(prepared: Prepared) -> list[str]:
    """Texts on which drift is measured: those of validation, and of training where these are few."""
    texts = texts_of(prepared, "validation")
    return texts if len(texts) >= FEW_TEXTS else texts + thinned(texts_of(prepared, "train"))


def _with_phases(
    named: Sequence[Scenario], prepared: Prepared, *, is_asked: bool, show: Show
) -> list[Scenario]:
    """The scenarios with their phases and estimated seconds, cheapest first.

    One that does not fit this backbone is refused where it was asked for, else left out, which is said.
    """
    found, estimator = [], build_estimator(prepared)
    for scenario in named:
        try:
            phases = phases_of(prepared, scenario.plan)
        except ConfigError as error:
            if is_asked:
                raise ConfigError(f"scenario {scenario.name}: {error}") from error
            show({"event": "warning", "message": f"scenario {scenario.name} is left out: {error}"})
            continue
        seconds = sum(estimator.seconds(phase) for phase in phases)
        found.append(replace(scenario, phases=phases, seconds=seconds))
    return sorted(found, key=lambda scenario: scenario.seconds)


def _run_all(place: Place, jobs: Sequence[tuple[Scenario, int]], show: Show) -> dict[str, str]:
    """Carries out what is missing; gives the reasons of scenarios that failed."""
    failures: dict[str, str] = {}
    left = sum(one.seconds for one, seed in jobs if not place.is_done(one, seed))
    for number, (scenario, seed) in enumerate(jobs):
        about = {"name": scenario.name, "seed": seed, "number": number + 1, "total": len(jobs)}
        is_done = place.is_done(scenario, seed)
        show({"event": "scenario", **about, "is_done": is_done, "seconds_left": left})
        if is_done:
            continue
        try:
            run_job(place.paths(scenario, seed), show=show)
        except JobError as error:
            failures[scenario.name] = str(error)
            show({"event": "warning", "message": f"{scenario.name}, seed {seed} failed: {error}"})
        left -= scenario.seconds
    return failures


def _conclude(
    place: Place,
    prepared: Prepared,
    finished: Sequence[tuple[Scenario, list[int]]],
    *,
    failures: Mapping[str, str],
    yardstick: str | None,
) -> Comparison:
    """Puts the finished runs side by side and writes `compare.json`, `report.html` and the picture."""
    names = [scenario.name for scenario, _ in finished]
    measured = yardstick if yardstick in names else "full" if "full" in names else names[-1]
    tested = prepared.splits["test"].labels.values() if "test" in prepared.splits else ()
    split = "test" if any(is_labelled(labels).any() for labels in tested) else "validation"
    content = build_outcome(place, prepared, finished, yardstick=measured, split=split)
    content["failures"] = dict(failures)
    if yardstick and measured != yardstick:
        content["failures"]["yardstick"] = f"{yardstick} did not finish; {measured} was taken in its place."
    write_text(place.folder / "report.html", build_report(content, texts_of(prepared, split)))
    draw_scenarios(content, place.folder / "trainability.png")
    write_json(place.folder / "compare.json", content)
    return load_comparison(place.folder)


def load_comparison(folder: str | Path) -> Comparison:
    """A study that has ended, from its folder.

    Raises:
        RunError: none is there.
    """
    path = Path(folder) / "compare.json"
    if not path.is_file():
        raise RunError(f"{folder}: holds no compare.json, so no study has ended there.")
    return Comparison(Path(folder), json.loads(path.read_text("utf-8")))
