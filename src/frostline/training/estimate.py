"""How long a plan will take, from a few timed batches on a copy of the model. Nothing is trained."""

from __future__ import annotations

import copy
import time

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

_STEPS = 5
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
        self._step: dict[int, float] = {}

    def seconds(self, phase: Phase) -> float:
        """Estimated seconds of a phase with all its epochs: its steps, and the passes over validation or into
        the store.

        A phase that thaws at plateaus is taken to spend the same time at every depth.
        """
        trial, num_stages = self._trial, self._trial.backbone.num_stages
        heads = phase.taught_heads(trial.tasks)
        steps = epoch_steps(self._train, self._settings, epoch=0, heads=heads)
        depths = phase.depths(trial.backbone.num_layers)
        seconds = 0.0
        for depth, share in zip(depths, _epochs_at(phase, len(depths)), strict=True):
            if phase.solver == "probe":
                seconds += _PROBE_SECONDS_PER_ROW * len(self._train) * len(phase.learning_heads(trial.tasks))
            elif depth == num_stages:
                seconds += _HEAD_STEP_SECONDS * len(steps) * share
            else:
                step = self._step_seconds(phase, depth, steps)
                evaluation = self._forward_seconds() * len(self._held) * phase.evaluations_per_epoch
                seconds += share * (step * sum(len(rows) for parts in steps for rows in parts) + evaluation)
        if depths[0] == num_stages:
            seconds += self._forward_seconds() * (len(self._train) + len(self._held))
        return seconds

    def seconds_of(self, phase: Phase, *, num_texts: int, num_held: int) -> float:
        """The same for another number of texts like those of the run, at the depth of the phase's start."""
        steps = epoch_steps(self._train, self._settings, epoch=0, heads=phase.taught_heads(self._trial.tasks))
        depth = phase.depths(self._trial.backbone.num_layers)[0]
        learning = self._step_seconds(phase, depth, steps) * num_texts
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

    def _step_seconds(self, phase: Phase, depth: int, steps: list[list[IntN]]) -> float:
        """Seconds a text of forward and backward at a depth."""
        if depth not in self._step:
            freeze_to(self._trial, phase, depth=depth)
            self._activations.settle(depth)
            batches = [rows for step in steps[:_STEPS] for rows in step]
            self._step[depth] = _timed_steps(self._trial, self._train, self._activations, batches)
        return self._step[depth]


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


def _timed_steps(model: MultitaskModel, split: Split, activations: Activations, batches: list[IntN]) -> float:
    """Seconds a text of forward and backward, from a few batches of which the first only warms up."""
    tables, start, texts = EmbeddingGradients(model), _now(activations.device), 0
    for number, rows in enumerate(batches):
        if number == 1:
            start, texts = _now(activations.device), 0
        model.zero_grad()
        with tables.by_row():
            with activations.precision.autocast(activations.device):
                given = activations.batch(split, rows, depth=model.frozen_depth)
                embedding_BD = model.backbone.suffix(given.states, given.mask_BL, depth=model.frozen_depth)
            embedding_BD.sum().backward()  # type: ignore[no-untyped-call]
        texts += len(rows)
    return (_now(activations.device) - start) / texts
