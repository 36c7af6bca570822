"""How the seconds and the memory of `frostline train` grow with the rows.

python benchmarks/growth.py                                  1,000 to 100,000 rows, heads and top layers
python benchmarks/growth.py --rows 1000000 --recipes heads   the largest; half an hour with bf16

Rows are two random sentences of `opinions` joined, so that no text repeats; labels are those of the first.
Memory is what the process held at its peak, sampled: `own` is anonymous memory, `mapped` the pages of files
that the system had lent it, which it takes back when others need them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

OPINIONS = Path(__file__).parents[1] / "examples" / "opinions"
_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
        rows: for training.
        seconds: of the whole command.
        own_mib: peak of anonymous memory.
        mapped_mib: peak of mapped pages of files.
    """

    recipe: str
    rows: int
    seconds: float
    own_mib: float
    mapped_mib: float


def write_rows(path: Path, name: str, number: int) -> None:
    """A file of `number` rows, no text twice."""
    rows = [json.loads(line) for line in (OPINIONS / f"{name}.jsonl").open(encoding="utf-8")]
    generator = np.random.default_rng(0)
    pairs = generator.choice(len(rows) ** 2, size=number, replace=False, shuffle=True)
    with path.open("w", encoding="utf-8") as stream:
        for first, second in zip(pairs // len(rows), pairs % len(rows), strict=True):
            text = f"{rows[first]['text']} {rows[second]['text']}"
            row = {"text": text, **{task: rows[first][task] for task in ("classification", "sentiment")}}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(recipe: str, rows: int, folder: Path) -> Cost:
    """Trains in a process of its own, with a cache of its own, and watches its memory."""
    write_rows(folder / "train.jsonl", "train", rows)
    write_rows(folder / "validation.jsonl", "validation", 2000)
    files = {name: json.dumps(str(folder / f"{name}.jsonl")) for name in ("train", "validation")}
    (folder / "config.toml").write_text(
        f"[data]\ntrain = {files['train']}\nvalidation = {files['validation']}\n"
        f'[tasks.classification]\n[tasks.sentiment]\n[plan]\nrecipe = "{recipe}"\n',
        "utf-8",
    )
    command = [
        sys.executable, "-m", "frostline", "train", str(folder / "config.toml"), "--json",
        "--output", str(folder / "run"),
    ]  # fmt: skip
    peaks = {"RssAnon": 0, "RssFile": 0}
    start = time.perf_counter()
    env = os.environ | {"HF_HUB_OFFLINE": "1", "FROSTLINE_CACHE": str(folder / "cache")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    watching = threading.Thread(target=watch, args=(process, peaks))
    watching.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    watching.join()
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Cost(recipe, rows, seconds, peaks["RssAnon"] / 2**10, peaks["RssFile"] / 2**10)


def watch(process: subprocess.Popen[bytes], peaks: dict[str, int]) -> None:
    """Keeps the largest of each kind of memory, in KiB, until the process ends."""
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]))
        time.sleep(_SAMPLE_SECONDS)


def draw(costs: list[Cost], path: Path) -> None:
    """Seconds and memory over rows, a line a recipe."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for recipe in dict.fromkeys(cost.recipe for cost in costs):
        ours = sorted((cost for cost in costs if cost.recipe == recipe), key=lambda cost: cost.rows)
        rows = [cost.rows for cost in ours]
        left.plot(rows, [cost.seconds for cost in ours], marker="o", label=recipe)
        right.plot(rows, [cost.own_mib for cost in ours], marker="o", label=recipe)
    for axes, name in ((left, "seconds of the command"), (right, "memory of its own, MiB")):
        axes.set(xscale="log", xlabel="training rows", ylabel=name)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="lower right")
    left.set_yscale("log")
    right.margins(y=0.25)
    right.set_ylim(bottom=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Prints a row a run; a file of earlier runs is added to, and drawn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--recipes", nargs="+", default=["heads", "top-layers"])
    parser.add_argument("--found", type=Path, default=Path("runs/growth.json"), help="all figures so far")
    parser.add_argument("--picture", type=Path, default=Path("runs/growth.png"))
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {time.strftime('%Y-%m-%d')}")
    print("| recipe | rows | seconds | ms a row | own MiB | mapped MiB |\n|---|---|---|---|---|---|")
    costs = [Cost(**c) for c in json.loads(options.found.read_text())] if options.found.is_file() else []
    for recipe in options.recipes:
        for rows in options.rows:
            with tempfile.TemporaryDirectory() as folder:
                cost = measure(recipe, rows, Path(folder))
            costs = [c for c in costs if (c.recipe, c.rows) != (recipe, rows)] + [cost]
            options.found.parent.mkdir(parents=True, exist_ok=True)
            options.found.write_text(json.dumps([asdict(c) for c in costs]))
            milliseconds = 1000 * cost.seconds / rows
            cells = [f"`{recipe}`", f"{rows:,}", f"{cost.seconds:.0f}", f"{milliseconds:.2f}"]
            print(f"| {' | '.join(cells)} | {cost.own_mib:.0f} | {cost.mapped_mib:.0f} |", flush=True)
    draw(costs, options.picture)


if __name__ == "__main__":
    main()
