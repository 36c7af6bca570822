"""Does a plan fit the tasks and the backbone: the checks that need more than one phase alone.

Every refusal names phase and key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from frostline.errors import ConfigError, did_you_mean, listing
from frostline.plan.phase import Phase, TopLayers, temperatures_of
from frostline.plan.plateau import JUDGES, monitored_tasks


def check_plan(
    phases: Sequence[Phase],
    *,
    tasks: Collection[str],
    num_layers: int,
    labelled: Collection[str],
    scored: Collection[str],
    taken: Collection[str] = (),
    forked: Collection[str] = (),
) -> None:
    """Raises ConfigError where a plan does not fit.

    Args:
        phases: of the plan.
        tasks: names of the tasks.
        num_layers: transformer layers L of the backbone.
        labelled: tasks with labels in the training split.
        scored: tasks with labels in the validation split.
        taken: tasks whose head comes from elsewhere, so that it need not learn.
        forked: tasks whose head has stages of its own already, so that it cannot learn.
    """
    if not phases:
        raise ConfigError("plan: no phases. Name a recipe, or write [[plan.phases]].")
    for index, phase in enumerate(phases):
        where = f"plan.phases[{index}]"
        _check_tasks(where, phase, tasks, scored)
        _check_layers(f"{where}.top_layers", phase.top_layers, num_layers)
        if phase.thaw:
            _check_layers(f"{where}.thaw.to", phase.thaw.to, num_layers)
        _check_bands(where, phase, num_layers)
        _check_protection(where, phase, phases[index + 1 :], tasks)
        if phase.temperature != 1 and not temperatures_of(phases[index:], tasks):
            raise ConfigError(
                f"{where}.temperature: no head descends in a later phase, so it would have no effect. "
                "Leave it out, or add a phase that descends."
            )
        for name in phase.learning_heads(tasks):
            if name in forked:
                raise ConfigError(
                    f"{where}: the head of '{name}' has stages of its own, so it cannot learn. "
                    f'Freeze it: frozen_heads = ["{name}"].'
                )
            if name not in labelled:
                raise ConfigError(
                    f"{where}: the head of '{name}' learns, but no training row has a label of it. "
                    f'Freeze it: frozen_heads = ["{name}"].'
                )
    for task in tasks:
        if task not in taken and not any(task in phase.learning_heads(tasks) for phase in phases):
            raise ConfigError(
                f"plan: the head of '{task}' learns in no phase. Add a phase that trains it, or take the "
                "task out."
            )


def _check_tasks(where: str, phase: Phase, tasks: Collection[str], scored: Collection[str]) -> None:
    for key, names in _names(phase):
        for name in names:
            if name not in tasks:
                raise ConfigError(
                    f"{where}.{key}: '{name}' is not a task ({listing(tasks)})."
                    + did_you_mean(name, [*tasks, *(JUDGES if key == "until.monitor" else ())])
                )
            if key == "until.monitor" and name not in scored:
                raise ConfigError(f"{where}.{key}: no validation row has a label of '{name}' to watch.")
    if not phase.learning_heads(tasks):
        if phase.top_layers == 0 and not phase.thaw:
            raise ConfigError(f"{where}: nothing trains: top_layers is 0 and every head is frozen.")
        raise ConfigError(f"{where}.frozen_heads: every head is frozen, so no loss is left to train on.")
    for name in phase.head_lrs:
        if name in phase.frozen_heads:
            raise ConfigError(f"{where}.head_lrs: '{name}' has a rate, but frozen_heads freezes it.")


def _check_protection(where: str, phase: Phase, later: Sequence[Phase], tasks: Collection[str]) -> None:
    for key in ("protect", "guard"):
        if not phase.frozen_heads and getattr(phase, key) not in (None, "none"):
            raise ConfigError(f"{where}.{key}: no head is frozen in this phase, so none is to be watched.")
    if phase.protect != "fork":
        return
    for name in phase.frozen_heads:
        if any(name in other.learning_heads(tasks) for other in later):
            raise ConfigError(
                f"{where}.protect: \"fork\" gives the head of '{name}' stages of its own for good, but a "
                'later phase trains it. Keep it frozen there, or take protect = "distill".'
            )


def _names(phase: Phase) -> Iterator[tuple[str, Collection[str]]]:
    """Keys of a phase that name tasks, with the names."""
    yield "frozen_heads", phase.frozen_heads
    yield "head_lrs", phase.head_lrs
    if phase.until:
        yield "until.monitor", monitored_tasks(phase.until.monitor)


def _check_layers(key: str, asked: TopLayers, num_layers: int) -> None:
    if isinstance(asked, int) and asked > num_layers:
        raise ConfigError(
            f"{key}: {asked} layers asked, but this backbone has {num_layers}. "
            'Write "all" to train every layer and the embeddings.'
        )


def _check_bands(where: str, phase: Phase, num_layers: int) -> None:
    owners: dict[int, str] = {}
    for band in phase.layer_lrs:
        members = band.members(num_layers)
        if not members:
            raise ConfigError(f"{where}.layer_lrs: '{band.layers}' holds no layer.")
        if members.stop > num_layers:
            raise ConfigError(
                f"{where}.layer_lrs: '{band.layers}' reaches beyond the last layer; this backbone has layers "
                f"0 to {num_layers - 1}."
            )
        for layer in members:
            if layer in owners:
                raise ConfigError(
                    f"{where}.layer_lrs: layer {layer} is in '{owners[layer]}' and in '{band.layers}'."
                )
            owners[layer] = band.layers
    lowest = phase.depths(num_layers)[-1]
    bare = [layer for layer in range(max(0, lowest - 1), num_layers) if layer not in owners]
    if phase.layer_lrs and bare:
        raise ConfigError(f"{where}.layer_lrs: no band for layers that learn: {listing(bare)}.")


def plan_warnings(phases: Sequence[Phase], *, forked: Collection[str] = ()) -> list[str]:
    """What a plan does that its author may not expect, a sentence each.

    Args:
        phases: of the plan.
        forked: tasks whose head has stages of its own already.
    """
    said, safe = [], set(forked)
    for phase in phases:
        if phase.protect == "fork":
            safe |= set(phase.exposed_heads)
        exposed = [name for name in phase.exposed_heads if name not in safe]
        if exposed and phase.protect == "none":
            heads, results = "head is", "under it learn: its"
            if len(exposed) > 1:
                heads, results = "heads are", "under them learn: their"
            said.append(
                f"phase '{phase.name}': the {listing(exposed)} {heads} frozen, but layers {results} results "
                'will move. protect = "distill" or "fork" keeps them; guard watches them; the '
                "report says by how much they moved."
            )
    return said
