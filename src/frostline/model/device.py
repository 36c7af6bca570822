"""Where a model runs, in which number format, how many tokens at once, and in which order a GPU adds up.

Decided by measurement where that is possible, and said. Weights that learn stay float32; bf16 is the format
of the matrix products (autocast), or of a copy made for a forward pass.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

import torch

from frostline.errors import ConfigError
from frostline.model.cores import threads
from frostline.settings import AskedFormat

Format = Literal["bf16", "fp32"]

# Read when cuBLAS starts: without one of these, its sums may take another order each time (`repeatable`).
_WORKSPACE, _WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
os.environ.setdefault(_WORKSPACE, _WORKSPACES[0])

_WORTH = 1.3
_PROBE_ROWS = 128
_PROBE_WIDTHS = (256, 512)
_PROBE_REPEATS = 400
_PROBE_SECONDS = 0.1  # for each format: longer than another process keeps a core
_CPU_TOKENS = 1024
# Of a training step in bf16: few of its batches then need two parts (docs/experiments.md).
_CPU_STEP_TOKENS = 2048
# 16,384 tokens left an H200 waiting for its kernels to be launched: 31,600 texts/s in a BERT-base forward
# pass, 72,000 with four times as many (docs/scale.md).
_GPU_TOKENS = 16_384
_LARGE_GPU_TOKENS, _LARGE_GPU_BYTES = 65_536, 32 * 2**30


@dataclass(frozen=True)
class Precision:
    """A number format and why it was taken."""

    format: Format
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of the matrix products."""
        return torch.bfloat16 if self.format == "bf16" else torch.float32

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """A context in which matrix products are of this format."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.format == "bf16")


def choose_device(asked: str) -> torch.device:
    """The device asked for, or with 'auto' a GPU if there is one.

    Raises:
        ConfigError: a device that torch does not know or this machine does not have.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):  # and names every kind that torch was ever built for
            reason = "no kind of device"
        raise ConfigError(f"device: '{asked}' cannot be used here ({reason}). Take auto or cpu.") from error
    return device


def choose_precision(asked: AskedFormat, *, device: torch.device, width: int) -> Precision:
    """The format asked for, or with 'auto' the faster one on this device.

    Args:
        asked: 'auto' measures matrix products of this width; bf16 is taken when 1.3 times as fast.
        device: where the model runs.
        width: D of the backbone.

    Raises:
        ConfigError: a format that is none of these.
    """
    if asked not in get_args(AskedFormat):
        raise ConfigError(f"precision: '{asked}' is none of {', '.join(get_args(AskedFormat))}.")
    if asked != "auto":
        return Precision(asked, "asked for")
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision("bf16" if supported else "fp32", f"this GPU has {'' if supported else 'no '}bf16")
    if device.type != "cpu":
        return Precision("fp32", f"bf16 is not measured on {device.type}")
    fp32, bf16 = _gflops(width)
    taken: Format = "bf16" if bf16 >= _WORTH * fp32 else "fp32"
    return Precision(taken, f"measured on one core: bf16 {bf16:.0f}, fp32 {fp32:.0f} GFLOP/s")


def _gflops(width: int) -> tuple[float, float]:
    """Best rates of fp32 and bf16 in matrix products of a feed-forward layer's shape.

    Measured in turn, many times and on one thread: two that wait for each other on cores with other work show
    the work, not the format.
    """
    width = min(max(width, _PROBE_WIDTHS[0]), _PROBE_WIDTHS[1])
    shapes = ((_PROBE_ROWS, width), (width, 4 * width))
    spent: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    sides = {dtype: [torch.ones(shape, dtype=dtype) for shape in shapes] for dtype in spent}
    with threads(1):
        for _ in range(_PROBE_REPEATS):
            for dtype, seconds in spent.items():
                if len(seconds) < 2 or sum(seconds) < _PROBE_SECONDS:
                    start = time.perf_counter()
                    torch.matmul(*sides[dtype])
                    seconds.append(time.perf_counter() - start)
    flops = 2 * _PROBE_ROWS * width * 4 * width
    fp32, bf16 = (flops / min(seconds) / 1e9 for seconds in spent.values())
    return fp32, bf16


def machine_facts(device: torch.device) -> tuple[str, ...]:
    """What else may change the last bits of a forward pass: versions, processor or GPU, threads."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    processor = (platform.machine(), torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads()))
    return (torch.__version__, version("transformers"), device.type, gpu, *processor)


def forward_tokens(device: torch.device) -> int:
    """Padded tokens to compute at once without gradient: what fits a core's cache, or fills a GPU."""
    if device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= _LARGE_GPU_BYTES:
        return _LARGE_GPU_TOKENS
    return _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS


def step_tokens(device: torch.device, numbers: Format) -> int:
    """Padded tokens to compute at once with gradient, for which a GPU has less room."""
    if device.type != "cpu":
        return _GPU_TOKENS
    return _CPU_STEP_TOKENS if numbers == "bf16" else _CPU_TOKENS


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, every sum is taken in the same order each time, as it is on a CPU.

    An operation that has no such order raises RuntimeError; those of the backbones and heads here all have.

    Raises:
        ConfigError: the environment tells cuBLAS to add up in any order.
    """
    if device.type != "cuda":
        yield
        return
    if os.environ.get(_WORKSPACE) not in _WORKSPACES:
        raise ConfigError(
            f"{_WORKSPACE}: '{os.environ.get(_WORKSPACE)}' lets a GPU add up in any order. Unset it, or take "
            f"{' or '.join(_WORKSPACES)}."
        )
    filling: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # nothing here reads what was not written
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        filling.fill_uninitialized_memory = before[1]
