"""A plan looked at before it is carried out: what learns, at which rate, and about how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.config import Config, as_config
from frostline.plan.phase import Phase
from frostline.plan.picture import Trainability, build_trainability, draw_trainability, save_figure
from frostline.prepare import Prepared, notes_of, prepare
from frostline.training.estimate import Estimator


@dataclass(frozen=True)
class DryRun:
    """What `frostline plan` says.

    Attributes:
        phases: of the plan.
        table: stages and heads by phases.
        seconds: estimate for each phase, saving and testing apart.
        warnings: a sentence each.
        precision: number format that training will take.
        device: where it will run.
    """

    phases: tuple[Phase, ...]
    table: Trainability
    seconds: tuple[float, ...]
    warnings: tuple[str, ...]
    precision: str
    device: str

    def content(self) -> dict[str, Any]:
        """The same as JSON."""
        table = self.table
        columns = [
            {
                "name": name,
                "parameters_trained": table.num_trained(i),
                "rates": {row: rates[i] for row, rates in zip(table.rows, table.rates, strict=True)},
            }
            for i, name in enumerate(table.columns)
        ]
        phases = [
            {
                "name": phase.name,
                "estimated_seconds": round(seconds, 1),
                "temperature": phase.temperature,
            }
            for phase, seconds in zip(self.phases, self.seconds, strict=True)
        ]
        return {
            "phases": phases,
            "columns": columns,
            "parameters": dict(zip(table.rows, table.num_parameters, strict=True)),
            "warnings": list(self.warnings),
            "precision": self.precision,
            "device": self.device,
        }


def trainability(config: Config | str | Path | Mapping[str, Any]) -> Any:
    """A picture of what a plan lets learn, at which rate; nothing is trained.

    Args:
        config: as `train` takes it.

    Returns:
        A matplotlib figure, which a notebook shows by itself; `figure.savefig("plan.png")` writes it.

    Raises:
        FrostlineError: anything that `train` would refuse.
    """
    prepared = prepare(as_config(config).located(Path.cwd()).with_({"train.activations": "never"}))
    return draw_trainability(build_trainability(prepared.model, prepared.phases))


def build_estimator(prepared: Prepared) -> Estimator:
    """Estimates the seconds of phases for what is prepared."""
    return Estimator(
        prepared.model,
        prepared.splits,
        prepared.config.train,
        precision=prepared.precision,
        device=prepared.device,
    )


def dry_run(config: Config, *, picture: Path) -> DryRun:
    """Checks a run without training, and draws its plan.

    Args:
        config: of the run.
        picture: PNG to write.

    Raises:
        FrostlineError: anything that `train` would refuse.
    """
    prepared = prepare(config)
    warnings = (*prepared.warnings, *notes_of(prepared))
    estimator = build_estimator(prepared)
    seconds = tuple(estimator.seconds(phase) for phase in prepared.phases)
    table = build_trainability(prepared.model, prepared.phases)
    save_figure(draw_trainability(table), picture)
    return DryRun(prepared.phases, table, seconds, warnings, prepared.precision.format, str(prepared.device))
