"""The steps that follow from how a run trains: which rows, in which parts, under which seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from frostline.data.batches import Split, cut, epoch_batches
from frostline.data.labels import is_labelled
from frostline.data.table import IntN
from frostline.plan.phase import Phase
from frostline.training.ranks import Ranks
from frostline.training.settings import TrainSettings


def epoch_steps(
    split: Split, settings: TrainSettings, *, epoch: int, heads: Collection[str] | None = None
) -> list[list[IntN]]:
    """Rows of every step of an epoch, each step in parts that are computed one after the other.

    Args:
        split: the training texts.
        settings: of the run, resolved.
        epoch: counted over the whole run.
        heads: tasks that learn from labels; rows without a label of any of them are left out. None: all rows.
    """
    assert settings.batch_tokens is not None, "settings are not resolved"
    length_N = split.tokens.length_N
    used = np.arange(len(split))
    if heads is not None:
        used = np.flatnonzero(np.any([is_labelled(split.labels[name]) for name in heads], axis=0))
    batches = epoch_batches(length_N[used], size=settings.batch_size, seed=settings.seed, epoch=epoch)
    parts = [cut(used[rows], length_N, max_tokens=settings.batch_tokens) for rows in batches]
    size = settings.gradient_accumulation_steps
    return [[rows for batch in parts[i : i + size] for rows in batch] for i in range(0, len(parts), size)]


def part_of(steps: list[list[IntN]], number: int, num_parts: int) -> list[list[IntN]]:
    """One of `num_parts` stretches of an epoch's steps, as equal as can be."""
    start, end = (len(steps) * i // num_parts for i in (number, number + 1))
    return steps[start:end]


def lengths_of(split: Split, steps: Iterable[list[IntN]], *, ranks: Ranks) -> Iterator[IntN]:
    """Tokens of the texts that this process computes at once, part after part."""
    length_N = split.tokens.length_N
    for parts in steps:
        yield from (length_N[ranks.share(rows)] for rows in parts)


def step_seed(settings: TrainSettings, *, step: int, rank: int = 0) -> int:
    """The seed of a step's dropout.

    Args:
        settings: of the run.
        step: counted over the whole run.
        rank: of the process.
    """
    entropy = (settings.seed, step, rank) if rank else (settings.seed, step)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def with_epochs(phases: Iterable[Phase], split: Split, settings: TrainSettings) -> tuple[Phase, ...]:
    """The phases with the epochs that few rows need for enough steps (`min_steps`), and few labels in the
    first phase: heads that are solved, or have learned, need no more of them (docs/experiments.md).

    Args:
        phases: of a plan.
        split: the training texts.
        settings: of the run, resolved.
    """
    changed: list[Phase] = []
    for phase in phases:
        taught = phase.taught_heads(split.labels)
        steps = epoch_steps(split, settings, epoch=0, heads=taught)
        used = np.concatenate([rows for parts in steps for rows in parts])
        shares = [is_labelled(split.labels[name])[used].mean() for name in phase.learning_heads(split.labels)]
        share = float(np.mean(shares)) if shares and not changed else 1.0
        changed.append(phase.with_epochs_for(len(steps), label_share=share))
    return tuple(changed)
