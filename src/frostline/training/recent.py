"""The steps since the last line of the log: their losses, gradients and rows, and whether they are numbers.

Values stay on the device until a line is written, so that no step waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

from frostline.data.table import IntN
from frostline.errors import TrainingError, listing


@dataclass
class Recent:
    """What a few steps computed.

    Attributes:
        losses: of each task.
        grad_norms: of each step, before clipping.
        rows: of each step that this process took.
    """

    losses: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    grad_norms: list[torch.Tensor] = field(default_factory=list)
    rows: list[IntN] = field(default_factory=list)

    def add(self, losses: Mapping[str, torch.Tensor], norm: torch.Tensor, rows: IntN) -> None:
        """Takes in a step."""
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)
        self.grad_norms.append(norm.detach())
        self.rows.append(rows)

    def check_finite(self, *, step: int, where: Callable[[int], str]) -> None:
        """Raises TrainingError when a gradient, and so a loss, is NaN or infinite.

        Args:
            step: steps of the run that are done.
            where: from a training row to its place, as the message names it.
        """
        norms = torch.stack(self.grad_norms).cpu() if self.grad_norms else torch.zeros(0)
        bad = np.flatnonzero(~torch.isfinite(norms).numpy())
        if not len(bad):
            return
        back = len(self.grad_norms) - int(bad[0])  # counted from the last step, which this process took
        places = listing(where(int(row)) for row in self.rows[-back])
        raise TrainingError(
            f"step {step - back + 1}: the loss or its gradient is not finite. Its rows: {places}. The last "
            'checkpoint is kept. Try a smaller rate, or train.precision = "fp32".'
        )

    def means(self) -> dict[str, Any]:
        """Mean loss of each task and mean norm of the gradients; empty when there was no step."""
        if not self.grad_norms:
            return {}
        losses = {task: float(torch.stack(parts).mean()) for task, parts in self.losses.items()}
        return {"loss": losses, "grad_norm": float(torch.stack(self.grad_norms).mean())}

    def content(self) -> dict[str, Any]:
        """As JSON; floats keep every bit."""
        losses = {task: [float(part) for part in parts] for task, parts in self.losses.items()}
        return {"losses": losses, "grad_norms": [float(norm) for norm in self.grad_norms]}

    @classmethod
    def build(cls, content: Mapping[str, Any], *, device: torch.device) -> Self:
        """The steps that `content` described; all were finite when it was written."""
        losses = {
            task: [torch.tensor(part, device=device) for part in parts]
            for task, parts in content["losses"].items()
        }
        return cls(losses, [torch.tensor(norm, device=device) for norm in content["grad_norms"]])
