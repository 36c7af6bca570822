"""What storing the outputs of frozen stages does to what is learned: five seeds, two top layers, opinions.

python benchmarks/store.py                      2,000 training rows, about a quarter of an hour on 2 cores
python benchmarks/store.py --ways stored computed --seeds 0 1 2

Ways: stored as float16 (what a run does), computed in every epoch, stored as bfloat16 or float32, and
computed with the dropout of the frozen stages awake, which frostline never does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import frostline as fl
from frostline.data.batches import Split
from frostline.data.table import IntN
from frostline.training.activations import Activations, SuffixInput

OPINIONS = Path(__file__).parents[1] / "examples" / "opinions"
WAYS = ("stored", "computed", "bf16", "fp32", "dropout")
_batch = Activations.batch


def _with_dropout(self: Activations, split: Split, rows: IntN, *, depth: int) -> SuffixInput:
    """`Activations.batch` with the frozen stages in training mode for training texts."""
    modules = [module for stage in range(depth) for module in self._prefix.stage_modules(stage)]
    for module in modules:
        module.train(split.name == "train")
    try:
        return _batch(self, split, rows, depth=depth)
    finally:
        for module in modules:
            module.eval()


def _format(self: Activations, depth: int, name: str) -> str:
    """Embeddings are float32 always; hidden states of the format asked for."""
    return "fp32" if depth == self.backbone.num_stages else name


@contextmanager
def way(name: str) -> Iterator[None]:
    """The way of handling frozen stages, for as long as the block lasts."""
    if name == "dropout":
        with patch.object(Activations, "batch", _with_dropout):
            yield
    elif name in ("bf16", "fp32"):
        with patch.object(Activations, "_numbers", lambda self, depth: _format(self, depth, name)):
            yield
    else:
        yield


def run(name: str, seed: int, rows: int, folder: Path) -> dict[str, Any]:
    """Report of one run, its stores in a folder of their own."""
    config = fl.Config.build(
        {
            "data": {
                "train": str(OPINIONS / "train.jsonl"),
                "validation": str(OPINIONS / "validation.jsonl"),
                "max_train_samples": rows,
                "split_seed": 0,
            },
            "tasks": {"classification": {}, "sentiment": {}},
            "plan": {"recipe": "top-layers"},
            "train": {
                "seed": seed,
                "activations": {
                    "store": "never" if name in ("computed", "dropout") else "always",
                    "folder": str(folder / f"stores-{name}"),
                },
            },
        }
    )
    with way(name):
        return fl.train(config, output=folder / f"{name}-{seed}").report


def main() -> None:
    """Prints a row a way: validation scores of every seed, and seconds of the phase that descends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.ways}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:  # in alternation, since machines are shared
            for name in options.ways:
                found[name].append(run(name, seed, options.rows, Path(folder)))
    first = [report["validation"]["score"] for report in found[options.ways[0]]]
    print("| way | mean | standard deviation | change, seed by seed | seconds of the phase |")
    print("|---|---|---|---|---|")
    for name, reports in found.items():
        scores = [report["validation"]["score"] for report in reports]
        change = [score - other for score, other in zip(scores, first, strict=True)]
        seconds = statistics.median(report["phases"][-1]["seconds"] for report in reports)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        changes = f"{statistics.mean(change):+.4f} ({min(change):+.4f} … {max(change):+.4f})"
        print(f"| {name} | {statistics.mean(scores):.4f} | {spread:.4f} | {changes} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
