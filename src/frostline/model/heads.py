"""Task heads and their losses: a map from an embedding to one task's outputs, linear where it is our own.

A head reads what `encode` returns, so stored embeddings can be classified later without the backbone.
Knows one task; the sum over tasks is the loop's.

Shapes: B texts, D width, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit, softmax
from torch import nn
from torch.nn import functional as F

from frostline.data.labels import MISSING_CLASS, LabelsN, Task, is_labelled
from frostline.model.dropout import FastDropout

Activation = Literal["tanh", "relu", "gelu"]
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
}


class Hidden(nn.Module):
    """The layer between embedding and logits that heads of Hugging Face models have: norm(activation(dense)).

    Attributes:
        activation: name of the function after `dense`.
    """

    def __init__(self, width: int, size: int, *, activation: Activation, norm_eps: float | None) -> None:
        super().__init__()
        self.activation = activation
        self.dense = nn.Linear(width, size)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(size, eps=norm_eps)

    def forward(self, embedding_BD: torch.Tensor) -> torch.Tensor:
        """What the linear map reads (B, size)."""
        hidden: torch.Tensor = self.norm(_ACTIVATIONS[self.activation](self.dense(embedding_BD)))
        return hidden


class Head(nn.Module):
    """A linear head on an embedding, or on a hidden layer over it.

    Attributes:
        task: what its outputs mean.
        input_scale: fixed factor on the embedding; √D for embeddings of length 1, whose entries are small.
        hidden: of a head that was taken over; None: linear.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        task: Task,
        *,
        width: int,
        input_scale: float = 1.0,
        dropout: float = 0.0,
        hidden: Hidden | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.input_scale = input_scale
        self.hidden = hidden
        self.dropout = FastDropout(dropout)
        self.linear = nn.Linear(hidden.dense.out_features if hidden else width, task.num_outputs)
        nn.init.zeros_(self.linear.weight)  # all texts equal at the start, whatever the seed
        nn.init.zeros_(self.linear.bias)
        weights = None if task.class_weights is None else torch.tensor(task.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def has_learned(self) -> bool:
        """Whether its answers depend on the text."""
        return bool(self.linear.weight.any())

    def start_at_base_rates(self, labels: LabelsN) -> None:
        """Of several labels, sets the bias at which the loss is least while every text has the same answer.

        So the first steps teach differences between texts, not that labels are rare (the prior of Lin et
        al. 2017, arXiv 1708.02002). A classification stays at zero, which finds rare classes sooner
        (docs/experiments.md); so do a regression, whose targets are standardised, and a task without labels.

        Args:
            labels: of the training rows; half a row is added to each label.
        """
        known = labels[is_labelled(labels)]
        if self.task.kind != "multilabel" or not len(known):
            return
        given_C, weights_C = known.sum(axis=0), np.asarray(self.task.class_weights or 1.0)
        logits_C = np.log((given_C * weights_C + 0.5) / (len(known) - given_C + 0.5))
        with torch.no_grad():
            self.linear.bias.copy_(torch.from_numpy(logits_C))

    def forward(self, embedding_BD: torch.Tensor) -> torch.Tensor:
        """Logits (B, C); for a regression the standardised target (B, 1)."""
        logits_BC: torch.Tensor = self.linear(self.dropout(self.features(embedding_BD)))
        return logits_BC

    def features(self, embedding_BD: torch.Tensor) -> torch.Tensor:
        """What the linear map reads, float32."""
        scaled_BD = embedding_BD.float() * self.input_scale
        return scaled_BD if self.hidden is None else self.hidden(scaled_BD)

    def label_weight(self, labels: torch.Tensor) -> torch.Tensor:
        """What the summed loss is to be divided by: the labelled rows' weights added up."""
        if self.task.kind != "classification":
            known = ~torch.isnan(labels)
            return (known.all(dim=1) if labels.ndim == 2 else known).sum().float()
        known = labels != MISSING_CLASS
        if self.class_weights is None:
            return known.sum().float()
        return (self.class_weights[labels.clamp(min=0)] * known).sum()

    def loss_sum(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The labelled rows' losses added up; rows without a label add nothing.

        Scaled so that a row has 1 where each label is as likely as any other (cross-entropy over log C:
        Muppet, arXiv 2101.11038), so that tasks of many and of few classes weigh alike.

        Args:
            logits_BC: output of `forward`.
            labels: as `encode_labels` made them.
        """
        if self.task.kind == "classification":
            return F.cross_entropy(
                logits_BC,
                labels,
                weight=self.class_weights,
                ignore_index=MISSING_CLASS,
                label_smoothing=self.task.label_smoothing,
                reduction="sum",
            ) / math.log(self.task.num_outputs)
        if self.task.kind == "regression":
            known_B = ~torch.isnan(labels)
            target_B = (labels[known_B] - self.task.target_mean) / self.task.target_std
            return F.mse_loss(logits_BC[known_B, 0], target_B.to(logits_BC.dtype), reduction="sum")
        known_B = ~torch.isnan(labels).any(dim=1)
        losses_BC = F.binary_cross_entropy_with_logits(
            logits_BC[known_B], labels[known_B], pos_weight=self.class_weights, reduction="none"
        )
        return losses_BC.mean(dim=1).sum() / math.log(2)

    def divergence_sum(self, logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
        """How far every row's outputs are from earlier ones, added up; 0 where they are the same.

        Kullback–Leibler divergence of the earlier probabilities from the present ones (learning without
        forgetting: Li & Hoiem 2016, arXiv 1606.09282), of each label for a multilabel task; the squared
        distance of standardised outputs for a regression. Scaled as `loss_sum`.

        Args:
            logits_BC: output of `forward`.
            target_BC: the earlier output.
        """
        if self.task.kind == "regression":
            return F.mse_loss(logits_BC, target_BC, reduction="sum")
        if self.task.kind == "classification":
            now_BC, then_BC = F.log_softmax(logits_BC, dim=1), F.log_softmax(target_BC, dim=1)
            divergence = F.kl_div(now_BC, then_BC, reduction="sum", log_target=True)
            return divergence / math.log(self.task.num_outputs)
        pairs = [(F.logsigmoid(sign * logits_BC), F.logsigmoid(sign * target_BC)) for sign in (1, -1)]
        both_BC = sum(F.kl_div(now, then, reduction="none", log_target=True) for now, then in pairs)
        return torch.as_tensor(both_BC).mean(dim=1).sum() / math.log(2)


def probabilities(task: Task, logits_BC: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits as people want them.

    Returns:
        Float32: (B, C) summing to 1 for a classification, (B, C) each in 0…1 for a multilabel task; float64
        (B,) in the target's own unit for a regression.
    """
    if task.kind == "regression":
        return np.asarray(logits_BC[:, 0].astype(np.float64) * task.target_std + task.target_mean)
    if task.kind == "multilabel":
        return np.asarray(expit(logits_BC.astype(np.float64)), dtype=np.float32)
    return np.asarray(softmax(logits_BC.astype(np.float64) / task.temperature, axis=1), dtype=np.float32)


def decisions(task: Task, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Answers of a task from its probabilities.

    Returns:
        (B,) int64 numbers of labels for a classification; (B, C) int64 of 0 and 1 for a multilabel task; for
        a regression the values themselves.
    """
    if task.kind == "regression":
        return values
    if task.kind == "multilabel":
        thresholds = 0.5 if task.thresholds is None else np.asarray(task.thresholds, dtype=np.float32)
        return np.asarray(values >= thresholds, dtype=np.int64)
    return np.asarray(values.argmax(axis=1), dtype=np.int64)
