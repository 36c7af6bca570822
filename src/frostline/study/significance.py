"""How sure a difference between scenarios is: a bootstrap over rows and seeds at once.

In each of 1,000 draws the rows of the split are drawn again, the same for every scenario, and so are the
seeds. Knows logits and labels, not models.

Shapes: N rows, R draws, S seeds, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.data.labels import Task, is_labelled
from frostline.training.intervals import NUM_DRAWS, answer_matrix, scores_of_draws

Matrix = np.ndarray[Any, np.dtype[Any]]
_MOST_CELLS = 4_000_000


@dataclass(frozen=True)
class Answers:
    """What one run answered on a split.

    Attributes:
        tasks: as the finished model has them, with temperatures and thresholds.
        logits: (N, C) of each.
        labels: as `encode_labels` made them.
    """

    tasks: Mapping[str, Task]
    logits: Mapping[str, Matrix]
    labels: Mapping[str, Matrix]

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.labels.values())))


@dataclass(frozen=True)
class Draws:
    """Main scores of one scenario in every draw: of each task (R,), and of their mean, seeds averaged."""

    tasks: dict[str, Matrix]

    @property
    def mean(self) -> Matrix:
        """(R,), mean over tasks."""
        return np.asarray(np.mean(list(self.tasks.values()), axis=0))


def draw_scores(scenarios: Mapping[str, Sequence[Answers]], *, seed: int = 0) -> dict[str, Draws]:
    """Main scores of every scenario under the same draws.

    Args:
        scenarios: by name, one or more seeds each; a scenario without chance in it has one. All have the
            same rows in the same order.
        seed: of the draws.
    """
    first = next(iter(scenarios.values()))[0]
    tasks = [name for name in first.tasks if is_labelled(first.labels[name]).any()]
    generator = np.random.default_rng(seed)
    counts = sorted({len(runs) for runs in scenarios.values()})
    seeds_RS = {count: generator.integers(count, size=(NUM_DRAWS, count)) for count in counts}
    found: dict[str, dict[str, list[Matrix]]] = {name: {task: [] for task in tasks} for name in scenarios}
    block = max(1, min(NUM_DRAWS, _MOST_CELLS // first.num_rows))
    for start in range(0, NUM_DRAWS, block):
        size = min(block, NUM_DRAWS - start)
        weights_RN = generator.multinomial(first.num_rows, [1 / first.num_rows] * first.num_rows, size=size)
        for name, runs in scenarios.items():
            for task in tasks:
                score_RS = np.stack([_scores(run, task, weights_RN) for run in runs], axis=1)
                picked_RS = np.take_along_axis(score_RS, seeds_RS[len(runs)][start : start + size], axis=1)
                found[name][task].append(picked_RS.mean(axis=1))
    return {
        name: Draws({task: np.concatenate(parts) for task, parts in by_task.items()})
        for name, by_task in found.items()
    }


def _scores(run: Answers, name: str, weights_RN: Matrix) -> Matrix:
    task, labels = run.tasks[name], run.labels[name]
    known = is_labelled(labels)
    truth, answer = labels[known].reshape(known.sum(), -1), answer_matrix(task, run.logits[name][known])
    found = scores_of_draws(task, truth.astype(np.float64), answer, weights_RN[:, known])
    return np.asarray(found[task.main_score])
