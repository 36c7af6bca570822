"""Where a run stands: what a checkpoint holds beside the moments.

Knows no files; `checkpoint.py` commits what this module describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import torch

from frostline.plan.plateau import Plateau
from frostline.training.checkpoint import Tensors
from frostline.training.recent import Recent


@dataclass(frozen=True)
class Position:
    """A place in a run, between two steps.

    Attributes:
        phase: phases that are done.
        round: rounds of this phase that are done; a round is what lies between two evaluations.
        round_step: steps of this round that are done.
        phase_step: steps of this phase that are done.
        step: steps of the run that are done.
    """

    phase: int = 0
    round: int = 0
    round_step: int = 0
    phase_step: int = 0
    step: int = 0

    def after_step(self) -> Position:
        """The place one step further on."""
        return replace(
            self, round_step=self.round_step + 1, phase_step=self.phase_step + 1, step=self.step + 1
        )


@dataclass
class Best:
    """The best evaluation of a phase, and the weights it was of."""

    scores: dict[str, Any]
    weights: Tensors


@dataclass
class State:
    """What decides how a run goes on.

    Attributes:
        position: the place.
        learned: names of the parameters that have learned so far.
        reports: of the phases that are done.
        best: of this phase; None before its first evaluation.
        latest: scores of the phase's latest evaluation.
        thaws: steps of this phase at which its frost line moved down.
        plateau: what this phase saw of the watched scores.
        breaches: evaluations of this phase at which a frozen head had lost more than the guard allows.
        references: logits of frozen heads before the layers under them learned, by `<task>|<split>`.
        recent: the steps since the last line of the log.
        phase_seconds: spent in this phase by earlier processes.
        run_seconds: spent in the run by earlier processes.
    """

    position: Position = Position()
    learned: set[str] = field(default_factory=set)
    reports: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    latest: dict[str, Any] = field(default_factory=dict)
    thaws: list[int] = field(default_factory=list)
    plateau: Plateau = field(default_factory=Plateau)
    breaches: list[dict[str, Any]] = field(default_factory=list)
    references: Tensors = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent)
    phase_seconds: float = 0.0
    run_seconds: float = 0.0

    def next_phase(self) -> None:
        """Moves to the start of the phase that follows."""
        self.position = Position(phase=self.position.phase + 1, step=self.position.step)
        self.best, self.latest, self.phase_seconds = None, {}, 0.0
        self.thaws, self.plateau, self.breaches = [], Plateau(), []

    def content(self) -> dict[str, Any]:
        """All but the tensors, as JSON; floats keep every bit."""
        return {
            "position": asdict(self.position),
            "reports": self.reports,
            "best": self.best.scores if self.best else None,
            "latest": self.latest,
            "thaws": self.thaws,
            "plateau": self.plateau.content(),
            "breaches": self.breaches,
            "recent": self.recent.content(),
            "phase_seconds": self.phase_seconds,
            "run_seconds": self.run_seconds,
        }

    @classmethod
    def build(
        cls,
        content: Mapping[str, Any],
        *,
        learned: set[str],
        best: Tensors,
        references: Tensors,
        device: torch.device,
    ) -> Self:
        """The state that `content` described, with the tensors of its checkpoint."""
        weights = {name: value.to(device) for name, value in best.items()}
        return cls(
            position=Position(**content["position"]),
            learned=learned,
            reports=list(content["reports"]),
            best=Best(content["best"], weights) if content["best"] else None,
            latest=content["latest"],
            thaws=list(content["thaws"]),
            plateau=Plateau.build(content["plateau"]),
            breaches=list(content["breaches"]),
            references=references,
            recent=Recent.build(content["recent"], device=device),
            phase_seconds=content["phase_seconds"],
            run_seconds=content["run_seconds"],
        )
