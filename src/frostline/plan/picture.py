"""Trainability: what learns in which phase and at which rate, as a table and as a picture.

Numbers come from the model's size and the plan alone; nothing is trained.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.model.multitask import MultitaskModel
from frostline.plan.groups import head_rate, stage_name, stage_rates
from frostline.plan.phase import Phase


@dataclass(frozen=True)
class Trainability:
    """Stages and heads (rows, heads first, embeddings last) by phases; one that thaws has a column a depth.

    Attributes:
        rows: names.
        num_parameters: of each row.
        columns: names of the phases and their depths.
        rates: for each row, the rate in each column; None is frozen, 0 is solved without a rate.
    """

    rows: tuple[str, ...]
    num_parameters: tuple[int, ...]
    columns: tuple[str, ...]
    rates: tuple[tuple[float | None, ...], ...]

    def num_trained(self, column: int) -> int:
        """Parameters that learn in a column."""
        return sum(
            n for n, rates in zip(self.num_parameters, self.rates, strict=True) if rates[column] is not None
        )


def share(part: int, whole: int) -> str:
    """A part in per cent; a small one is not shown as none."""
    return f"{part / whole:.1%}" if part == 0 or part / whole >= 0.001 else "<0.1%"


def build_trainability(
    model: MultitaskModel, phases: Sequence[Phase], *, reached: Sequence[Sequence[int]] | None = None
) -> Trainability:
    """The table of a plan on a model.

    Args:
        model: its stages and heads.
        phases: of the plan.
        reached: frozen depths that each phase came to; None: all that it may come to.
    """
    owners: dict[int | str | None, int] = {}
    for name, parameter in model.named_parameters():
        owner = model.owner_of(name)
        owners[owner] = owners.get(owner, 0) + parameter.numel()
    num_layers = model.backbone.num_layers
    stages = list(range(num_layers, -1, -1))
    rows: tuple[int | str, ...] = (*model.tasks, *stages)
    depths = reached or [phase.depths(num_layers) for phase in phases]
    columns = [(phase, depth) for phase, many in zip(phases, depths, strict=True) for depth in many]
    return Trainability(
        rows=(*(f"{name} head" for name in model.tasks), *(stage_name(stage) for stage in stages)),
        num_parameters=tuple(owners.get(owner, 0) for owner in rows),
        columns=tuple(_column_name(phase, depth, num_layers) for phase, depth in columns),
        rates=(
            *(tuple(_head_rate(phase, name) for phase, _ in columns) for name in model.tasks),
            *(
                tuple(_stage_rate(phase, depth, stage, num_layers) for phase, depth in columns)
                for stage in stages
            ),
        ),
    )


def _column_name(phase: Phase, depth: int, num_layers: int) -> str:
    if len(phase.depths(num_layers)) == 1:
        return phase.name
    return f"{phase.name}: {f'top {num_layers + 1 - depth}' if depth else 'all'}"


def _head_rate(phase: Phase, task: str) -> float | None:
    if task in phase.frozen_heads:
        return None
    return 0.0 if phase.solver == "probe" else head_rate(phase, task)


def _stage_rate(phase: Phase, depth: int, stage: int, num_layers: int) -> float | None:
    return None if stage < depth else stage_rates(phase, num_layers=num_layers)[stage]


def draw_trainability(table: Trainability) -> Any:
    """A matplotlib figure: colour is the rate (log), hatching is frozen, the rate is written in each cell."""
    return draw_trainabilities({"What learns, and at which rate (hatched: frozen)": table})


def draw_trainabilities(tables: Mapping[str, Trainability]) -> Any:
    """The tables of several plans side by side, colours alike; parameters are at the right of the last one.

    Args:
        tables: by title; of the same rows.
    """
    from matplotlib.colors import LogNorm

    widths = [1.7 * len(table.columns) for table in tables.values()]
    height = 1.3 + 0.36 * max(len(table.rows) for table in tables.values())
    figure = _build_figure(3.6 + sum(widths) + 0.4 * (len(tables) - 1), height)
    # The last is as much wider as the parameters at its right need.
    many = figure.subplots(1, len(tables), width_ratios=[*widths[:-1], widths[-1] + 2.1], squeeze=False)[0]
    rates = [rate for table in tables.values() for row in table.rates for rate in row if rate]
    norm = LogNorm(min(rates, default=1e-6) / 3, max(rates, default=1e-2) * 1.5)
    for number, (axes, (title, table)) in enumerate(zip(many, tables.items(), strict=True)):
        _draw_cells(axes, table, norm)
        axes.set_title(title, fontsize=10)
        if number:
            axes.set_yticklabels([])
        is_last = number == len(tables) - 1
        axes.set_xlim(0, len(table.columns) + (1.25 if is_last else 0))
        if is_last:
            _write_parameters(axes, table)
    return figure


def _build_figure(width: float, height: float) -> Any:
    """An empty figure that a notebook shows by itself, whatever backend it has chosen."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            stream = io.BytesIO()
            self.savefig(stream, format="png", dpi=110)
            return stream.getvalue()

    return Picture(figsize=(width, height), layout="constrained")


def _draw_cells(axes: Any, table: Trainability, norm: Any) -> None:
    """A cell for each stage and phase."""
    from matplotlib.patches import Rectangle

    colours, num_columns = _colours(), len(table.columns)
    for y, row in enumerate(table.rates):
        for x, rate in enumerate(row):
            colour = "#eef2f6" if rate is None else colours(norm(rate)) if rate else "#8fc9a3"
            cell = Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="#b8c4d0", linewidth=0.8)
            cell.set_hatch("////" if rate is None else "")
            axes.add_patch(cell)
            if rate is not None:
                said = f"{rate:.1e}" if rate else "solved"
                axes.text(x + 0.5, y + 0.5, said, ha="center", va="center", fontsize=8)
    total = sum(table.num_parameters)
    axes.set_ylim(len(table.rows), 0)
    axes.set_yticks([y + 0.5 for y in range(len(table.rows))], table.rows, fontsize=9)
    ticks = [f"{name}\n{share(table.num_trained(x), total)} learns" for x, name in enumerate(table.columns)]
    axes.set_xticks([x + 0.5 for x in range(num_columns)], ticks, fontsize=9)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)


def _write_parameters(axes: Any, table: Trainability) -> None:
    total, right = sum(table.num_parameters), len(table.columns) + 0.08
    for y, count in enumerate(table.num_parameters):
        axes.text(right, y + 0.5, f"{count:,}  ({share(count, total)})", va="center", fontsize=8)


def _colours() -> Any:
    """Pale to strong orange, light enough everywhere for black text."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("thaw", ["#fdf1de", "#f7b267", "#f4845f"])


def save_figure(figure: Any, path: Path) -> None:
    """Writes a PNG whole, the same bytes for the same figure."""
    from frostline.atomic import new_file

    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
