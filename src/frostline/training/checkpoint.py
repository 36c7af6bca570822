"""Commit a run's state whole, verify it by hash, find the newest that can be trusted.

    checkpoints/step-00001200-phase-01/
      weights.safetensors     every parameter that has learned so far, by name
      optimizer.safetensors   moments by parameter name
      best.safetensors        the phase's best weights, where they are not the present ones
      references.safetensors  what frozen heads answered before the layers under them learned
      state.json              where the run stands
      manifest.json           a hash of each file above

A folder appears under its name by one rename, after its files are on the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from frostline.atomic import file_hash, new_folder, write_json
from frostline.errors import CheckpointError

FORMAT = 1
Tensors = dict[str, torch.Tensor]


@dataclass
class Checkpoint:
    """The state of a run at a step."""

    state: dict[str, Any]
    weights: Tensors
    moments: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    references: Tensors = field(default_factory=dict)

    def parts(self) -> dict[str, Tensors]:
        """Its tensors by the name of their file."""
        return {
            "weights": self.weights,
            "optimizer": self.moments,
            "best": self.best,
            "references": self.references,
        }


def save_checkpoint(place: Path, checkpoint: Checkpoint, *, keep_last: int) -> None:
    """Commits a checkpoint under its final name and removes all beside it but the newest `keep_last`.

    Raises:
        RunError: the disk is full or may not be written; older checkpoints are untouched.
    """
    with new_folder(place) as temporary:
        for name, tensors in checkpoint.parts().items():
            if tensors:
                cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                save_file(cpu, temporary / f"{name}.safetensors")
        write_json(temporary / "state.json", {"format": FORMAT, **checkpoint.state})
        hashes = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / "manifest.json", {"format": FORMAT, "sha256": hashes})
    for old in _newest_first(place.parent)[keep_last:]:
        shutil.rmtree(old, ignore_errors=True)


def load_newest(folder: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest checkpoint that is whole, and what is wrong with each newer one.

    Returns:
        None without any checkpoint; the damaged ones by folder, with a sentence.

    Raises:
        CheckpointError: there are checkpoints, and none can be trusted.
    """
    damaged: dict[Path, str] = {}
    for place in _newest_first(folder):
        try:
            return _load(place), damaged
        except CheckpointError as error:
            damaged[place] = str(error)
    if damaged:
        raise CheckpointError(
            f"no checkpoint can be trusted: {' '.join(damaged.values())} Train anew with --overwrite."
        )
    return None, {}


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda path: path.name, reverse=True)


def _load(place: Path) -> Checkpoint:
    try:
        manifest = json.loads((place / "manifest.json").read_text("utf-8"))
        hashes: Mapping[str, str] = manifest["sha256"]
        for name, digest in hashes.items():
            if file_hash(place / Path(name).name) != digest:
                raise CheckpointError(f"{place}: '{name}' is damaged (its hash differs).")
        state = json.loads((place / "state.json").read_text("utf-8"))
        if state["format"] > FORMAT:
            raise CheckpointError(f"{place}: is of format {state['format']}; upgrade frostline.")
        parts = {
            name: load_file(place / f"{name}.safetensors") if f"{name}.safetensors" in hashes else {}
            for name in ("weights", "optimizer", "best", "references")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{place}: is damaged ({error}).") from error
    return Checkpoint(state, parts["weights"], parts["optimizer"], parts["best"], parts["references"])


def optimizer_moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """AdamW's state by parameter name: `<name>|exp_avg`, `|exp_avg_sq`, `|step`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}|{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer, moments: Tensors) -> None:
    """Puts moments back by name, as `optimizer_moments` gave them; the optimizer is changed.

    Raises:
        CheckpointError: moments of a parameter that does not learn now.
    """
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    learning = {name: p for name, p in model.named_parameters() if id(p) in owned}
    for key, value in moments.items():
        name, _, part = key.rpartition("|")
        if name not in learning:
            raise CheckpointError(
                f"the checkpoint trains '{name}', which this plan does not. Train anew with --overwrite."
            )
        # AdamW counts its steps on the CPU unless it is told otherwise; fused, beside the parameter.
        optimizer.state[learning[name]][part] = value.to(learning[name].device)


def restore_weights(model: torch.nn.Module, weights: Tensors) -> None:
    """Copies weights into the model by name.

    Raises:
        CheckpointError: a weight that the model does not have, or has in another shape.
    """
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise CheckpointError(
                f"the checkpoint's weight '{name}' does not fit this model. Train anew with --overwrite."
            )
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
