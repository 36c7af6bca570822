"""`report.html`: a study as one page that needs nothing else.

No script, no address, a content policy that forbids both; labels and texts are escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from frostline.plan.picture import Trainability, draw_trainabilities, save_figure, share
from frostline.study import charts

_MOST_CHARACTERS = 400


def build_report(content: Mapping[str, Any], texts: Sequence[str]) -> str:
    """The page.

    Args:
        content: of `compare.json`.
        texts: of the split on which the scenarios were compared, of which the errors are quoted.
    """
    folder = files("frostline.study") / "templates"
    style = (folder / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "seconds": charts.duration,
        "share": share,
        "mib": lambda value: f"{value / 2**20:,.0f}",
    }
    template = environment.from_string((folder / "report.html").read_text("utf-8"))
    errors = [error | {"text": _quoted(texts[error["row"]])} for error in content["errors"]]
    return template.render(
        **{**content, "errors": errors},
        style=Markup(style),  # ours, and hashed in the page's policy
        style_hash=digest,
        version=version("frostline"),
        charts=_charts(content),
        score_names={
            name: task["score"].replace("macro_f1", "macro-F1") for name, task in content["tasks"].items()
        },
    )


def _quoted(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + " …"


def _charts(content: Mapping[str, Any]) -> dict[str, Any]:
    scenarios, tasks = content["scenarios"], list(content["tasks"])
    moved = {one["name"]: one["drift"] for one in scenarios if not one["drift"]["is_identical"]}
    return {
        "frontier": charts.frontier_chart(
            [(one["name"], one["seconds"], one["score"]) for one in scenarios], title="Score against time"
        ),
        "scores": {
            task: charts.interval_chart(
                [
                    (one["name"], one["tasks"][task]["score"], one["tasks"][task]["interval"])
                    for one in scenarios
                    if task in one["tasks"]
                ],
                title=f"Scores of {task}",
            )
            for task in tasks
            if any(task in one["tasks"] for one in scenarios)
        },
        "trainability": {
            one["name"]: charts.trainability_chart(one["trainability"], title=f"What learns in {one['name']}")
            for one in scenarios
        },
        "curves": {
            one["name"]: charts.curve_chart(one["curves"], tasks, title=f"Validation scores of {one['name']}")
            for one in scenarios
        },
        "weights": charts.layer_chart(
            {name: drift["weight_change"] for name, drift in moved.items()},
            title="Change of weights by stage",
        )
        if moved
        else "",
        "confusion": {
            one["name"]: {
                task: charts.confusion_chart(
                    matrix, content["tasks"][task]["labels"], title=f"Answers of {one['name']} for {task}"
                )
                for task, matrix in one["confusion"].items()
            }
            for one in scenarios
        },
    }


def draw_scenarios(content: Mapping[str, Any], path: Path) -> None:
    """Writes the picture of what learns in every scenario, side by side."""
    tables = {one["name"]: Trainability(**one["trainability"]) for one in content["scenarios"]}
    save_figure(draw_trainabilities(tables), path)
