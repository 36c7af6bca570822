"""Charts of a study as plain SVG: no script, colours from the page's style, every text escaped.

A chart is a string of markup; its numbers are written beside the marks, so that it reads without colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from frostline.plan.picture import share

_WIDTH, _LEFT, _RIGHT = 720, 150, 90
_ROW = 30
_NUM_HUES = 8
_MOST_LABELS = 24


def _svg(height: float, title: str, parts: Iterable[str], *, width: float = _WIDTH) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _text(x: float, y: float, text: object, *, anchor: str = "start", style: str = "label") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str = "rule") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _dot(x: float, y: float, *, hue: int = 0, radius: float = 5, said: str = "") -> str:
    tip = f"<title>{escape(said)}</title>" if said else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="hue{hue % _NUM_HUES}">{tip}</circle>'


def _scale(low: float, high: float, start: float, end: float) -> Any:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two values."""
    raw = max(high - low, 1e-9) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def interval_chart(rows: Sequence[tuple[str, float, Sequence[float]]], *, title: str) -> Markup:
    """Scores with their 95 % intervals, a row each.

    Args:
        rows: name, score, (low, high).
        title: what a screen reader says.
    """
    values = [value for _, score, ends in rows for value in (score, *ends)]
    margin = 0.05 * (max(values) - min(values) or 1)
    x = _scale(min(values) - margin, max(values) + margin, _LEFT, _WIDTH - _RIGHT)
    height = _ROW * len(rows) + 34
    parts = []
    for tick in _ticks(min(values) - margin, max(values) + margin):
        parts += [_line(x(tick), 6, x(tick), height - 24, "grid")]
        parts += [_text(x(tick), height - 8, f"{tick:g}", anchor="middle", style="tick")]
    for i, (name, score, (low, high)) in enumerate(rows):
        y = 22 + _ROW * i
        parts += [
            _text(_LEFT - 12, y + 4, name, anchor="end"),
            _line(x(low), y, x(high), y, f"bar hue{i % _NUM_HUES}"),
        ]
        parts += [_dot(x(score), y, hue=i, said=f"{name}: {score:.3f} ({low:.3f} … {high:.3f})")]
        parts += [_text(_WIDTH - _RIGHT + 12, y + 4, f"{score:.3f}", style="figure")]
    return _svg(height, title, parts)


def frontier_chart(points: Sequence[tuple[str, float, float]], *, title: str) -> Markup:
    """Score against seconds (logarithmic); the line joins the plans that no cheaper one beats.

    Args:
        points: name, seconds, score.
        title: what a screen reader says.
    """
    height, bottom = 360, 312
    scores, logs = [p[2] for p in points], [math.log10(max(p[1], 0.1)) for p in points]
    low, high = min(scores), max(scores)
    margin = 0.12 * (high - low or 0.1)
    y = _scale(low - margin, high + margin, bottom, 16)
    x = _scale(min(logs) - 0.1, max(logs) + 0.25, 60, _WIDTH - 40)
    parts = [_line(60, y(t), _WIDTH - 40, y(t), "grid") for t in _ticks(low - margin, high + margin)]
    parts += [
        _text(52, y(t) + 4, f"{t:g}", anchor="end", style="tick") for t in _ticks(low - margin, high + margin)
    ]
    for seconds in _decades(min(logs) - 0.1, max(logs) + 0.25):
        parts += [
            _text(x(math.log10(seconds)), bottom + 20, duration(seconds), anchor="middle", style="tick")
        ]
        parts += [_line(x(math.log10(seconds)), 16, x(math.log10(seconds)), bottom, "grid")]
    parts += [_text(_WIDTH / 2, height - 8, "time to train", anchor="middle", style="tick")]
    best, path = -math.inf, []
    for _, seconds, score in sorted(points, key=lambda p: (p[1], -p[2])):
        if score > best:
            best = score
            path.append(f"{x(math.log10(max(seconds, 0.1))):.1f},{y(score):.1f}")
    parts += [f'<polyline points="{" ".join(path)}" class="frontier"/>']
    taken: list[tuple[float, float]] = []
    for i, (name, seconds, score) in enumerate(points):
        at = (x(math.log10(max(seconds, 0.1))), y(score))
        parts += [_dot(*at, hue=i, radius=6, said=f"{name}: {score:.3f} in {duration(seconds)}")]
        parts += [_label_beside(at, name, taken)]
    return _svg(height, title, parts)


