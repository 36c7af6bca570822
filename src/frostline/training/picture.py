"""`curves.png`: losses and validation scores over the steps of a run, phases marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frostline.training.journal import Event


def draw_curves(events: Sequence[Event]) -> Any:
    """A matplotlib figure of a run's events."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    steps = [event for event in events if event["event"] == "steps"]
    for task in sorted({task for event in steps for task in event["loss"]}):
        points = [(event["step"], event["loss"][task]) for event in steps if task in event["loss"]]
        loss_axes.plot(*zip(*points, strict=True), label=task, linewidth=1.2)
    evaluations = [event for event in events if event["event"] == "evaluation"]
    for task in sorted({task for event in evaluations for task in event["main"]}):
        points = [(event["step"], event["main"][task]) for event in evaluations if task in event["main"]]
        score_axes.plot(*zip(*points, strict=True), label=task, marker="o", markersize=3.5, linewidth=1.2)
    for axes, title in ((loss_axes, "training loss (1: knows nothing)"), (score_axes, "validation score")):
        for event in events:
            if event["event"] == "phase" and event["step"]:
                axes.axvline(event["step"], color="#9aa7b4", linestyle="--", linewidth=0.9)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
    return figure
