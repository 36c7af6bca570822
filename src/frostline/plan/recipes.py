"""The named plans, read from the TOML files beside this one.

A recipe is data: its phases, what learns, what it costs and when to use it. `resolve_phases` turns a plan's
settings into phases and changes nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from functools import cache
from importlib.resources import files

from pydantic import ValidationError

from frostline.errors import ConfigError, did_you_mean, listing
from frostline.plan.phase import Phase, PlanSettings
from frostline.settings import Settings

DEFAULT = "top-layers"


class Recipe(Settings):
    """A named plan.

    Attributes:
        needs_frozen_head: whether the plan must name a head to freeze.
        phases: `frozen_heads` is empty here; the plan names them.
    """

    name: str
    learns: str
    why: str
    cost: str
    when: str
    needs_frozen_head: bool = False
    phases: tuple[Phase, ...]


@cache
def recipes() -> dict[str, Recipe]:
    """Every recipe by name, in order of rising cost."""
    folder = files("frostline.plan") / "recipes"
    loaded = [
        tomllib.loads(item.read_text("utf-8")) for item in folder.iterdir() if item.name.endswith(".toml")
    ]
    loaded.sort(key=lambda content: content.pop("order"))
    return {content["name"]: Recipe.model_validate(content) for content in loaded}


def resolve_phases(
    settings: PlanSettings, *, tasks: Collection[str], frozen: Collection[str] = ()
) -> tuple[Phase, ...]:
    """The phases of a plan: those written out, or its recipe's with the plan's changes.

    Args:
        settings: of the plan; changes apply to the recipe's last phase, or to the one before heads are solved
            again. Where it freezes a head that has no fork, no temperature makes the others less sure; a
            frozen head is not solved again.
        tasks: names of the tasks.
        frozen: tasks whose head learns in no phase.

    Raises:
        ConfigError: unknown recipe, a change that the recipe has no use for, or a head that is missing.
    """
    phases = settings.phases or _recipe_phases(settings, tasks, frozen)
    return tuple(_with_frozen(phase, frozen) for phase in phases)


def _with_frozen(phase: Phase, frozen: Collection[str]) -> Phase:
    heads = tuple(dict.fromkeys([*phase.frozen_heads, *frozen]))
    return phase.model_copy(update={"frozen_heads": heads})


def _recipe_phases(
    settings: PlanSettings, tasks: Collection[str], frozen: Collection[str]
) -> tuple[Phase, ...]:
    recipe = recipe_of(settings.recipe or DEFAULT)
    if recipe.needs_frozen_head and not settings.frozen_heads and not frozen:
        raise ConfigError(
            f"plan.frozen_heads: recipe '{recipe.name}' needs the head to freeze, such as "
            f'frozen_heads = ["{next(iter(tasks), "sentiment")}"].'
        )
    *first, last = recipe.phases
    again = (last,) if first and last.solver == "probe" else ()
    if again:
        *first, last = first
    changes = settings.changes()
    if last.solver == "probe" and set(changes) - {"frozen_heads"}:
        refused = listing(set(changes) - {"frozen_heads"})
        raise ConfigError(f"plan: recipe '{recipe.name}' solves its heads; it has no {refused}.")
    if last.top_layers == 0 and set(changes) & {"top_layers", "backbone_lr", "protect", "guard"}:
        raise ConfigError(
            f"plan: recipe '{recipe.name}' keeps the backbone frozen. Take 'top-layers' or 'full'."
        )
    own = last.model_dump()
    if "epochs" in changes:
        own.pop("min_steps")  # who asks for a number of epochs gets that number
    try:
        changed = Phase.model_validate({**own, **changes})
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"plan: {reason} (in phase '{last.name}' of recipe '{recipe.name}').") from error
    if (changed.frozen_heads or frozen) and changed.protect != "fork":
        # Layers move more under unsure heads: a frozen one lost up to .13 more (docs/experiments.md).
        first = [phase.model_copy(update={"temperature": 1.0}) for phase in first]
    return (*first, changed, *(_with_frozen(phase, changed.frozen_heads) for phase in again))


def recipe_of(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in recipes():
        raise ConfigError(
            f"plan.recipe: '{name}' is no recipe ({', '.join(recipes())})." + did_you_mean(name, recipes())
        )
    return recipes()[name]
