"""What a person sees of a result: tables and sentences. Data in, text out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frostline.dry_run import DryRun
from frostline.errors import counted
from frostline.inference.predict import FileReport
from frostline.model.bundle import BundleFile
from frostline.model.device import Precision
from frostline.model.multitask import MultitaskModel
from frostline.plan.picture import Trainability, share
from frostline.study.charts import duration

_WIDTH = 160  # of tables, where there is no terminal that has one


def build_console() -> Console:
    """Output for people; plain and unwrapped where it is no terminal."""
    is_terminal = sys.stdout.isatty()
    return Console(soft_wrap=not is_terminal, width=None if is_terminal else _WIDTH, highlight=False)


def plan_table(table: Trainability) -> Table:
    """Stages and heads by phases: the rate of what learns, a dash for what is frozen."""
    shown = Table(
        "stage", *(escape(name) for name in table.columns), "parameters", box=None, header_style="bold"
    )
    for name, count, rates in zip(table.rows, table.num_parameters, table.rates, strict=True):
        cells = [
            "[dim]—[/dim]"
            if rate is None
            else f"[yellow]{rate:.1e}[/yellow]"
            if rate
            else "[yellow]solved[/yellow]"
            for rate in rates
        ]
        shown.add_row(escape(name), *cells, f"{count:>12,}")
    total = sum(table.num_parameters)
    learns = [share(table.num_trained(i), total) for i in range(len(table.columns))]
    shown.add_row("[bold]learns[/bold]", *learns, f"{total:>12,}")
    return shown


def score_table(scores: Mapping[str, Mapping[str, Any]], *, title: str) -> Table:
    """A row a task: its main score with the 95 % interval, then the others."""
    shown = Table(title=title, title_justify="left", box=None, show_header=False)
    for task, values in scores.items():
        main = next(name for name in ("macro_f1", "pearson") if name in values)
        low, high = values.get("intervals", {}).get(main, (None, None))
        interval = f"({low:.3f}–{high:.3f})" if low is not None else ""
        rest = {k: v for k, v in values.items() if k not in {main, "intervals", "num_labelled"}}
        others = ", ".join(f"{name} {value:.3f}" for name, value in rest.items())
        shown.add_row(escape(task), f"[bold]{main} {values[main]:.3f}[/bold]", interval, others)
    return shown


def show_dry_run(console: Console, found: DryRun, *, picture: Path) -> None:
    """The plan table and the estimate."""
    for sentence in found.warnings:
        console.print(f"[yellow]note:[/yellow] {escape(sentence)}")
    console.print(plan_table(found.table))
    for phase, seconds in zip(found.phases, found.seconds, strict=True):
        most = "at most " if phase.until else ""
        warmth = f" (temperature {phase.temperature:g})" if phase.temperature != 1 else ""
        console.print(f"phase {escape(phase.name)}{warmth}: {most}about {seconds:.0f} s")
    total = sum(found.seconds)
    whole = f"{total:.0f} s" if total < 90 else f"{total / 60:.1f} min"
    console.print(
        f"in all about {whole} in {found.precision} on {found.device}, saving and "
        f"testing apart. Picture: {escape(str(picture))}"
    )


def show_model(network: MultitaskModel, about: BundleFile) -> None:
    """Backbone, plan and tasks of a bundle."""
    backbone = network.backbone
    print(f"backbone   {about.base_model} ({backbone.num_layers} layers, width {backbone.width})")
    print(f"plan       {about.plan}")
    print(f"text       column '{about.text_column}', at most {about.max_length} tokens")
    for name, task in network.tasks.items():
        score = about.scores.get("tasks", {}).get(name, {}).get(task.main_score)
        said = f" ({task.main_score} {score:.3f})" if score is not None else ""
        print(f"task       {name}: {task.kind} {', '.join(task.labels)}{said}")


def show_comparison(console: Console, content: Mapping[str, Any], *, folder: Path) -> None:
    """The scenarios side by side, the recommendation, and where the report lies."""
    tasks, yardstick = list(content["tasks"]), content["yardstick"]
    shown = Table(
        "plan",
        *(escape(name) for name in tasks),
        "mean",
        escape(f"against {yardstick} (95 %)"),
        "time",
        "MiB",
        "cosine",
        box=None,
        header_style="bold",
    )
    for one in content["scenarios"]:
        low, high = one["change_interval"]
        against = f"{one['change']:+.3f} ({low:+.3f} … {high:+.3f})" if one["name"] != yardstick else "—"
        shown.add_row(
            escape(one["name"]),
            *(f"{one['tasks'][task]['score']:.3f}" if task in one["tasks"] else "" for task in tasks),
            f"{one['score']:.3f}",
            against,
            f"{one['seconds']:.0f} s",
            f"{one['peak_memory_bytes'] / 2**20:,.0f}",
            f"{one['drift']['cosine']:.3f}",
        )
    console.print(shown)
    console.print(f"[dim]scores of the {content['split']} split[/dim]")
    found = content["recommendation"]
    console.print(f"[bold]take {escape(found['scenario'])}[/bold]: {escape(found['reason'])}")
    console.print(escape(found["keeping_embeddings"]))
    console.print(f"[dim]{escape(found['uncertainty'])}[/dim]")
    console.print(f"report: {escape(str(folder))}/report.html, compare.json, trainability.png")


def show_advice(console: Console, content: Mapping[str, Any], *, place: Path) -> None:
    """The ranking, what each layer knows, and signs of a strange domain."""
    names = list(next(iter(content["layers"].values()), {}))
    if names:
        layers = Table(
            "a probe on", *(escape(name) for name in content["layers"]), box=None, header_style="bold"
        )
        for name in names:
            layers.add_row(escape(name), *(f"{scores[name]:.3f}" for scores in content["layers"].values()))
        console.print(layers)
    grown = ", ".join(f"{score:.3f} from {rows} rows" for rows, score in content["growth"].items())
    console.print(f"[bold]heads alone[/bold] {grown}")
    ranked = Table("", "plan", "about", "time", "why", box=None, header_style="bold")
    for number, plan in enumerate(content["plans"], 1):
        about = f"{plan['score']:.3f}", duration(plan["seconds"])
        ranked.add_row(str(number), plan["recipe"], *about, escape(plan["reason"]))
    console.print(ranked)
    for sentence in (*content["warnings"], *content["domain"]):
        console.print(f"[yellow]note:[/yellow] {escape(sentence)}")
    together = duration(sum(plan["seconds"] for plan in content["plans"]))
    console.print(
        f"{duration(content['seconds'])}; to train them all would take about {together}. Train the first: "
        f"frostline train {escape(str(place))}"
    )


def show_file_report(report: FileReport, *, output: Path, precision: Precision) -> None:
    """What a pass over a file did; rows without text go to the standard error."""
    print(f"{counted(report.num_rows, 'row')} written to {output} ({precision.format}: {precision.reason})")
    if report.num_empty:
        rows = f"{counted(report.num_empty, 'row')} {'has' if report.num_empty == 1 else 'have'}"
        more = " …" if report.num_empty > len(report.empty_rows) else ""
        places = ", ".join(report.empty_rows)
        print(f"note: {rows} no text and no answer: {places}{more}", file=sys.stderr)
