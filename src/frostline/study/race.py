"""A short race: a few rows and steps from solved heads on, with every layer awake.

Trains on a copy; the prepared run is left as it is.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.data.batches import Split
from frostline.data.table import IntN
from frostline.plan.phase import Phase
from frostline.prepare import Prepared
from frostline.training.activations import Activations
from frostline.training.commits import Commits
from frostline.training.journal import Event, Journal
from frostline.training.loop import Trainer
from frostline.training.ranks import Ranks
from frostline.training.state import State

_FEWEST_TEXTS, _MOST_TEXTS = 1000, 2000
_HELD_ROWS = 500
# Of batches of 64, three times 1,000 texts are 48 steps; fewer only show that heads and layers have to find
# each other again (docs/experiments.md).
RACE = Phase(name="race", top_layers="all", backbone_lr=2e-4, layer_decay=0.9, epochs=3)


def race_splits(prepared: Prepared) -> dict[str, Split]:
    """What a race learns from and is scored on, in random order, the same for the same seed.

    A tenth of the training rows, but at least 1,000 texts, for which few rows are taken several times, and at
    most 2,000; and at most 500 validation rows.
    """
    train, generator = prepared.splits["train"], np.random.default_rng(prepared.config.train.seed)
    size = max(_FEWEST_TEXTS, min(_MOST_TEXTS, len(train) // 10))
    rows = np.resize(generator.permutation(len(train)), size)
    return {"train": subset(train, rows), **drawn(prepared, {"validation": _HELD_ROWS})}


def subset(split: Split, rows: IntN) -> Split:
    """Some rows of a split."""
    labels = {name: values[rows] for name, values in split.labels.items()}
    return Split(split.name, split.tokens.take(rows), labels)


def race(
    prepared: Prepared, splits: dict[str, Split], *, show: Callable[[Event], None]
) -> tuple[float, float, int]:
    """Validation scores of solved heads and after a race, and its steps.

    Args:
        prepared: of the run whose plan is sought.
        splits: as `race_splits` draws them.
        show: called with every event as it happens.
    """
    show({"event": "part", "name": "a race with every layer awake"})
    before, after = _train(prepared, (Phase(name="heads", solver="probe"), RACE), splits, show=show)
    steps = RACE.epochs * math.ceil(len(splits["train"]) / prepared.config.train.batch_size)
    return float(before["validation"]["score"]), float(after["validation"]["score"]), steps


def _train(
    prepared: Prepared, phases: Sequence[Phase], splits: dict[str, Split], *, show: Callable[[Event], None]
) -> list[dict[str, Any]]:
    model = copy.deepcopy(prepared.model)
    settings = prepared.config.train
    with tempfile.TemporaryDirectory() as name, Journal(None, show=show) as journal:
        trainer = Trainer(
            model,
            splits,
            phases,
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
    return trainer.state.reports


def drawn(prepared: Prepared, most: Mapping[str, int], *, most_tokens: int = 10**9) -> dict[str, Split]:
    """Random rows of each split named, in random order, the same for the same seed.

    Args:
        prepared: with the splits.
        most: rows, by split.
        most_tokens: of a row on average, so that long texts are fewer.
    """
    found = {}
    for name, number in most.items():
        split = prepared.splits[name]
        generator = np.random.default_rng(prepared.config.train.seed)
        rows = generator.permutation(len(split))[:number]
        tokens = np.cumsum(split.tokens.length_N[rows])
        fitting = int(np.searchsorted(tokens, most_tokens * number, side="right"))
        found[name] = subset(split, rows[: max(1, fitting)])
    return found
