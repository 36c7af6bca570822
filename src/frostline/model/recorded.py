"""Passes with a gradient that a GPU replays: the kernels of the layers that learn, forward and backward,
recorded once for a shape of batch (CUDA graphs).

A batch of short texts leaves a GPU waiting for Python to launch its kernels (docs/scale.md). Embeddings,
pooling and heads are not recorded. Knows stages and shapes, no tasks.

Shapes: B texts, L tokens of the longest, P places (L made a multiple of 8), D width of hidden states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import torch
from torch.func import functional_call

from frostline.data.table import IntN
from frostline.model.backbone import Backbone

Shape = tuple[int, int]  # B and P
Twins = dict[str, torch.Tensor]

_PLACES_STEP = 8
# Recording takes as long as some ten steps.
_WORTH_STEPS = 16
_WARM_UPS = 2
# Other threads, such as one that watches over NCCL, may talk to the GPU meanwhile.
_ERRORS_OF = "thread_local"


def shapes_worth_recording(lengths: Iterable[IntN], *, num_epochs: int) -> frozenset[Shape]:
    """Shapes that batches have often enough. Known before the first of them, so that a run that goes on
    records what the unbroken one did.

    Args:
        lengths: tokens of each text of each batch of an epoch.
        num_epochs: how often such batches come.
    """
    met = Counter(_shape(len(length_B), int(length_B.max())) for length_B in lengths if len(length_B))
    return frozenset(shape for shape, number in met.items() if number * num_epochs >= _WORTH_STEPS)


def can_record(backbone: Backbone, depth: int, *, device: torch.device) -> bool:
    """Whether layers from a depth on can be recorded: on a GPU, and of a kind that was tried there."""
    is_known = backbone.layout.packs and not backbone.recomputes_stages
    return device.type == "cuda" and is_known and depth < backbone.num_stages


class Recordings:
    """Stands for a backbone whose frost line, modes and weights' places in memory stay as they are.

    The numbers are those of the backbone to rounding where the longest text has P tokens, and the same
    whenever a shape is recorded; else dropout draws its masks for more places.
    """

    def __init__(self, backbone: Backbone, *, shapes: Collection[Shape]) -> None:
        self._backbone, self._shapes = backbone, frozenset(shapes)
        self._found: dict[Shape, _Recording] = {}
        self._room: _Room | None = None

    def suffix(self, states: torch.Tensor, mask_BL: torch.Tensor, *, depth: int) -> torch.Tensor:
        """Embeddings (B, D), as `Backbone.suffix`; recorded at a shape's first batch."""
        backbone = self._backbone
        if depth == backbone.num_stages or _shape(*mask_BL.shape) not in self._shapes:
            return backbone.suffix(states, mask_BL, depth=depth)
        if depth == 0:
            states = backbone.hidden(states, mask_BL, start=0, stop=1)
        shape, states = _shape(*mask_BL.shape), states.float()
        if shape not in self._found:
            self._found[shape] = self._record(states, shape, start=max(1, depth))
        return backbone.pool(self._found[shape](states, mask_BL), mask_BL)

    def _record(self, states_BLD: torch.Tensor, shape: Shape, *, start: int) -> _Recording:
        """The layers from a stage on, for batches of one shape."""
        device = states_BLD.device
        try:
            with torch.cuda.device(device):
                if self._room is None:
                    self._room = _Room(self._backbone, shapes=self._shapes, device=device)
                layers = _Layers(self._backbone, start=start)
                return _Recording(
                    layers, shape=shape, room=self._room, has_states_grad=states_BLD.requires_grad
                )
        except RuntimeError as error:  # while it records, torch does not always know the reason as its own
            if "out of memory" in f"{error} {error.__context__}":
                raise torch.OutOfMemoryError(str(error)) from error
            raise


