"""Optimizer groups, layer decay and schedules: names and numbers, never a change of the model.

Every parameter that learns is in exactly one group. Groups are named by stage or head, so that a rate can
be read off, and state is kept by parameter name, never by position.
"""

from __future__ import annotations

import math
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
    """

    name: str
    lr: float
    weight_decay: float
    parameters: tuple[str, ...]


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


def stage_name(stage: int) -> str:
    """'embeddings' or 'layer i'."""
    return "embeddings" if stage == 0 else f"layer {stage}"


def build_groups(model: MultitaskModel, phase: Phase) -> list[Group]:
    """Groups of what learns in a phase, embeddings first, heads last.

    Raises:
        FreezeError: a parameter that learns has no owner, or the model does not obey the phase.
    """
    rates = layer_decay_rates(
        phase.backbone_lr, decay=phase.layer_decay, num_layers=model.backbone.num_layers
    )
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
                lr = rates[owner] if isinstance(owner, int) else phase.head_lr
                decay = phase.weight_decay if decays else 0.0
                groups.append(Group(title + ("" if decays else " · no decay"), lr, decay, tuple(names)))
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


def schedule_factor(step: int, *, phase: Phase, total_steps: int) -> float:
    """Factor on every rate at a step of a phase, in 0…1.

    Args:
        step: from 0.
        phase: its warm-up and schedule.
        total_steps: steps of the phase.
    """
    warmup = phase.warmup_steps
    warmup_steps = math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if phase.lr_scheduler_type == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if phase.lr_scheduler_type == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return max(0.0, 1 - progress)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to `factor` times its top."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
