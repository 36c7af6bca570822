"""Several processes that train one model (`torchrun`): who is who, and what they add up and tell each other.

Every process holds the whole model and all labels, computes the gradient of its share of each batch, and adds
it to that of the others, so that all take the same step; there is nothing to wrap again when layers wake.
With one process every function here does nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed

from frostline.data.table import IntN
from frostline.errors import ConfigError, FreezeError, TrainingError
from frostline.plan.freeze import tensor_hashes


class Ranks:
    """This process among those that train one model.

    Attributes:
        rank: number of this process; 0 writes files and talks to people.
        size: how many there are.
        local_rank: number of this process on its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank

    @property
    def is_first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def share(self, rows: IntN) -> IntN:
        """This process's rows of a batch, which may be none."""
        return rows[self.rank :: self.size]

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces each tensor by its sum over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        distributed.all_reduce(flat)
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()

    def add_up_arrays(
        self, arrays: dict[str, np.ndarray[Any, Any]], *, device: torch.device
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The sum of each array over all processes; exact where all but one hold zeros."""
        if self.size == 1:
            return arrays
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        self.add_up(list(tensors.values()))
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    def is_any(self, value: bool, *, device: torch.device) -> bool:
        """Whether the value is true in some process."""
        if self.size == 1:
            return value
        flag = torch.tensor([float(value)], device=device)
        distributed.all_reduce(flag)
        return bool(flag.item())

    def tell(self, value: Any) -> Any:
        """The value of the first process, in all of them; anything that JSON holds."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        self._broadcast(length)
        if not self.is_first:
            data = torch.empty(int(length), dtype=torch.uint8)
        self._broadcast(data)
        return json.loads(bytes(data.numpy()))

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Gives each tensor the value that it has in the first process."""
        for tensor in tensors if self.size > 1 else ():
            distributed.broadcast(tensor, src=0)

    def _broadcast(self, tensor: torch.Tensor) -> None:
        """`broadcast` of a tensor on the CPU, also where a caller has opened NCCL alone."""
        if distributed.get_backend() == "nccl":
            moved = tensor.cuda()
            distributed.broadcast(moved, src=0)
            tensor.copy_(moved)
        else:
            distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size == 1:
            return
        if distributed.get_backend() == "nccl":
            distributed.barrier()
        else:
            distributed.all_reduce(torch.zeros(1))  # `barrier` would open a GPU, where there is one

    def check_device(self, device: torch.device) -> None:
        """Raises ConfigError when the processes of this machine would have to share a GPU.

        Args:
            device: what the run asks for.
        """
        if self.size == 1 or device.type != "cuda":
            return
        if device.index is not None:
            raise ConfigError(f"train.device: {device} is one GPU for all {self.size} processes. Take cuda.")
        num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if num_here > torch.cuda.device_count():
            raise ConfigError(
                f"{num_here} processes were started on a machine with {torch.cuda.device_count()} GPU(s). "
                "Start one for each, or set train.device = 'cpu'."
            )

    def check_same(self, model: torch.nn.Module) -> None:
        """Raises FreezeError when a parameter is not, to the bit, what it is in the first process."""
        if self.size == 1:
            return
        mine = tensor_hashes(model.named_parameters())
        differing = [name for name, digest in self.tell(mine).items() if mine.get(name) != digest]
        if self.is_any(bool(differing), device=next(model.parameters()).device):
            raise FreezeError(
                f"the processes' weights have drifted apart in process {self.rank}: {differing}."
            )


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that `torchrun` started, or this one alone.

    Raises:
        TrainingError: another process of the run has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or distributed.is_initialized():
        is_there = distributed.is_initialized()
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), _local()) if is_there else Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        # More processes than GPUs may train on processors; `check_device` refuses to share one.
        torch.cuda.set_device(_local() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    # A dead process is noticed by torchrun and by its connection; waiting for one at work is no error.
    distributed.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield Ranks(distributed.get_rank(), size, _local())
    except RuntimeError as error:
        if "peer" not in str(error) and "NCCL" not in str(error):
            raise
        raise TrainingError(
            f"process {os.environ.get('RANK')} of {size} has lost another one. The last checkpoint is kept; "
            f"resume the run. ({str(error).splitlines()[0]})"
        ) from error
    finally:
        distributed.destroy_process_group()


def _local() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
