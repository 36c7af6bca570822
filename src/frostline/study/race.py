"""A short race: a few rows and steps from solved heads on, with every layer awake.

Trains on a copy; the prepared run is left as it is.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Sequence
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

_FEWEST_ROWS, _MOST_ROWS = 1000, 2000
_FEWEST_STEPS, _EPOCHS = 48, 3  # fewer only show that heads and layers have to find each other again


def race_rows(num_rows: int) -> int:
    """Training rows of a race: a tenth, but at least 1,000 and at most 2,000."""
    return min(num_rows, max(_FEWEST_ROWS, min(_MOST_ROWS, num_rows // 10)))


def race_phase(num_rows: int, *, batch_size: int) -> Phase:
    """What learns in a race, given the training rows of the run: every layer, for at least 48 steps."""
    steps = math.ceil(race_rows(num_rows) / batch_size)
    epochs = max(_EPOCHS, math.ceil(_FEWEST_STEPS / steps))
    return Phase(name="race", top_layers="all", backbone_lr=2e-4, layer_decay=0.9, epochs=epochs)


def subset(split: Split, rows: IntN) -> Split:
    """Some rows of a split."""
    labels = {name: values[rows] for name, values in split.labels.items()}
    return Split(split.name, split.tokens.take(rows), labels)


def race(
    prepared: Prepared, phase: Phase, splits: dict[str, Split], *, show: Callable[[Event], None]
) -> tuple[float, float]:
    """Validation scores of solved heads, and after a phase.

    Args:
        prepared: of the run whose plan is sought.
        phase: as `race_phase` makes it.
        splits: the rows of the race.
        show: called with every event as it happens.
    """
    show({"event": "part", "name": "a race with every layer awake"})
    reports = _train(prepared, (Phase(name="heads", solver="probe"), phase), splits, show=show)
    first, second = (float(report["validation"]["score"]) for report in reports)
    return first, second


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


def drawn(prepared: Prepared, *, train: int, validation: int) -> dict[str, Split]:
    """Random rows of the two splits in random order, at most so many of each, the same for the same seed."""
    found = {}
    for name, most in (("train", train), ("validation", validation)):
        split = prepared.splits[name]
        generator = np.random.default_rng(prepared.config.train.seed)
        found[name] = subset(split, generator.permutation(len(split))[:most])
    return found
