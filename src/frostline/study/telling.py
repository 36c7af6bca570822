"""The most telling errors: what the recommended model is surest of and wrong about.

Where every other plan is wrong too, the label may be; where another plan is right, that is what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frostline.data.labels import is_labelled
from frostline.model.heads import decisions, probabilities
from frostline.study.significance import Answers

MOST = 10


def _answer(answers: Answers, task: str, row: int) -> int:
    """Number of the label that a row got."""
    described = answers.tasks[task]
    return int(decisions(described, probabilities(described, answers.logits[task][row : row + 1]))[0])


def telling_errors(answers: Mapping[str, Sequence[Answers]], chosen: str) -> list[dict[str, Any]]:
    """Rows that the chosen scenario is surest of and wrong about, the surest first.

    Args:
        answers: by scenario, of each seed; the first counts.
        chosen: the scenario.

    Returns:
        At most ten: `row`, `task`, `label`, `answer`, `probability`, and `others`: the answers of the other
        scenarios. Classification alone.
    """
    found: list[dict[str, Any]] = []
    first = {name: runs[0] for name, runs in answers.items()}
    for name, task in first[chosen].tasks.items():
        if task.kind != "classification":
            continue
        labels = first[chosen].labels[name]
        values_NC = probabilities(task, first[chosen].logits[name])
        answer_N = decisions(task, values_NC)
        wrong = np.flatnonzero(is_labelled(labels) & (answer_N != labels))
        sure = wrong[np.argsort(-values_NC[wrong].max(axis=1), kind="stable")][:MOST]
        for row in sure.tolist():
            others = {
                other: one.tasks[name].labels[_answer(one, name, row)]
                for other, one in first.items()
                if other != chosen
            }
            label, answer = task.labels[int(labels[row])], task.labels[int(answer_N[row])]
            about = {"row": row, "task": name, "label": label, "answer": answer}
            found.append({**about, "probability": float(values_NC[row].max()), "others": others})
    return sorted(found, key=lambda error: -error["probability"])[:MOST]
