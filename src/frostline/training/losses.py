"""The losses and gradients of a step: each task's on its labelled rows, and their weighted sum.

Sums are divided by the whole step's labels, not the batch's, so that gradients accumulated over several
batches are those of one large batch.

Shapes: D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from frostline.data.batches import Split
from frostline.data.labels import LabelsN, is_labelled
from frostline.data.table import IntN
from frostline.model.multitask import MultitaskModel
from frostline.training.activations import Activations


def add_gradients(
    model: MultitaskModel,
    activations: Activations,
    split: Split,
    batches: Sequence[IntN],
    *,
    heads: Collection[str],
) -> dict[str, torch.Tensor]:
    """The loss of each task with a label among a step's rows; its gradients are added to the parameters'.

    A task without a labelled row is left out: its head gets no gradient at all, so that decay and momentum
    leave it alone.

    Args:
        model: obeying the phase.
        activations: gives what the frozen stages make of the rows.
        split: owner of the rows.
        batches: rows of each batch of the step.
        heads: tasks whose loss is trained on.
    """
    weights = _label_weights(model, split, np.concatenate(batches), heads)
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for rows in batches if weights else []:
        losses = _batch_losses(model, activations, split, rows, weights)
        total = torch.stack([model.tasks[name].weight * loss for name, loss in losses.items()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        sums = {name: sums[name] + loss.detach() for name, loss in losses.items()}
    return sums


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


def _batch_losses(
    model: MultitaskModel,
    activations: Activations,
    split: Split,
    rows: IntN,
    weights: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """A batch's share of each task's loss, with gradient above the frost line."""
    given = activations.batch(split, rows, depth=model.frozen_depth)
    with activations.precision.autocast(activations.device):
        embedding_BD = model.backbone.suffix(given.states, given.mask_BL, depth=model.frozen_depth)
    losses = {}
    for name, weight in weights.items():
        labels = _on(model, split.labels[name][rows])
        losses[name] = model.head(name).loss_sum(model.head(name)(embedding_BD), labels) / weight
    return losses


def _on(model: MultitaskModel, labels: LabelsN) -> torch.Tensor:
    return torch.from_numpy(labels).to(next(model.parameters()).device)
