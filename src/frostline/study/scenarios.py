"""Scenarios: the plans that a study compares, by name.

A scenario is a recipe, a recipe with one head frozen, the config's own plan, or a file with a plan.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from frostline.config import Config
from frostline.errors import ConfigError, did_you_mean
from frostline.mistakes import explanations
from frostline.plan.phase import Phase, PlanSettings
from frostline.plan.recipes import recipes

_DEFAULTS = ("features", "heads", "one-head", "top-layers", "gradual", "full")
OWN = "own"
_NOT_IN_FOLDERS = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Scenario:
    """A plan under comparison.

    Attributes:
        name: what tables call it.
        plan: its settings, which recipes still may fill.
        phases: once the plan is resolved for the tasks.
        seconds: estimated for one seed.
    """

    name: str
    plan: PlanSettings
    phases: tuple[Phase, ...] = ()
    seconds: float = 0.0

    @property
    def folder(self) -> str:
        """Its name as a folder's."""
        return _NOT_IN_FOLDERS.sub("-", self.name)

    @property
    def is_solved(self) -> bool:
        """Whether nothing in it is random: heads are solved, nothing descends."""
        return all(phase.solver == "probe" for phase in self.phases)


def build_scenarios(
    names: Sequence[str] | None, *, own: PlanSettings, tasks: Collection[str]
) -> list[Scenario]:
    """The scenarios asked for, in their order.

    Args:
        names: recipes, `one-head:TASK`, `own` (the config's plan), or TOML files with a plan; None: every
            default recipe, `one-head` for each head.
        own: the config's plan.
        tasks: names of the tasks.

    Raises:
        ConfigError: none of these, a file without a plan, or one name twice.
    """
    found: list[Scenario] = []
    for name in names or _DEFAULTS:
        if name == "one-head":
            heads = list(tasks) if len(tasks) > 1 else []
            if names and not heads:
                raise ConfigError("scenario one-head: there is one task; with its head frozen none learns.")
            found += [_one_head(task, tasks) for task in heads]
        else:
            found.append(_build(name, own=own, tasks=tasks))
    folders = [scenario.folder.lower() for scenario in found]
    twice = next(
        (s.name for s, folder in zip(found, folders, strict=True) if folders.count(folder) > 1), None
    )
    if twice:
        raise ConfigError(f"scenario '{twice}' is named twice, or like another one. Rename the file.")
    return found


def _build(name: str, *, own: PlanSettings, tasks: Collection[str]) -> Scenario:
    if name == OWN:
        return Scenario(OWN, own)
    if name.startswith("one-head:"):
        return _one_head(name.partition(":")[2], tasks)
    if name in recipes():
        return Scenario(name, PlanSettings(recipe=name))
    if name.endswith(".toml"):
        return Scenario(Path(name).stem, _read_plan(Path(name)))
    known = [*recipes(), OWN, *(f"one-head:{task}" for task in tasks)]
    raise ConfigError(
        f"scenario {name}: is no recipe ({', '.join(known)}) and no TOML file." + did_you_mean(name, known)
    )


def _one_head(task: str, tasks: Collection[str]) -> Scenario:
    if task not in tasks:
        raise ConfigError(f"scenario one-head:{task}: is no task." + did_you_mean(task, tasks))
    return Scenario(f"one-head:{task}", PlanSettings(recipe="one-head", frozen_heads=(task,)))


def _read_plan(path: Path) -> PlanSettings:
    """The plan of a file that holds one: a run's file with [plan], or the keys of a plan by themselves."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error}).") from error
    plan = content.get("plan", content if content.keys() & {"recipe", "phases"} else {})
    try:
        settings = PlanSettings.model_validate(plan)
    except ValidationError as error:
        wrong = explanations(error, settings=Config, within=("plan",))
        raise ConfigError(f"{path}: " + "\n".join(wrong)) from error
    if not (settings.recipe or settings.phases):
        raise ConfigError(f"{path}: holds no plan. Give it [[plan.phases]], or plan.recipe.")
    return settings
