"""Passes with a gradient that a GPU replays: the kernels of the layers that learn, forward and backward,
recorded once for a shape of batch (CUDA graphs).

A batch of short texts leaves a GPU waiting for Python to launch its kernels (docs/scale.md). Embeddings,
pooling and heads are not recorded. Knows stages and shapes, no tasks.

Shapes: B texts, L tokens of the longest, P places (L made a multiple of 8), D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, cast

import torch

from frostline.data.table import IntN
from frostline.model.backbone import Backbone

Shape = tuple[int, int]  # B and P
Run = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_PLACES_STEP = 8
# Recording takes as long as some ten steps.
_WORTH_STEPS = 16
_WARM_UPS = 2


def shapes_worth_recording(lengths: Iterable[IntN], *, times: int) -> frozenset[Shape]:
    """Shapes that batches have often enough. Known before the first of them, so that a run that goes on
    records what the unbroken one did.

    Args:
        lengths: tokens of each text of each batch.
        times: how often all of these batches come.
    """
    met = Counter(_shape(len(length_B), int(length_B.max())) for length_B in lengths if len(length_B))
    return frozenset(shape for shape, number in met.items() if number * times >= _WORTH_STEPS)


def can_record(backbone: Backbone, *, device: torch.device) -> bool:
    """Whether the layers of a backbone can be recorded: on a GPU, and of a kind that was tried there."""
    return device.type == "cuda" and backbone.layout.packs and not backbone.recomputes_stages


class Recordings:
    """Stands for a backbone whose frost line, modes and weights' places in memory stay as they are.

    The numbers are those of the backbone to rounding, and the same whenever a shape is recorded.
    """

    def __init__(self, backbone: Backbone, shapes: Collection[Shape]) -> None:
        self._backbone, self._shapes = backbone, frozenset(shapes)
        self._found: dict[tuple[Shape, torch.dtype], _Recording] = {}
        self._gradients = _Gradients(backbone)

    def suffix(self, states: torch.Tensor, mask_BL: torch.Tensor, *, depth: int) -> torch.Tensor:
        """Embeddings (B, D), as `Backbone.suffix`; recorded at a shape's first batch."""
        backbone = self._backbone
        if depth == backbone.num_stages or _shape(*mask_BL.shape) not in self._shapes:
            return backbone.suffix(states, mask_BL, depth=depth)
        if depth == 0:
            states = backbone.hidden(states, mask_BL, start=0, stop=1)
        key = _shape(*mask_BL.shape), states.dtype
        if key not in self._found:
            self._found[key] = self._record(states, mask_BL, start=max(1, depth))
        return backbone.pool(self._found[key](states, mask_BL), mask_BL)

    def _record(self, states_BLD: torch.Tensor, mask_BL: torch.Tensor, *, start: int) -> _Recording:
        """The layers from a stage on, for batches of one shape."""
        stop = self._backbone.num_stages

        def run(states_BPD: torch.Tensor, mask_BP: torch.Tensor) -> torch.Tensor:
            return self._backbone.hidden(states_BPD, mask_BP, start=start, stop=stop)

        num_texts, num_places = _shape(*mask_BL.shape)
        states_BPD = states_BLD.new_zeros(num_texts, num_places, states_BLD.shape[2])
        mask_BP = mask_BL.new_ones(num_texts, num_places)
        mask_BP[:, -1] = 0  # so that the warming up meets attention with a mask
        states_BPD.requires_grad_(states_BLD.requires_grad)
        # One memory for all: no two of them are under way at the same time.
        pool = next((one.pool for one in self._found.values()), None)
        with torch.cuda.device(states_BLD.device):
            return _Recording(run, states_BPD, mask_BP, self._gradients, pool=pool)


class _Gradients:
    """Where recorded backward passes add the gradients of a backbone's weights up."""

    def __init__(self, backbone: Backbone) -> None:
        self.weights = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        self.buffers: list[torch.Tensor] = []

    def keep(self, are_used: list[bool]) -> None:
        """Leaves out the weights that the layers do not read, such as those of a projection after them."""
        if not self.buffers:
            self.weights = [one for one, is_used in zip(self.weights, are_used, strict=True) if is_used]
            self.buffers = [torch.zeros_like(weight) for weight in self.weights]

    def settle(self) -> None:
        """Makes the buffers the gradients of the weights, with what these had before."""
        pairs = list(zip(self.weights, self.buffers, strict=True))
        fresh = [buffer for weight, buffer in pairs if weight.grad is None]
        if fresh:
            torch._foreach_zero_(fresh)
        for weight, buffer in pairs:
            if weight.grad is not buffer:
                if weight.grad is not None:
                    buffer.copy_(weight.grad)
                weight.grad = buffer


