"""What a person sees of a run while it goes on: lines, and a progress bar with rate and time left; without a
terminal, a line a minute instead of the bar.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from frostline.errors import counted
from frostline.study.charts import duration
from frostline.terminal import plan_table, score_table
from frostline.training.leak import leak_sentence

# Evaluations of a phase that are told one by one; later only better ones, every tenth, and the last.
_ALL_TOLD, _TOLD_EACH = 10, 10
_LINE_SECONDS = 60.0


class Watcher:
    """Shows a run's events: progress, and a line a phase and an evaluation."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._evaluations, self._best = 0, -math.inf
        self._latest: Mapping[str, Any] | None = None
        self._is_told = True
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._title = ""
        self._since, self._told_at = (0.0, 0), 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Shows one event."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler:
            handler(event)

    def close(self) -> None:
        """Takes the progress bar away."""
        if self._progress:
            self._progress.stop()
        self._progress, self._bar, self._title = None, None, ""

    def progress(self, title: str, done: int, total: int | None) -> None:
        """Moves the bar; a new title starts a new one."""
        if not self.console.is_terminal:
            return self._tell_progress(title, done, total)
        if title != self._title or self._progress is None:
            self.close()
            self._progress = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._bar, self._title = self._progress.add_task(escape(title), total=total, rate=""), title
        assert self._bar is not None, "no bar"
        speed = self._progress.tasks[0].speed
        self._progress.update(self._bar, completed=done, rate=f"{speed:.0f}/s" if speed else "")

    def _tell_progress(self, title: str, done: int, total: int | None) -> None:
        """A line where the last one of this title, or its start, is a minute ago."""
        now = time.monotonic()
        if title != self._title:
            self._title, self._since, self._told_at = title, (now, done), now
        if now - self._told_at < _LINE_SECONDS:
            return
        self._told_at = now
        start, first = self._since
        left = f" of {total:,}" if total is not None else ""
        if total is not None and done > first:
            left += f", about {duration((total - done) * (now - start) / (done - first))} left"
        self.console.print(f"  {escape(title)}: {done:,}{left}")

    def _on_start(self, event: Mapping[str, Any]) -> None:
        rows = ", ".join(f"{count:,} {name}" for name, count in event["rows"].items())
        precision = event["precision"]
        self.console.print(f"[bold]texts[/bold] {rows}")
        self.console.print(
            f"[bold]number format[/bold] {precision.format} on {event['device']} ({precision.reason})"
        )
        for decision in event["decisions"]:
            self.console.print(f"[bold]store[/bold] {escape(decision.sentence())}")
        if event["resumed_at"] is not None:
            self.console.print(f"[bold]going on[/bold] after step {event['resumed_at']}")
        self.console.print(plan_table(event["table"]))

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self.console.print(f"[yellow]note:[/yellow] {escape(event['message'])}")

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        self.close()
        self._evaluations, self._best = 0, -math.inf
        stages = counted(event["frozen_depth"], "stage")
        self.console.print(f"[bold]phase {escape(event['phase'])}[/bold] ({stages} frozen)")

    def _on_thaw(self, event: Mapping[str, Any]) -> None:
        self._tell_latest()
        self._evaluations, self._best = 0, -math.inf
        self.console.print(f"  the frost line moves down ({counted(event['frozen_depth'], 'stage')} frozen)")

    def _on_plateau(self, event: Mapping[str, Any]) -> None:
        self._tell_latest()
        self.console.print("  plateau: the phase has learned what it can and ends")

    def _on_guard(self, event: Mapping[str, Any]) -> None:
        self._tell_latest()
        self.console.print(
            f"  [yellow]guard:[/yellow] the frozen {escape(event['task'])} head has lost {event['lost']:.3f} "
            f"({event['action']})"
        )

    def _on_scenario(self, event: Mapping[str, Any]) -> None:
        self.close()
        what = f"{escape(event['name'])}, seed {event['seed']} ({event['number']} of {event['total']})"
        about = "done already" if event["is_done"] else f"about {duration(event['seconds_left'])} left"
        self.console.print(f"[bold]{what}[/bold] {about}")

    def _on_part(self, event: Mapping[str, Any]) -> None:
        self.close()
        self.console.print(f"[bold]{escape(event['name'])}[/bold]")

    def _on_alone(self, event: Mapping[str, Any]) -> None:
        self.close()
        self.console.print(f"[bold]{escape(event['task'])} by itself[/bold]")

    def _on_embedding(self, event: Mapping[str, Any]) -> None:
        self.progress(f"embedding {event['split']} texts", event["done"], event["total"])

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        self.progress("training steps", event["done"], event["total"])

    def _on_solved(self, event: Mapping[str, Any]) -> None:
        how = f"solved, strength {event['strength']:g}"
        if event.get("kept"):
            scores = f"{event['score_before']:.3f}; solved anew {event['score']:.3f}"
            how = f"kept: validation {scores}, no clear gain"
        self.console.print(f"  {escape(event['task'])} head {how}")

    def _on_evaluation(self, event: Mapping[str, Any]) -> None:
        self._evaluations += 1
        is_better, self._best = event["score"] > self._best, max(self._best, event["score"])
        self._latest, self._is_told = event, False
        if is_better or self._evaluations <= _ALL_TOLD or self._evaluations % _TOLD_EACH == 0:
            self._tell_latest()

    def _tell_latest(self) -> None:
        """A line for the latest evaluation, unless it has one."""
        if self._latest is None or self._is_told:
            return
        self.close()
        self._is_told = True
        scores = ", ".join(f"{escape(name)} {value:.3f}" for name, value in self._latest["main"].items())
        epoch = f"epoch {round(self._latest['epoch'], 2):g}" if self._latest["epoch"] else "solved"
        self.console.print(f"  {epoch}: validation {self._latest['score']:.3f} ({scores})")

    def _on_phase_end(self, event: Mapping[str, Any]) -> None:
        self._tell_latest()
        kept = event["validation"]["score"]
        if self._latest is not None and kept != self._latest["score"]:
            self.console.print(f"  kept: the weights of the best evaluation, validation {kept:.3f}")
        self.console.print(
            f"  {event['seconds']:.0f} s; {event['frozen_tensors_verified']} frozen tensors kept every byte"
        )
        for name, leak in event["leak"].items():
            self.console.print(f"  {escape(leak_sentence(name, leak))}")

    def _on_done(self, event: Mapping[str, Any]) -> None:
        report, folder = event["report"], event["folder"]
        split = "test" if report["test"] else "validation"
        scores = report[split]["tasks"]
        fitted = split == "validation" and any("micro_f1" in one for one in scores.values())
        title = f"{split} scores" + (", thresholds fitted on the same rows" if fitted else "")
        self.console.print(score_table(scores, title=title))
        whole = sum(report["profile"].values())
        for name, seconds in report["profile"].items():
            self.console.print(f"  {name:<16} {seconds:8.1f} s  {seconds / whole:4.0%}")
        for name, found in report.get("alone", {}).items():
            low, high = found["interval"]
            self.console.print(
                f"{escape(name)}: {found['alone']:.3f} by itself, {found['together']:.3f} together "
                f"({found['change']:+.3f}, 95 % {low:+.3f} … {high:+.3f})"
            )
        self.console.print(
            f"{report['seconds']:.0f} s, {report['peak_memory_bytes'] / 2**20:,.0f} MiB at most. Model: "
            f"{escape(folder)}/model. Pictures: {escape(folder)}/trainability.png, curves.png"
        )
