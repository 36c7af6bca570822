"""Every recipe on the opinions data: test scores, and wall clock and memory of the whole command.

python benchmarks/recipes.py                     one seed, about ten minutes on 2 cores
python benchmarks/recipes.py --seeds 0 1 2       mean and range over seeds
python benchmarks/recipes.py --recipes features heads
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "examples" / "opinions.toml"
# recipe: macro-F1 of classification and of sentiment at least, seconds at most
TARGETS = {
    "features": (0.880, 0.625, 60),
    "heads": (0.880, 0.625, 60),
    "top-layers": (0.920, 0.665, 360),
    "full": (0.930, 0.725, 600),
}
MOST_MIB = 2048


@dataclass(frozen=True)
class Result:
    """One run of one command."""

    classification: float
    sentiment: float
    seconds: float
    peak_mib: float


def run(recipe: str, seed: int, folder: Path) -> Result:
    """Trains in a process of its own and measures it from outside."""
    command = [
        sys.executable, "-m", "frostline", "train", str(CONFIG), "--output", str(folder / f"{recipe}-{seed}"),
        "--set", f"plan.recipe={recipe}", "--set", f"train.seed={seed}", "--json",
    ]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    tasks = report["test"]["tasks"]
    return Result(
        tasks["classification"]["macro_f1"],
        tasks["sentiment"]["macro_f1"],
        seconds,
        usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    )


def _cell(values: list[float], form: str) -> str:
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}}–{max(values):{form}})"


def main() -> None:
    """Prints a row a recipe as soon as it is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    import torch

    threads = torch.get_num_threads()
    print(f"{platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}")
    print(f"seeds {options.seeds}; mean (range) of the test split; wall clock of the whole command\n")
    print("| recipe | classification | sentiment | at least | seconds | at most | peak MiB | reached |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes:
            results = [run(recipe, seed, Path(folder)) for seed in options.seeds]
            first, second, most = TARGETS[recipe]
            reached = all(
                r.classification >= first
                and r.sentiment >= second
                and r.seconds <= most
                and r.peak_mib <= MOST_MIB
                for r in results
            )
            cells = [
                f"`{recipe}`",
                _cell([r.classification for r in results], ".3f"),
                _cell([r.sentiment for r in results], ".3f"),
                f"{first:.3f} / {second:.3f}",
                _cell([r.seconds for r in results], ".0f"),
                str(most),
                _cell([r.peak_mib for r in results], ".0f"),
                "yes" if reached else "no",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
