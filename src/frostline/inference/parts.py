"""What a model made of a file's texts so far, kept beside the output until that is whole, so that a command
that was killed goes on where it stopped.

    .<output>-parts/
      00000012.safetensors     the numbers of one block of rows, and of what texts and by what they were made

A part is taken when model, machine and texts are those of now, so it may lie there as long as it likes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from frostline.atomic import new_file, remove_half_written
from frostline.data.token_cache import texts_key, tokenizer_facts
from frostline.errors import RunError
from frostline.inference.model import Model
from frostline.locks import held
from frostline.model.device import forward_tokens, machine_facts
from frostline.plan.freeze import tensor_hash, tensor_hashes

_FORMAT = 2  # raised when the same model and texts would give other bits
KEPT = "What was done is kept: the same command goes on from there."
Numbers = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


class Parts:
    """The parts of one output."""

    def __init__(self, folder: Path, *, about: str) -> None:
        self.folder = folder
        self._about = about

    def numbers(
        self, block: int, texts: Sequence[str], compute: Callable[[Sequence[str]], Numbers]
    ) -> Numbers:
        """What `compute` makes of the texts of a block, from an earlier process where it got that far."""
        place, key = self.folder / f"{block:08d}.safetensors", texts_key(self._about, texts)
        found = _read(place, key)
        if found is None:
            found = {name: np.ascontiguousarray(values) for name, values in compute(texts).items()}
            with new_file(place) as temporary:
                save_file(found, temporary, {"key": key, "digest": _digest(found)})
        return found


@contextmanager
def parts_of(target: Path, model: Model, *, kind: str) -> Iterator[Parts]:
    """The parts of an output, removed when the block ends well.

    Args:
        target: the output.
        model: what makes it.
        kind: of the numbers.

    Raises:
        RunError: another process is writing this output, or its folder may not be written.
    """
    folder = _folder(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error.strerror}). Give another output.") from error
    busy = f"{target}: another process is writing it. Wait, or give another output."
    with held(folder / ".lock", busy=busy):
        is_done = False
        try:
            remove_half_written(target)
            yield Parts(folder, about=f"{_FORMAT} {kind} {_facts(model)}")
            is_done = True
        except Exception as error:
            if has_parts(target):
                error.add_note(KEPT)
            raise
        finally:
            if is_done or not has_parts(target):
                shutil.rmtree(folder, ignore_errors=True)


def has_parts(target: Path) -> bool:
    """Whether an unfinished command left something from which the next one goes on."""
    return any(_folder(target).glob("*.safetensors"))


def _folder(target: Path) -> Path:
    return target.parent / f".{target.name}-parts"


def _facts(model: Model) -> str:
    """Everything that changes a bit of what the model says of a text."""
    backbone = model.network.backbone
    about = (
        version("frostline"), *machine_facts(model.device), model.precision.format,
        forward_tokens(model.device), backbone.transformer.config.to_json_string(), repr(model.network),
        *(task.model_dump_json() for task in model.tasks.values()),
        tokenizer_facts(backbone.tokenizer, max_length=backbone.max_length, prompt=backbone.prompt),
    )  # fmt: skip
    digest = hashlib.blake2b(repr(about).encode(), digest_size=20)
    for name, one in tensor_hashes(model.network.state_dict().items()).items():
        digest.update(f"{name} {one} ".encode())
    return digest.hexdigest()


def _digest(numbers: Numbers) -> str:
    return " ".join(f"{name} {tensor_hash(torch.from_numpy(numbers[name]))}" for name in sorted(numbers))


def _read(place: Path, key: str) -> Numbers | None:
    """A part that is whole and of this key."""
    try:
        with safe_open(place, "numpy") as stored:
            about = stored.metadata() or {}
            if about.get("key") != key:
                return None
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no iterator)
            return found if about.get("digest") == _digest(found) else None
    except (OSError, SafetensorError):
        return None
