"""Optimizer groups, layer decay and schedules: names and numbers, never a change of the model.

Every parameter that learns is in exactly one group. Groups are named by stage or head, so that a rate can
be read off, and state is kept by parameter name, never by position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from frostline.errors import FreezeError, listing
from frostline.model.multitask import MultitaskModel
from frostline.plan.phase import Phase


@dataclass(frozen=True)
class Group:
    """Parameters with one rate and one decay.

    Attributes:
        name: 'embeddings', 'layer 5', 'sentiment head', with ' · no decay' for biases and norms.
        lr: rate at the top of the schedule.
        weight_decay: of AdamW.
        parameters: names in the model.
        woke: step of the phase at which it began to learn.
    """

    name: str
    lr: float
    weight_decay: float
    parameters: tuple[str, ...]
    woke: int = 0


def layer_decay_rates(lr: float, *, decay: float, num_layers: int) -> tuple[float, ...]:
    """Learning rate of every stage, embeddings first.

    The top layer learns at `lr * decay`, each stage below at `decay` times the one above (ELECTRA's rule,
    counted so that the head is 0). The count is absolute: freezing or thawing changes which stages learn,
    never the rate of one.

    Args:
        lr: base rate, that of a head with the same base.
        decay: in (0, 1]; 1 gives every stage `lr`.
        num_layers: transformer layers L.

    Returns:
        `num_layers + 1` rates.

    Raises:
        ValueError: `decay` outside (0, 1].
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], {decay} arrived")
    return tuple(lr * decay ** (num_layers + 1 - stage) for stage in range(num_layers + 1))


def stage_rates(phase: Phase, *, num_layers: int) -> tuple[float | None, ...]:
    """Learning rate of every stage in a phase, embeddings first, whether or not it learns.

    Returns:
        `num_layers + 1` rates; None for a layer in no band.
    """
    if not phase.layer_lrs:
        return layer_decay_rates(phase.backbone_lr, decay=phase.layer_decay, num_layers=num_layers)
    rates = {layer: band.lr for band in phase.layer_lrs for layer in band.members(num_layers)}
    return tuple(rates.get(max(0, stage - 1)) for stage in range(num_layers + 1))


def head_rate(phase: Phase, task: str) -> float:
    """Learning rate of a head in a phase."""
    return phase.head_lrs.get(task, phase.head_lr)


def stage_name(stage: int) -> str:
    """'embeddings' or 'layer i'."""
    return "embeddings" if stage == 0 else f"layer {stage}"


def build_groups(
    model: MultitaskModel, phase: Phase, *, woke: Mapping[int, int] | None = None
) -> list[Group]:
    """Groups of what learns in a phase, embeddings first, heads last.

    Args:
        model: obeying the phase.
        phase: its rates and decay.
        woke: step of the phase at which each stage began to learn; None: all at its start.

    Raises:
        FreezeError: a parameter that learns has no owner, or the model does not obey the phase.
    """
    rates = stage_rates(phase, num_layers=model.backbone.num_layers)
    members: dict[tuple[int | str, bool], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (not model.is_frozen(name)):
            raise FreezeError(
                f"parameter '{name}' does not obey phase '{phase.name}'; freeze_to was not called."
            )
        owner = model.owner_of(name)
        if parameter.requires_grad and owner is not None:
            members.setdefault((owner, parameter.ndim > 1), []).append(name)
    groups = []
    for owner in [*range(model.backbone.num_stages), *model.tasks]:
        for decays in (True, False):
            names = members.pop((owner, decays), [])
            if names:
                title = stage_name(owner) if isinstance(owner, int) else f"{owner} head"
                lr = rates[owner] if isinstance(owner, int) else head_rate(phase, owner)
                assert lr is not None, f"no rate for {title}"
                decay = phase.weight_decay if decays else 0.0
                since = (woke or {}).get(owner, 0) if isinstance(owner, int) else 0
                groups.append(
                    Group(title + ("" if decays else " · no decay"), lr, decay, tuple(names), since)
                )
    if members:
        raise FreezeError(
            f"parameters in no group: {listing(n for names in members.values() for n in names)}."
        )
    return groups


def build_optimizer(
    model: MultitaskModel, groups: list[Group], *, keep: torch.optim.Optimizer | None = None
) -> torch.optim.AdamW:
    """AdamW over the groups; parameters that `keep` was training already keep their moments.

    Args:
        model: owner of the parameters.
        groups: of this phase.
        keep: optimizer of the phase before.
    """
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [parameters[name] for name in group.parameters],
                "lr": group.lr,
                "initial_lr": group.lr,
                "weight_decay": group.weight_decay,
                "name": group.name,
                "woke": group.woke,
            }
            for group in groups
        ],
        fused=True,
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if keep is not None and parameter in keep.state:
                optimizer.state[parameter] = keep.state[parameter]
    return optimizer


def schedule_factor(step: int, *, phase: Phase, total_steps: int, woke: int = 0) -> float:
    """Factor on a rate at a step of a phase, in 0…1: warm-up since waking, times the fall of the phase.

    Args:
        step: of the phase, from 0.
        phase: its warm-up and schedule.
        total_steps: steps of the phase.
        woke: step at which the group began to learn; its warm-up starts there, its fall is the phase's.
    """
    warmup = phase.warmup_steps
    warmup_steps = math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)
    rise = min(1.0, (step - woke + 1) / warmup_steps) if warmup_steps else 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    progress = min(1.0, max(0.0, progress))
    if phase.lr_scheduler_type == "constant":
        return rise
    if phase.lr_scheduler_type == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * progress))
    return rise * (1 - progress)


def set_rates(optimizer: torch.optim.Optimizer, step: int, *, phase: Phase, total_steps: int) -> None:
    """Sets every group's rate to what the schedule gives at a step of the phase."""
    for group in optimizer.param_groups:
        factor = schedule_factor(step, phase=phase, total_steps=total_steps, woke=group["woke"])
        group["lr"] = group["initial_lr"] * factor
