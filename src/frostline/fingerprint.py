"""What must be the same for a run to go on exactly, as hashes."""

from __future__ import annotations

import hashlib
import json

import torch

from frostline.plan.freeze import tensor_hashes
from frostline.prepare import Prepared

# Training settings that change no step of a run.
_NO_MATTER = {"save_seconds", "keep_last", "device", "each_task_alone", "activations", "profile"}


def fingerprint(prepared: Prepared) -> dict[str, str]:
    """Hashes of what must be the same for a run to go on exactly, by what a message calls it."""
    data = hashlib.sha256()
    for name, split in prepared.splits.items():
        data.update(name.encode() + split.tokens.ids_T.tobytes() + split.tokens.offset_N1.tobytes())
        for task, labels in split.labels.items():
            data.update(task.encode() + labels.tobytes())
    weights = hashlib.sha256()
    for name, digest in tensor_hashes(prepared.model.named_parameters()).items():
        weights.update(f"{name} {digest} ".encode())
    no_matter = _NO_MATTER if prepared.device.type == "cuda" else _NO_MATTER | {"cuda_graphs"}
    settings = prepared.config.train.model_dump(mode="json", exclude=no_matter)
    settings["max_bytes"] = prepared.config.train.activations.max_bytes
    tasks = {name: task.model_dump(mode="json") for name, task in prepared.model.tasks.items()}
    parts = {
        "data": data.hexdigest(),
        "pretrained weights": weights.hexdigest(),
        "device": prepared.device.type,
        "plan": json.dumps([phase.model_dump(mode="json") for phase in prepared.phases]),
        "tasks": json.dumps(tasks),
        "model": prepared.config.model.model_dump_json(),
        "training settings": json.dumps(settings),
        "number of threads": str(torch.get_num_threads()),
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}
