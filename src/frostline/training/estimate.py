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
from frostline.training.settings import TrainSettings, epoch_steps

_STEPS = 5
_SAMPLE = 512
_HEAD_STEP_SECONDS = 0.0015
_PROBE_SECONDS_PER_ROW = 0.0006


def estimate_seconds(
    model: MultitaskModel,
    splits: dict[str, Split],
    phase: Phase,
    settings: TrainSettings,
    *,
    precision: Precision,
    device: torch.device,
) -> float:
    """Estimated seconds of a phase with all its epochs: its steps, and the passes over validation or into the
    store.

    Heads on stored embeddings are taken at 1.5 ms a step and 0.6 ms a solved row and head, which is small
    beside the forward pass that is timed. A phase that thaws is taken to spend the same time at every depth.
    """
    train, held = splits["train"], splits["validation"]
    trial = copy.deepcopy(model)
    forward = _forward_seconds(trial, train, precision, device)
    steps = epoch_steps(train, settings, epoch=0, heads=phase.taught_heads(trial.tasks))
    activations = Activations(trial.backbone, precision=precision, device=device)
    depths = phase.depths(trial.backbone.num_layers)
    seconds = 0.0
    for depth in depths:
        freeze_to(trial, phase, depth=depth)
        share = phase.epochs / len(depths)
        if phase.solver == "probe":
            seconds += _PROBE_SECONDS_PER_ROW * len(train) * len(phase.learning_heads(trial.tasks))
        elif depth == trial.backbone.num_stages:
            seconds += _HEAD_STEP_SECONDS * len(steps) * share
        else:
            batches = [rows for step in steps[:_STEPS] for rows in step]
            step = _step_seconds(trial, train, activations, batches)
            evaluation = forward * len(held) * phase.evaluations_per_epoch
            taught = sum(len(rows) for parts in steps for rows in parts)
            seconds += share * (step * taught + evaluation)
    if depths[0] == trial.backbone.num_stages:
        seconds += forward * (len(train) + len(held))
    return seconds


def _forward_seconds(
    model: MultitaskModel, split: Split, precision: Precision, device: torch.device
) -> float:
    """Seconds a text of a pass without gradient, from a random sample."""
    generator = np.random.default_rng(0)
    sample = generator.permutation(len(split))[:_SAMPLE]
    start = _now(device)
    for _ in embed(model.backbone, split.tokens.take(sample), precision=precision, device=device):
        pass
    return (_now(device) - start) / len(sample)


def _now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _step_seconds(
    model: MultitaskModel, split: Split, activations: Activations, batches: list[IntN]
) -> float:
    """Seconds a text of forward and backward, from a few batches of which the first only warms up."""
    start, texts = _now(activations.device), 0
    for number, rows in enumerate(batches):
        if number == 1:
            start, texts = _now(activations.device), 0
        with activations.precision.autocast(activations.device):
            given = activations.batch(split, rows, depth=model.frozen_depth)
            embedding_BD = model.backbone.suffix(given.states, given.mask_BL, depth=model.frozen_depth)
        embedding_BD.sum().backward()  # type: ignore[no-untyped-call]
        texts += len(rows)
    return (_now(activations.device) - start) / texts
