"""`answers.safetensors`: what a finished model answers on validation and test, beside the labels.

With it, runs are compared row by row without their models. Knows numbers, not texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from frostline.atomic import new_file
from frostline.data.batches import Split
from frostline.errors import RunError

ANSWERS = "answers.safetensors"
Matrix = np.ndarray[Any, np.dtype[Any]]


def save_answers(
    path: Path, answers: Mapping[str, Mapping[str, Matrix]], splits: Mapping[str, Split]
) -> None:
    """Writes the file whole.

    Args:
        path: of the file.
        answers: by split, the logits (N, C) of every task.
        splits: with the labels, as `encode_labels` made them.
    """
    tensors: dict[str, Matrix] = {}
    for split, logits in answers.items():
        for task, values in logits.items():
            tensors[f"{split}.logits.{task}"] = np.ascontiguousarray(values)
            tensors[f"{split}.labels.{task}"] = np.ascontiguousarray(splits[split].labels[task])
    with new_file(path) as temporary:
        save_file(tensors, temporary)


def load_answers(path: Path, *, split: str) -> tuple[dict[str, Matrix], dict[str, Matrix]]:
    """Logits and labels of every task on a split; empty where the run had no such split.

    Raises:
        RunError: no such file, or a damaged one.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: holds no answers ({error}). Train this run again.") from error
    logits, labels = (
        {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        for start in (f"{split}.logits.", f"{split}.labels.")
    )
    return logits, labels