class _Room:
    """The memory that the recordings of a backbone share: no two of them are under way at the same time.

    Attributes:
        stream: on which they are recorded.
        pool: of their activations.
        states, hidden, hidden_grad, states_grad: what is put in and taken out, flat float32, for the largest
            shape.
        gradients: of the weights.
    """

    def __init__(self, backbone: Backbone, *, shapes: Collection[Shape], device: torch.device) -> None:
        size = max(texts * places for texts, places in shapes) * backbone.hidden_width
        self.width = backbone.hidden_width
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()
        # Apart, since autograd counts what is written into a tensor and its views.
        self.states, self.hidden, self.hidden_grad, self.states_grad = (
            torch.zeros(size, device=device) for _ in range(4)
        )
        learning = {name: one for name, one in backbone.named_parameters() if one.requires_grad}
        self.gradients = Gradients(learning)

    def part(self, flat: torch.Tensor, shape: Shape) -> torch.Tensor:
        """(B, P, D) of what is flat."""
        return flat[: shape[0] * shape[1] * self.width].view(*shape, self.width)


class _Layers(torch.nn.Module):
    """The layers of a backbone from a stage on."""

    def __init__(self, backbone: Backbone, *, start: int) -> None:
        super().__init__()
        self.backbone, self._start = backbone, start

    def forward(self, states_BPD: torch.Tensor, mask_BP: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, P, D) of the last one."""
        stop = self.backbone.num_stages
        return self.backbone.hidden(states_BPD, mask_BP, start=self._start, stop=stop)

    def read(self, states_BPD: torch.Tensor, mask_BP: torch.Tensor, twins: Twins) -> torch.Tensor:
        """The same from weights of which some are stood in for."""
        named = {f"backbone.{name}": twin for name, twin in twins.items()}
        return cast(torch.Tensor, functional_call(self, named, (states_BPD, mask_BP)))


class Gradients:
    """Where recorded backward passes add up the gradients of weights.

    Attributes:
        weights: by name.
        twins: the same numbers in the same memory, apart for autograd: what ran before a recording, and may
            still be held, must not be tied to it.
        buffers: in the order of the weights.
    """

    def __init__(self, weights: Mapping[str, torch.nn.Parameter]) -> None:
        self.weights = dict(weights)
        self.twins: Twins = {name: one.detach().requires_grad_() for name, one in weights.items()}
        self.buffers: list[torch.Tensor] = []

    def keep(self, are_used: list[bool]) -> None:
        """Leaves out the weights that the layers do not read, such as those of a projection after them."""
        for name in [name for name, is_used in zip(self.weights, are_used, strict=True) if not is_used]:
            del self.weights[name], self.twins[name]
        self.buffers = [torch.zeros_like(weight) for weight in self.weights.values()]

    def settle(self) -> None:
        """Makes the buffers the gradients of the weights, with what these had before."""
        pairs = list(zip(self.weights.values(), self.buffers, strict=True))
        fresh = [buffer for weight, buffer in pairs if weight.grad is None]
        if fresh:
            torch._foreach_zero_(fresh)
        for weight, buffer in pairs:
            if weight.grad is not buffer:
                if weight.grad is not None:
                    buffer.copy_(weight.grad)
                weight.grad = buffer


class _Recording:
    """A forward and a backward pass of one shape."""

    def __init__(self, layers: _Layers, *, shape: Shape, room: _Room, has_states_grad: bool) -> None:
        self._room, self._has_states_grad = room, has_states_grad
        self._states_BPD = room.part(room.states, shape).detach().requires_grad_(has_states_grad)
        self._hidden_BPD, self._hidden_grad_BPD = (
            room.part(flat, shape) for flat in (room.hidden, room.hidden_grad)
        )
        self._states_grad_BPD = room.part(room.states_grad, shape)
        self._mask_BP = torch.ones(shape, dtype=torch.int64, device=room.states.device)
        self._mask_BP[:, -1] = 0  # so that the warming up meets attention with a mask
        self._needs_gradient = torch.zeros((), requires_grad=True)
        generator_state = torch.cuda.get_rng_state()
        self._warm_up(layers)
        self._forward, hidden_BPD = self._record_forward(layers)
        self._backward = self._record_backward(hidden_BPD)
        torch.cuda.set_rng_state(generator_state)

    def __call__(self, states_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, L, D) after the last layer; the backward pass adds up the weights' gradients."""
        hidden_BLD = _Replayed.apply(states_BLD, mask_BL, self._needs_gradient, self)  # type: ignore[no-untyped-call]
        return cast(torch.Tensor, hidden_BLD)

    def forward(self, states_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Hidden states, for which autograd knows no backward pass."""
        put(self._states_BPD, states_BLD)
        put(self._mask_BP, mask_BL)
        self._forward.replay()
        return self._hidden_BPD[:, : mask_BL.shape[1]].clone()

    def backward(self, grad_BLD: torch.Tensor) -> torch.Tensor | None:
        """Adds the weights' gradients up; returns that of the states (B, L, D), where they have one."""
        put(self._hidden_grad_BPD, grad_BLD)
        self._room.gradients.settle()
        self._backward.replay()
        return self._states_grad_BPD[:, : grad_BLD.shape[1]].clone() if self._has_states_grad else None

    def _warm_up(self, layers: _Layers) -> None:
        """What kernels allocate and choose when they first run must not be recorded."""
        room, now = self._room, torch.cuda.current_stream()
        room.stream.wait_stream(now)
        with torch.cuda.stream(room.stream):
            for _ in range(_WARM_UPS):
                with _numbers_of_now():
                    hidden_BPD = layers.read(self._states_BPD, self._mask_BP, room.gradients.twins)
                grads = self._grads(hidden_BPD, torch.zeros_like(hidden_BPD))
        now.wait_stream(room.stream)
        if not room.gradients.buffers:
            room.gradients.keep([grad is not None for grad in grads[int(self._has_states_grad) :]])

    def _record_forward(self, layers: _Layers) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """The pass, and its hidden states (B, P, D) as autograd knows them."""
        graph = torch.cuda.CUDAGraph()
        with self._recording(graph), _numbers_of_now():
            hidden_BPD = layers.read(self._states_BPD, self._mask_BP, self._room.gradients.twins)
            self._hidden_BPD.copy_(hidden_BPD.detach())
        return graph, hidden_BPD

    def _record_backward(self, hidden_BPD: torch.Tensor) -> torch.cuda.CUDAGraph:
        graph, buffers = torch.cuda.CUDAGraph(), self._room.gradients.buffers
        with self._recording(graph):
            grads = self._grads(hidden_BPD, self._hidden_grad_BPD.to(hidden_BPD.dtype))
            if self._has_states_grad:
                self._states_grad_BPD.copy_(grads[0])
            torch._foreach_add_(buffers, grads[-len(buffers) :])
        return graph

    def _recording(self, graph: torch.cuda.CUDAGraph) -> torch.cuda.graph:
        room = self._room
        return torch.cuda.graph(graph, pool=room.pool, stream=room.stream, capture_error_mode=_ERRORS_OF)

    def _grads(self, hidden_BPD: torch.Tensor, grad_BPD: torch.Tensor) -> tuple[Any, ...]:
        """Gradients of the states, where they have one, and of the weights; None of one that is not read."""
        first = [self._states_BPD] if self._has_states_grad else []
        inputs = [*first, *self._room.gradients.twins.values()]
        with torch.autocast("cuda", enabled=False):  # as outside of recordings
            return torch.autograd.grad(hidden_BPD, inputs, grad_BPD, allow_unused=True)


class _Replayed(torch.autograd.Function):
    """A recording as autograd sees it; the gradients of weights pass it by."""

    @staticmethod
    def forward(
        ctx: Any,
        states_BLD: torch.Tensor,
        mask_BL: torch.Tensor,
        needs_gradient: torch.Tensor,  # so that the output does, where the states have none
        recording: _Recording,
    ) -> torch.Tensor:
        ctx.recording = recording
        return recording.forward(states_BLD, mask_BL)

    @staticmethod
    def backward(ctx: Any, grad_BLD: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        return ctx.recording.backward(grad_BLD), None, None, None


def put(place: torch.Tensor, given: torch.Tensor) -> None:
    """Writes a batch into one of more places; those behind it become zero."""
    length = given.shape[1]
    place[:, :length].copy_(given)
    place[:, length:].zero_()


def _numbers_of_now() -> torch.autocast:
    """Products as they are at the moment, but no weight that was converted for this step is read by later
    ones.
    """
    is_cast = torch.is_autocast_enabled("cuda")
    return torch.autocast(
        "cuda", dtype=torch.get_autocast_dtype("cuda"), enabled=is_cast, cache_enabled=False
    )


def _shape(num_texts: int, length: int) -> Shape:
    return num_texts, -(-length // _PLACES_STEP) * _PLACES_STEP
