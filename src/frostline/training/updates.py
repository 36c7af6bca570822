"""The optimizer of what learns: its groups, rates and moments, from phase to phase and from thaw to thaw.

What goes on learning keeps its moments, what woke has none, and what fell asleep leaves its own. Knows
gradients, not what they come from.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from frostline.model.multitask import MultitaskModel
from frostline.plan.groups import build_groups, build_optimizer, set_rates
from frostline.plan.phase import Phase
from frostline.training.checkpoint import Tensors, optimizer_moments, restore_moments


class Updates:
    """AdamW for a model under the phase of now."""

    def __init__(self, model: MultitaskModel, moments: Tensors, *, max_grad_norm: float) -> None:
        self._model, self._max_grad_norm = model, max_grad_norm
        self._moments = moments  # of a checkpoint, until there is an optimizer
        self._built: torch.optim.AdamW | None = None
        self._learning: list[torch.Tensor] = []

    def regroup(self, phase: Phase, *, woke: Mapping[int, int], is_start: bool) -> None:
        """Takes in what learns now.

        Args:
            phase: that the model obeys.
            woke: stages that thawed within the phase, and at which of its steps.
            is_start: whether the phase begins: what it freezes may have moments, which are left then.
        """
        self._built = build_optimizer(
            self._model, build_groups(self._model, phase, woke=woke), keep=self._built
        )
        learning = {name: one for name, one in self._model.named_parameters() if one.requires_grad}
        if is_start:
            self._moments = {k: v for k, v in self._moments.items() if k.rpartition("|")[0] in learning}
        restore_moments(self._model, self._built, self._moments)
        self._moments, self._learning = {}, list(learning.values())

    def forget(self) -> None:
        """Drops every moment: what learns next starts afresh."""
        self._built, self._moments = None, {}

    def set_rates(self, phase: Phase, step: int, *, total_steps: int) -> None:
        """Takes the rates that the phase has at one of its steps."""
        set_rates(self._optimizer, step, phase=phase, total_steps=total_steps)

    def clear(self) -> None:
        """Drops every gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def step(self) -> torch.Tensor:
        """Moves what learns by its gradients, scaled down to the largest norm that they may have.

        Returns:
            Their norm before.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._learning, self._max_grad_norm)
        self._optimizer.step()
        return norm

    def moments(self) -> Tensors:
        """AdamW's state by parameter name (see `optimizer_moments`)."""
        return optimizer_moments(self._model, self._built) if self._built else self._moments

    @property
    def highest_rate(self) -> float:
        """Of all groups at the moment."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    @property
    def _optimizer(self) -> torch.optim.AdamW:
        assert self._built is not None, "no optimizer"
        return self._built
