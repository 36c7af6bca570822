"""The work that `peers.py` compares: rows, depths, rates, and the figures of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

OPINIONS = Path(__file__).parents[1] / "examples" / "opinions"
TASKS = ("classification", "sentiment")
# Work that trains: layers that learn, epochs.
DEPTHS: dict[str, tuple[int | str, int]] = {
    "heads": (0, 10),
    "top-layers": (2, 5),
    "full": ("all", 3),
    "to-score": ("all", 3),
}
# A thaw: layers that learn and epochs, in turn.
THAW: tuple[tuple[int | str, int], ...] = ((0, 2), (2, 2), ("all", 2))
WORK = (*DEPTHS, "thaw", "embed")
RATE, HEAD_RATE = 1e-4, 1e-3
Rows = list[dict[str, Any]]


class Result(TypedDict, total=False):
    """Figures of one run."""

    seconds: float
    score: float
    track: list[tuple[float, float]]
    peak_mib: float


def read_rows(name: str, most: int | None) -> Rows:
    """Rows of a split, `most` of them at equal distances."""
    lines = (OPINIONS / f"{name}.jsonl").read_text("utf-8").splitlines()
    step = max(1.0, len(lines) / most) if most else 1.0
    return [json.loads(lines[int(i * step)]) for i in range(min(len(lines), most or len(lines)))]


def read_splits(rows: int | None) -> dict[str, Rows]:
    """Training and validation rows."""
    return {name: read_rows(name, rows) for name in ("train", "validation")}


def timed(encode: Callable[[list[str]], Any], rows: int | None) -> Result:
    """Seconds in which a warmed-up encoder embeds the training texts."""
    texts = [row["text"] for row in read_rows("train", rows)]
    encode(texts[:64])
    start = time.perf_counter()
    encode(texts)
    return {"seconds": time.perf_counter() - start, "score": float("nan")}
