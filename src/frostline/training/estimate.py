"""How long a plan will take, from a few timed batches on a copy of the model. Nothing is trained."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from frostline.data.batches import Split
from frostline.data.table import IntN
from frostline.model.device import Precision
from frostline.model.multitask import MultitaskModel
from frostline.plan.freeze import freeze_to
from frostline.plan.phase import Phase
from frostline.training.activations import Activations
from frostline.training.embed import embed
from frostline.training.settings import TrainSettings
from frostline.training.steps import epoch_steps
from frostline.training.tables import EmbeddingGradients

_STEPS = 5  # that are timed, and one to warm up
_SAMPLE = 512
_HEAD_STEP_SECONDS = 0.0015
_PROBE_SECONDS_PER_ROW = 0.0001


class Estimator:
    """Seconds of phases on this machine; what was timed once is not timed again.

    Heads on stored embeddings are taken at 1.5 ms a step and 0.1 ms a solved row and head, which is small
    beside the forward pass that is timed.
    """

    def __init__(
        self,
        model: MultitaskModel,
        splits: dict[str, Split],
        settings: TrainSettings,
        *,
        precision: Precision,
        device: torch.device,
    ) -> None:
        self._trial = copy.deepcopy(model)
        self._train, self._held, self._settings = splits["train"], splits["validation"], settings
        self._precision, self._device = precision, device
        self._activations = Activations(self._trial.backbone, precision=precision, device=device)
        self._forward: float | None = None
        self._step: dict[int, _StepCost] = {}

    def seconds(self, phase: Phase) -> float:
        """Estimated seconds of a phase with all its epochs: its steps, and the passes over validation or into
        the store.

        A phase that thaws at plateaus is taken to spend the same time at every depth.
        """
        trial, num_stages = self._trial, self._trial.backbone.num_stages
        heads = phase.taught_heads(trial.tasks)
        steps = epoch_steps(self._train, self._settings, epoch=0, heads=heads)
        depths = phase.depths(trial.backbone.num_layers)
        num_tokens, seconds = sum(self._num_tokens(steps)), 0.0
        for depth, share in zip(depths, _epochs_at(phase, len(depths)), strict=True):
            if phase.solver == "probe":
                seconds += _PROBE_SECONDS_PER_ROW * len(self._train) * len(phase.learning_heads(trial.tasks))
            elif depth == num_stages:
                seconds += _HEAD_STEP_SECONDS * len(steps) * share
            else:
                cost = self._step_cost(phase, depth, steps)
                evaluation = self._forward_seconds() * len(self._held) * phase.evaluations_per_epoch
                seconds += share * (cost.seconds(num_tokens, num_steps=len(steps)) + evaluation)
        if depths[0] == num_stages:
            seconds += self._forward_seconds() * (len(self._train) + len(self._held))
        return seconds

    def seconds_of(self, phase: Phase, *, num_texts: int, num_held: int) -> float:
        """The same for another number of texts like those of the run, at the depth of the phase's start."""
        steps = epoch_steps(self._train, self._settings, epoch=0, heads=phase.taught_heads(self._trial.tasks))
        depth = phase.depths(self._trial.backbone.num_layers)[0]
        tokens = num_texts * float(self._train.tokens.length_N.mean())
        num_steps = math.ceil(num_texts / self._settings.batch_size)
        learning = self._step_cost(phase, depth, steps).seconds(tokens, num_steps=num_steps)
        return phase.epochs * (learning + self._forward_seconds() * num_held * phase.evaluations_per_epoch)

    def _forward_seconds(self) -> float:
        """Seconds a text of a pass without gradient, from a random sample."""
        if self._forward is None:
            sample = np.random.default_rng(0).permutation(len(self._train))[:_SAMPLE]
            tokens, start = self._train.tokens.take(sample), _now(self._device)
            for _ in embed(self._trial.backbone, tokens, precision=self._precision, device=self._device):
                pass
            self._forward = (_now(self._device) - start) / len(sample)
        return self._forward

    def _step_cost(self, phase: Phase, depth: int, steps: list[list[IntN]]) -> _StepCost:
        """What steps cost at a depth, from some of every length."""
        if depth not in self._step:
            freeze_to(self._trial, phase, depth=depth)
            self._activations.settle(depth)
            by_length = np.argsort(self._num_tokens(steps), kind="stable")
            chosen = by_length[np.linspace(0, len(steps) - 1, min(_STEPS, len(steps)), dtype=int)]
            batches = [rows for index in (chosen[-1], *chosen) for rows in steps[index]]
            num_warm = len(steps[chosen[-1]])
            self._step[depth] = _StepCost(
                _timed_tokens(self._trial, self._train, self._activations, batches, num_warm=num_warm),
                _timed_update(self._trial, max_grad_norm=self._settings.max_grad_norm),
            )
        return self._step[depth]

    def _num_tokens(self, steps: list[list[IntN]]) -> list[int]:
        """Tokens of each step."""
        return [int(sum(self._train.tokens.length_N[rows].sum() for rows in step)) for step in steps]


@dataclass(frozen=True)
class _StepCost:
    """Seconds of training steps at a depth.

    Attributes:
        token: forward and backward, a token.
        update: of the optimizer, a step.
    """

    token: float
    update: float

    def seconds(self, num_tokens: float, *, num_steps: int) -> float:
        return self.token * num_tokens + self.update * num_steps


def _epochs_at(phase: Phase, num_depths: int) -> list[float]:
    """Epochs that a phase spends at each of its depths."""
    if phase.thaw is None or phase.thaw.patience != 0:
        return [phase.epochs / num_depths] * num_depths
    num_rounds = phase.epochs * phase.evaluations_per_epoch  # the line moves after each
    moves = np.minimum(np.arange(num_depths + 1), num_rounds)
    moves[-1] = num_rounds
    return [float(rounds) / phase.evaluations_per_epoch for rounds in np.diff(moves)]


def _now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _timed_tokens(
    model: MultitaskModel, split: Split, activations: Activations, batches: list[IntN], *, num_warm: int
) -> float:
    """Seconds a token of forward and backward, from a few batches of which the first only warm up."""
    tables, start, num_tokens = EmbeddingGradients(model), _now(activations.device), 0
    for number, rows in enumerate(batches):
        if number == num_warm:
            start, num_tokens = _now(activations.device), 0
        model.zero_grad()
        with tables.by_row():
            with activations.precision.autocast(activations.device):
                given = activations.batch(split, rows, depth=model.frozen_depth)
                embedding_BD = model.backbone.suffix(given.states, given.mask_BL, depth=model.frozen_depth)
            embedding_BD.sum().backward()  # type: ignore[no-untyped-call]
        num_tokens += int(split.tokens.length_N[rows].sum())
    return (_now(activations.device) - start) / num_tokens


def _timed_update(model: MultitaskModel, *, max_grad_norm: float) -> float:
    """Seconds of clipping and an optimizer's step over what learns, which moves nothing."""
    learning = [one for one in model.parameters() if one.requires_grad]
    for one in learning:
        one.grad = torch.zeros_like(one)
    optimizer = torch.optim.AdamW(learning, lr=0.0, fused=True)
    seconds = 0.0
    for _ in range(2):  # the first makes the moments
        start = _now(learning[0].device)
        torch.nn.utils.clip_grad_norm_(learning, max_grad_norm)
        optimizer.step()
        seconds = _now(learning[0].device) - start
    model.zero_grad()
    return seconds
