"""The losses and gradients of a step: each task's on its labelled rows, what holds a frozen head to its
earlier answers, and their weighted sum.

Sums are divided by the whole step's labels, not the batch's, so that gradients accumulated over several
batches are those of one large batch.

Shapes: B texts of a batch, N training texts, D width, C outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from frostline.data.batches import Split, send
from frostline.data.labels import LabelsN, is_labelled
from frostline.data.table import IntN
from frostline.model.backbone import Backbone
from frostline.model.multitask import MultitaskModel
from frostline.model.recorded import Recordings
from frostline.training.activations import Activations
from frostline.training.profile import Profile
from frostline.training.ranks import Ranks


@dataclass(frozen=True)
class Anchor:
    """What a frozen head is to go on answering.

    Attributes:
        logits_NC: its earlier outputs on the training texts, on the CPU.
        weight: factor of the divergence from them.
    """

    logits_NC: torch.Tensor
    weight: float


def add_gradients(
    model: MultitaskModel,
    activations: Activations,
    split: Split,
    batches: Sequence[IntN],
    *,
    heads: Collection[str],
    anchors: Mapping[str, Anchor] | None = None,
    recordings: Recordings | None = None,
    ranks: Ranks | None = None,
    profile: Profile | None = None,
) -> dict[str, torch.Tensor]:
    """The loss of each task with a label among a step's rows, and of each anchored one its divergence from
    what it answered; the gradients are added to the parameters'.

    A task without a labelled row is left out: its head gets no gradient at all, so that decay and momentum
    leave it alone.

    Args:
        model: obeying the phase.
        activations: gives what the frozen stages make of the rows.
        split: owner of the rows.
        batches: rows of each batch of the step.
        heads: tasks whose loss is trained on.
        anchors: by task, what frozen heads are held to; all rows count, labelled or not.
        recordings: of the stages that learn, where some are.
        ranks: processes that share the rows; losses and gradients are those of all rows, in each of them.
        profile: told how long the parts take.
    """
    ranks, profile = ranks or Ranks(), profile or Profile()
    anchors = anchors or {}
    weights = _label_weights(model, split, np.concatenate(batches), heads)
    factors = {name: model.tasks[name].weight for name in weights}
    factors |= {name: model.tasks[name].weight * anchor.weight for name, anchor in anchors.items()}
    sums = {name: torch.zeros((), device=next(model.parameters()).device) for name in factors}
    shares = [ranks.share(rows) for rows in batches] if factors else []
    num_rows = sum(len(rows) for rows in batches)
    stages = recordings or model.backbone
    step = _Step(model, stages, activations, split, weights, factors, anchors, num_rows, profile)
    # Within one context torch casts each weight that learns once, for all batches of the step. A pass without
    # a gradient in there must not touch such a weight: its cast would have none.
    with activations.precision.autocast(activations.device):
        for rows in [share for share in shares if len(share)]:
            losses = step.add(rows)
            sums = {name: sums[name] + loss for name, loss in losses.items()}
    if ranks.size > 1:
        ranks.add_up([*sums.values(), *_gradients(model, factors)])
    return sums


@dataclass(frozen=True)
class _Step:
    """What the parts of a step have in common.

    Attributes:
        stages: those that learn.
        weights: what each task's summed loss is divided by.
        factors: of the losses in their sum.
        num_rows: of all parts.
    """

    model: MultitaskModel
    stages: Backbone | Recordings
    activations: Activations
    split: Split
    weights: Mapping[str, torch.Tensor]
    factors: Mapping[str, float]
    anchors: Mapping[str, Anchor]
    num_rows: int
    profile: Profile

    def add(self, rows: IntN) -> dict[str, torch.Tensor]:
        """Losses of a part, its gradients added; nothing holds its pass any longer afterwards."""
        depth = self.model.frozen_depth
        with self.profile.part("frozen stages"):
            given = self.activations.batch(self.split, rows, depth=depth)
        with self.profile.part("learning stages"):
            embedding_BD = self.stages.suffix(given.states, given.mask_BL, depth=depth)
        with torch.autocast(self.activations.device.type, enabled=False):
            with self.profile.part("heads"):
                losses = _label_losses(self.model, embedding_BD, self.split, rows, self.weights)
                losses |= _divergences(self.model, embedding_BD, rows, self.anchors, self.num_rows)
                total = torch.stack([self.factors[name] * loss for name, loss in losses.items()]).sum()
            with self.profile.part("backward"):
                total.backward()  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}


def _gradients(model: MultitaskModel, tasks: Collection[str]) -> Iterator[torch.Tensor]:
    """Gradients of what learns from the losses of some tasks; zeros where this process had no row."""
    for name, parameter in model.named_parameters():
        owner = model.owner_of(name)
        if parameter.requires_grad and (isinstance(owner, int) or owner in tasks):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            yield parameter.grad


def _label_weights(
    model: MultitaskModel, split: Split, rows: IntN, heads: Collection[str]
) -> dict[str, torch.Tensor]:
    """What each task's summed loss is divided by."""
    labels = {name: split.labels[name][rows] for name in heads}
    return {
        name: model.head(name).label_weight(_on(model, labels))
        for name, labels in labels.items()
        if is_labelled(labels).any()
    }


def _divergences(
    model: MultitaskModel,
    embedding_BD: torch.Tensor,
    rows: IntN,
    anchors: Mapping[str, Anchor],
    num_rows: int,
) -> dict[str, torch.Tensor]:
    """A batch's share of the divergence of each anchored head."""
    losses = {}
    for name, anchor in anchors.items():
        target = send(anchor.logits_NC[torch.from_numpy(rows)], embedding_BD.device)
        head = model.head(name)
        losses[name] = head.divergence_sum(head(embedding_BD), target) / num_rows
    return losses


def _label_losses(
    model: MultitaskModel,
    embedding_BD: torch.Tensor,
    split: Split,
    rows: IntN,
    weights: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """A batch's share of the loss of each task with labels."""
    losses = {}
    for name, weight in weights.items():
        labels = _on(model, split.labels[name][rows])
        losses[name] = model.head(name).loss_sum(model.head(name)(embedding_BD), labels) / weight
    return losses


def _on(model: MultitaskModel, labels: LabelsN) -> torch.Tensor:
    device = next(model.parameters()).device
    numbers = torch.from_numpy(labels)
    if device.type == "mps" and numbers.dtype == torch.float64:  # which it does not have
        numbers = numbers.float()
    return send(numbers, device)
