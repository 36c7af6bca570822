"""What a model made of a file's texts so far, kept beside the output until that is whole, so that a command
that was killed goes on where it stopped.

    .<output>-parts/
      00000012.safetensors     the numbers of one block of rows, and of what texts and by what they were made

A part is taken when model, machine and texts are those of now, so it may lie there as long as it likes.
"""

from __future__ import annotations

import glob
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from frostline.atomic import new_file
from frostline.errors import RunError
from frostline.inference.model import Model
from frostline.locks import held
from frostline.model.device import forward_tokens, machine_facts
from frostline.plan.freeze import tensor_hash

Numbers = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


class Parts:
    """The parts of one output."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._key = key

    def numbers(
        self, block: int, texts: Sequence[str], compute: Callable[[Sequence[str]], Numbers]
    ) -> Numbers:
        """What `compute` makes of the texts of a block, from an earlier process where it got that far."""
        place = self.folder / f"{block:08d}.safetensors"
        about = {"key": self._key, "texts": _digest(texts)}
        found = _read(place, about)
        if found is None:
            found = compute(texts)
            with new_file(place) as temporary:
                save_file({name: np.ascontiguousarray(v) for name, v in found.items()}, temporary, about)
        return found


@contextmanager
def parts_of(target: Path, model: Model) -> Iterator[Parts]:
    """The parts of an output, removed when the block ends well.

    Raises:
        RunError: another process is writing this output, or its folder may not be written.
    """
    folder = _folder(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error.strerror}).") from error
    busy = f"{target}: another process is writing it. Wait, or give another output."
    with held(folder / ".lock", busy=busy):
        try:
            _remove_half_written(target)
            yield Parts(folder, _key(model))
            shutil.rmtree(folder)
        finally:
            if not has_parts(target):
                shutil.rmtree(folder, ignore_errors=True)


def has_parts(target: Path) -> bool:
    """Whether an unfinished command left something from which the next one goes on."""
    return any(_folder(target).glob("*.safetensors"))


def _folder(target: Path) -> Path:
    return target.parent / f".{target.name}-parts"


def _remove_half_written(target: Path) -> None:
    """Removes the outputs of killed processes, which `new_file` gave names of eight letters."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.{'?' * 8}"):
        left.unlink(missing_ok=True)


def _key(model: Model) -> str:
    """Of everything that changes a bit of what the model says of a text."""
    backbone, tasks = model.network.backbone, model.tasks.values()
    tokenizer = getattr(backbone.tokenizer, "backend_tokenizer", None)
    about = (
        *machine_facts(model.device), model.precision.format, forward_tokens(model.device),
        backbone.max_length, backbone.prompt, tokenizer.to_str() if tokenizer else "",
        *(task.model_dump_json() for task in tasks),
    )  # fmt: skip
    digest = hashlib.blake2b(repr(about).encode(), digest_size=20)
    for name, tensor in model.network.state_dict().items():
        digest.update(f"{name} {tensor_hash(tensor)} ".encode())
    return digest.hexdigest()


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _read(place: Path, about: dict[str, str]) -> Numbers | None:
    try:
        with safe_open(place, "numpy") as stored:
            if stored.metadata() != about:
                return None
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no iterator)
    except (OSError, SafetensorError):
        return None