class _Recording:
    """A forward and a backward pass of one shape, and the tensors that they read and write."""

    def __init__(
        self,
        run: Run,
        states_BPD: torch.Tensor,
        mask_BP: torch.Tensor,
        gradients: _Gradients,
        *,
        pool: Any,
    ) -> None:
        self._states_BPD, self._mask_BP, self._gradients = states_BPD, mask_BP, gradients
        self._learns = torch.zeros((), requires_grad=True)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        random = torch.cuda.get_rng_state(states_BPD.device)
        # Weights that autocast has converted for this step must not be read by later ones.
        numbers = torch.get_autocast_dtype("cuda")
        is_cast = torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", dtype=numbers, enabled=is_cast, cache_enabled=False):
            self._warm_up(run)
            with torch.cuda.graph(self._forward, pool=pool, capture_error_mode="thread_local"):
                hidden_BPD = run(states_BPD, mask_BP)
        self.pool = self._forward.pool()
        self._hidden_BPD = hidden_BPD.detach()
        self._grad_BPD = torch.zeros_like(self._hidden_BPD)
        with torch.cuda.graph(self._backward, pool=self.pool, capture_error_mode="thread_local"):
            found = torch.autograd.grad(hidden_BPD, self._inputs(), self._grad_BPD)
            self._states_grad_BPD = found[0] if states_BPD.requires_grad else None
            torch._foreach_add_(gradients.buffers, found[-len(gradients.buffers) :])
        torch.cuda.set_rng_state(random, states_BPD.device)

    def __call__(self, states_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, L, D) after the last layer; the backward pass adds up the weights' gradients."""
        hidden_BLD = _Replayed.apply(states_BLD, mask_BL, self._learns, self)  # type: ignore[no-untyped-call]
        return cast(torch.Tensor, hidden_BLD)

    def forward(self, states_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Hidden states, for which autograd knows no backward pass."""
        _put(self._states_BPD, states_BLD)
        _put(self._mask_BP, mask_BL)
        self._forward.replay()
        return self._hidden_BPD[:, : mask_BL.shape[1]].clone()

    def backward(self, grad_BLD: torch.Tensor) -> torch.Tensor | None:
        """Adds the weights' gradients up; returns that of the states (B, L, D), where they have one."""
        _put(self._grad_BPD, grad_BLD)
        self._gradients.settle()
        self._backward.replay()
        found = self._states_grad_BPD
        return None if found is None else found[:, : grad_BLD.shape[1]].clone()

    def _inputs(self) -> list[torch.Tensor]:
        """Whose gradients are wanted."""
        first = [self._states_BPD] if self._states_BPD.requires_grad else []
        return [*first, *self._gradients.weights]

    def _warm_up(self, run: Run) -> None:
        """What kernels allocate and choose when they first run must not be recorded."""
        stream, now = cast(Any, torch.cuda.Stream)(), torch.cuda.current_stream()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                hidden_BPD = run(self._states_BPD, self._mask_BP)
                inputs, grad_BPD = self._inputs(), torch.zeros_like(hidden_BPD)
                found = torch.autograd.grad(hidden_BPD, inputs, grad_BPD, allow_unused=True)
                num_weights = len(self._gradients.weights)
                self._gradients.keep([grad is not None for grad in found[-num_weights:]])
        now.wait_stream(stream)


class _Replayed(torch.autograd.Function):
    """A recording as autograd sees it; the gradients of weights pass it by."""

    @staticmethod
    def forward(
        ctx: Any,
        states_BLD: torch.Tensor,
        mask_BL: torch.Tensor,
        learns: torch.Tensor,  # makes the output need a gradient where the states have none
        recording: _Recording,
    ) -> torch.Tensor:
        ctx.recording = recording
        return recording.forward(states_BLD, mask_BL)

    @staticmethod
    def backward(ctx: Any, grad_BLD: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        return ctx.recording.backward(grad_BLD), None, None, None


def _put(place: torch.Tensor, given: torch.Tensor) -> None:
    """Writes a batch into a wider one; the places behind it become zero."""
    length = given.shape[1]
    place[:, :length].copy_(given)
    place[:, length:].zero_()


def _shape(num_texts: int, length: int) -> Shape:
    return num_texts, -(-length // _PLACES_STEP) * _PLACES_STEP
