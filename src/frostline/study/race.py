"""A short race: a few rows and steps from solved heads on, with every layer awake.

Trains on a copy; the prepared run is left as it is.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.data.batches import Split
from frostline.data.table import IntN
from frostline.model.multitask import MultitaskModel
from frostline.plan.phase import Phase
from frostline.prepare import Prepared
from frostline.training.activations import Activations
from frostline.training.commits import Commits
from frostline.training.journal import Event, Journal
from frostline.training.loop import Trainer
from frostline.training.ranks import Ranks
from frostline.training.state import State

_FEWEST_ROWS, _MOST_ROWS, _HELD_ROWS = 1000, 2000, 500
# Fewer steps only show that heads and layers have to find each other again (docs/experiments.md).
_FEWEST_STEPS = 48
_PHASE = Phase(
    name="race", top_layers="all", backbone_lr=2e-4, layer_decay=0.9, epochs=3, min_steps=_FEWEST_STEPS
)


@dataclass(frozen=True)
class Race:
    """What learning with every layer awake did in a few steps.

    Attributes:
        before: mean score of solved heads.
        after: at the end of the race.
        steps: that it took.
        num_held: rows that were scored.
    """

    before: float
    after: float
    steps: int
    num_held: int


def race_splits(prepared: Prepared) -> dict[str, Split]:
    """Random rows that a race learns from, a tenth but at least 1,000 and at most 2,000, and is scored on."""
    rows = max(_FEWEST_ROWS, min(_MOST_ROWS, len(prepared.splits["train"]) // 10))
    return drawn(prepared, {"train": rows, "validation": _HELD_ROWS})


def repeated(prepared: Prepared, splits: Mapping[str, Split]) -> dict[str, Split]:
    """The same with training rows that come several times in an epoch, so that few rows, which need more
    epochs, are not scored more often.
    """
    number, size = len(splits["train"]), prepared.config.train.batch_size
    needed = math.ceil(_FEWEST_STEPS / _PHASE.epochs) * size
    if number <= size or number > needed - size:  # a batch has each row once; or there are steps enough
        return dict(splits)
    return {**splits, "train": subset(splits["train"], np.resize(np.arange(number), needed))}


def race_phase(prepared: Prepared, splits: Mapping[str, Split]) -> Phase:
    """What learns in a race, with the epochs that 48 steps take."""
    return _PHASE.with_epochs_for(math.ceil(len(splits["train"]) / prepared.config.train.batch_size))


def subset(split: Split, rows: IntN) -> Split:
    """Some rows of a split."""
    labels = {name: values[rows] for name, values in split.labels.items()}
    return Split(split.name, split.tokens.take(rows), labels)


def run_race(prepared: Prepared, splits: dict[str, Split], *, show: Callable[[Event], None]) -> Race:
    """Trains a copy for a short while, from solved heads on.

    Args:
        prepared: of the run whose plan is sought.
        splits: as `race_splits` draws them.
        show: called with every event as it happens.
    """
    show({"event": "part", "name": "a race with every layer awake"})
    model = copy.deepcopy(prepared.model)
    before = _train(prepared, model, Phase(name="heads", solver="probe"), splits, show=show)
    splits = repeated(prepared, splits)
    phase = race_phase(prepared, splits)
    after = _train(prepared, model, phase, splits, show=show)
    return Race(
        before=float(before["validation"]["score"]),
        after=float(after["validation"]["score"]),
        steps=phase.epochs * math.ceil(len(splits["train"]) / prepared.config.train.batch_size),
        num_held=len(splits["validation"]),
    )


def _train(
    prepared: Prepared,
    model: MultitaskModel,
    phase: Phase,
    splits: dict[str, Split],
    *,
    show: Callable[[Event], None],
) -> dict[str, Any]:
    """Trains the model through a phase; returns what a report says of it."""
    settings = prepared.config.train
    with tempfile.TemporaryDirectory() as name, Journal(None, show=show) as journal:
        trainer = Trainer(
            model,
            splits,
            (phase,),
            settings,
            activations=Activations(model.backbone, precision=prepared.precision, device=prepared.device),
            journal=journal,
            commits=Commits(Path(name), settings=settings, fingerprint={}),
            state=State(),
            moments={},
            started=time.monotonic(),
            ranks=Ranks(),
        )
        trainer.run()
    return trainer.state.reports[0]


def drawn(prepared: Prepared, most: Mapping[str, int], *, mean_tokens: int | None = None) -> dict[str, Split]:
    """Random rows of each split named, in random order, the same for the same seed.

    Args:
        prepared: with the splits.
        most: rows, by split.
        mean_tokens: so many tokens for each of these rows, together, are enough; at least a row is taken.
    """
    found = {}
    for name, number in most.items():
        split = prepared.splits[name]
        generator = np.random.default_rng(prepared.config.train.seed)
        rows = generator.permutation(len(split))[:number]
        if mean_tokens is not None:
            tokens = np.cumsum(split.tokens.length_N[rows])
            rows = rows[: max(1, int(np.searchsorted(tokens, mean_tokens * number, side="right")))]
        found[name] = subset(split, rows)
    return found
