"""Make a model obey a phase, and prove that it did.

Frozen means: no gradient, eval mode, no part in the optimizer, and the same bytes afterwards. This is the
only module that changes which parameters learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from frostline.errors import FreezeError, listing
from frostline.model.multitask import MultitaskModel
from frostline.plan.phase import Phase

_HASHED_AT_ONCE = 8


@dataclass(frozen=True)
class Frost:
    """What was frozen at a moment: a hash of every frozen tensor, by name."""

    hashes: dict[str, str]

    @property
    def num_tensors(self) -> int:
        """How many tensors are frozen."""
        return len(self.hashes)

    def verify(self, model: MultitaskModel) -> None:
        """Raises FreezeError when a frozen tensor is not, to the byte, what it was."""
        now = _hashes(model, set(self.hashes))
        moved = [name for name, digest in self.hashes.items() if now.get(name) != digest]
        if moved:
            raise FreezeError(
                f"{len(moved)} frozen tensors moved: {listing(moved)}. The run is not to be trusted."
            )


def freeze_to(model: MultitaskModel, phase: Phase, *, depth: int) -> Frost:
    """Sets what learns and what is frozen in a phase, and takes the hashes to prove it later.

    Changes `requires_grad`, gradients and modes of the model, no weight. A head that the phase gives stages
    of its own gets them here, before those that it shared move; one that has some gets what else will move.

    Args:
        model: changed.
        phase: says which heads are frozen.
        depth: one of the phase's frozen depths.

    Raises:
        FreezeError: nothing would learn.
    """
    model.frozen_depth = depth
    model.frozen_heads = frozenset(phase.frozen_heads)
    forked = phase.exposed_heads if phase.protect == "fork" else ()
    for name in model.tasks:
        if name in forked or model.fork_of(name) is not None:
            model.fork(name, depth=depth)
    learning = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not model.is_frozen(name))
        parameter.grad = None
        learning += parameter.requires_grad
    if not learning:
        raise FreezeError(f"phase '{phase.name}': nothing learns.")
    model.train()
    return Frost(_hashes(model, {name for name, p in model.named_parameters() if not p.requires_grad}))


def _hashes(model: MultitaskModel, names: set[str]) -> dict[str, str]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wanted = names | {name for name, _ in model.named_buffers()}
    return tensor_hashes((name, tensors[name]) for name in sorted(wanted) if name in tensors)


def tensor_hashes(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """`tensor_hash` of each tensor by its name, in order, some at a time."""
    named = dict(tensors)
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        return dict(zip(named, pool.map(tensor_hash, named.values()), strict=True))


def tensor_hash(tensor: torch.Tensor) -> str:
    """BLAKE2b of a tensor's bytes, in hex; its type and shape are part of it."""
    digest = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=16)
    if tensor.numel():  # an empty one may have a stride of 0, which cannot be viewed as bytes
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