def _label_beside(at: tuple[float, float], name: str, taken: list[tuple[float, float]]) -> str:
    """A name beside its mark, below others that are there already."""
    left = at[0] > _WIDTH - 160
    x, y = at[0] + (-11 if left else 11), at[1] + 4
    while any(abs(x - a) < 90 and abs(y - b) < 14 for a, b in taken):
        y += 14
    taken.append((x, y))
    return _text(x, y, name, anchor="end" if left else "start")


def _decades(low: float, high: float) -> list[float]:
    return [
        s
        for s in (1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10_800, 36_000, 86_400)
        if low <= math.log10(s) <= high
    ]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, short."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def curve_chart(curves: Sequence[Mapping[str, Any]], tasks: Sequence[str], *, title: str) -> Markup:
    """Validation scores over the steps, a line a task and seed; phases and thaws as dashed lines.

    Args:
        curves: as `compare.json` has them.
        tasks: in the order of the hues.
        title: what a screen reader says.
    """
    height, bottom = 230, 190
    values = [v for c in curves for line in c["tasks"].values() for v in line if v is not None]
    last = max((step for c in curves for step in c["steps"]), default=1) or 1
    low, high = min(values, default=0), max(values, default=1)
    margin = 0.08 * (high - low or 0.1)
    y, x = _scale(low - margin, high + margin, bottom, 12), _scale(0, last, 60, _WIDTH - 120)
    parts = []
    for tick in _ticks(low - margin, high + margin, 4):
        parts += [_line(60, y(tick), _WIDTH - 120, y(tick), "grid")]
        parts += [_text(52, y(tick) + 4, f"{tick:g}", anchor="end", style="tick")]
    for step, depth in curves[0]["thaws"]:
        parts += [_line(x(step), 12, x(step), bottom, "thaw")]
        parts += [_text(x(step) + 3, bottom + 14, f"{depth} frozen", style="tick")]
    parts += [_text(_WIDTH - 120, bottom + 30, f"step {last}", anchor="end", style="tick")]
    taken: list[tuple[float, float]] = []
    for hue, task in enumerate(tasks):
        for curve in curves:
            line = curve["tasks"].get(task, [])
            points = [(x(s), y(v)) for s, v in zip(curve["steps"], line, strict=False) if v is not None]
            joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts += [f'<polyline points="{joined}" class="curve hue{hue % _NUM_HUES}"/>']
            parts += [_dot(a, b, hue=hue, radius=3) for a, b in points]
        if points:
            parts += [_label_beside(points[-1], task, taken)]
    return _svg(height, title, parts)


def layer_chart(series: Mapping[str, Mapping[str, float]], *, title: str) -> Markup:
    """A value by stage for several scenarios, stages from the embeddings to the top.

    Args:
        series: scenario to {stage: value}.
        title: what a screen reader says.
    """
    height, bottom = 240, 190
    stages = list(next(iter(series.values())))
    high = max((v for line in series.values() for v in line.values()), default=0) or 1e-3
    y, x = _scale(0, high * 1.08, bottom, 12), _scale(0, max(1, len(stages) - 1), 70, _WIDTH - 130)
    parts = []
    for tick in _ticks(0, high * 1.08, 4):
        parts += [_line(60, y(tick), _WIDTH - 120, y(tick), "grid")]
        parts += [_text(52, y(tick) + 4, f"{tick:.2%}", anchor="end", style="tick")]
    every = max(1, len(stages) // 8)
    for i, stage in list(enumerate(stages))[::every]:
        parts += [_text(x(i), bottom + 18, stage, anchor="middle", style="tick")]
    taken: list[tuple[float, float]] = []
    for hue, (name, line) in enumerate(series.items()):
        points = [(x(i), y(value)) for i, value in enumerate(line.values())]
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts += [f'<polyline points="{joined}" class="curve hue{hue % _NUM_HUES}"/>']
        parts += [
            _dot(a, b, hue=hue, radius=3.5, said=f"{name}: {v:.2%}")
            for (a, b), v in zip(points, line.values(), strict=True)
        ]
        parts += [_label_beside((min(points[-1][0], _WIDTH - 161), points[-1][1]), name, taken)]
    return _svg(height, title, parts)


def confusion_chart(matrix: Sequence[Sequence[int]], labels: Sequence[str], *, title: str) -> Markup:
    """How often each label (row) was answered with each (column): counts, shaded by their share of the row.

    Of many labels, those of most rows.
    """
    matrix, labels = _most_frequent(matrix, labels)
    cell = max(22, min(64, (_WIDTH - _LEFT - 20) // max(1, len(labels))))
    parts, top = [], 70
    for j, label in enumerate(labels):
        at = (_LEFT + cell * j + cell / 2, top - 8)
        turn = f'transform="rotate(-35 {at[0]:.1f} {at[1]:.1f})"'
        parts += [
            f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" class="tick" {turn}>{escape(_short(label, 14))}</text>'
        ]
    for i, row in enumerate(matrix):
        parts += [_text(_LEFT - 8, top + cell * i + cell / 2 + 4, _short(labels[i], 20), anchor="end")]
        total = max(1, sum(row))
        for j, count in enumerate(row):
            x, y = _LEFT + cell * j, top + cell * i
            shade = min(9, int(10 * count / total))
            said = f"<title>{escape(labels[i])} answered as {escape(labels[j])}: {count}</title>"
            box = f'x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}"'
            parts += [f'<rect {box} class="cell{shade}{" right" if i == j else ""}">{said}</rect>']
            if cell > 26:
                style = "on-dark" if shade > 5 else "tick"
                parts += [_text(x + cell / 2, y + cell / 2 + 4, count, anchor="middle", style=style)]
    return _svg(top + cell * len(labels) + 10, title, parts)


def _most_frequent(
    matrix: Sequence[Sequence[int]], labels: Sequence[str]
) -> tuple[list[list[int]], list[str]]:
    by_size = sorted(range(len(labels)), key=lambda i: -sum(matrix[i]))[:_MOST_LABELS]
    kept = sorted(by_size)
    return [[matrix[i][j] for j in kept] for i in kept], [labels[i] for i in kept]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def trainability_chart(table: Mapping[str, Any], *, title: str) -> Markup:
    """Stages and heads by phases: the rate in each cell, hatched where frozen, the share of parameters right.

    Args:
        table: of `Trainability`.
        title: what a screen reader says.
    """
    columns, rows = table["columns"], table["rows"]
    cell = max(54, min(150, (_WIDTH - _LEFT - 150) // max(1, len(columns))))
    total, tall, top = sum(table["num_parameters"]), 22, 26
    width = max(_WIDTH, _LEFT + cell * len(columns) + 150)  # many phases: the page scrolls it
    rates = [r for line in table["rates"] for r in line if r]
    low = math.log10(min(rates, default=1e-6)) - 0.3
    high = math.log10(max(rates, default=1e-2)) + 0.01
    parts = []
    for j, column in enumerate(columns):
        parts += [
            _text(_LEFT + cell * j + cell / 2, 16, _short(column, cell // 7), anchor="middle", style="tick")
        ]
    for i, (name, line, count) in enumerate(zip(rows, table["rates"], table["num_parameters"], strict=True)):
        y = top + tall * i
        parts += [_text(_LEFT - 8, y + 15, _short(name, 22), anchor="end", style="tick")]
        for j, rate in enumerate(line):
            box = f'x="{_LEFT + cell * j}" y="{y}" width="{cell - 2}" height="{tall - 2}"'
            if rate is None:
                parts += [f'<rect {box} class="frozen"/>']
                continue
            heat = 0 if not rate else 1 + min(4, int(5 * (math.log10(rate) - low) / (high - low)))
            parts += [f'<rect {box} class="heat{heat}"/>']
            said = f"{rate:.0e}".replace("e-0", "e-") if rate else "solved"
            parts += [_text(_LEFT + cell * j + cell / 2 - 1, y + 14, said, anchor="middle", style="rate")]
        said = f"{count:,} ({share(count, total)})"
        parts += [_text(_LEFT + cell * len(columns) + 8, y + 15, said, style="tick")]
    return _svg(top + tall * len(rows) + 6, title, parts, width=width)
