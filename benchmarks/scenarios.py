"""What the store saves of the scenarios over a frozen prefix, one after the other on opinions.

python benchmarks/scenarios.py                                all rows, half an hour on 2 cores with bf16
python benchmarks/scenarios.py --recipes heads features --rows 2000

Ways: the store as a run decides on it, shared by the scenarios, empty at first; none, where the embeddings of
a backbone that is frozen whole are still held in memory for the run; and computed, where every epoch and
every evaluation runs the frozen stages, as a training loop with `requires_grad = False` does. The last two
differ only where the whole backbone is frozen. Seconds are of whole runs; those of the first have imports in
them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from work import TASKS, read_splits

import frostline as fl
from frostline.data.batches import Split, pad
from frostline.data.table import IntN
from frostline.model.cores import map_batches
from frostline.training.activations import Activations

WAYS = ("store", "none", "computed")


def _hold_nothing(self: Activations, split: Split, depth: int, key: str) -> Iterator[int]:
    """`Activations._hold` without its pass."""
    yield self.num_texts(split)


def _embeddings(self: Activations, split: Split, rows: IntN) -> torch.Tensor:
    """`Activations._embeddings`, computed."""

    def forward(places: IntN) -> torch.Tensor:
        tokens = pad(split.tokens, rows[places], pad_id=self.backbone.pad_id).to(self.device)
        with torch.no_grad(), self.precision.autocast(self.device):
            return self._prefix.prefix(tokens, depth=self.backbone.num_stages).float()

    embedding_BD = torch.empty(len(rows), self.backbone.width, device=self.device)
    lengths = split.tokens.length_N[rows]
    batches = self._prefix.batches(lengths, device=self.device, precision=self.precision)
    for places, values in map_batches(forward, batches, device=self.device):
        embedding_BD[torch.from_numpy(places).to(self.device)] = values
    return embedding_BD


def way(name: str) -> AbstractContextManager[object]:
    """The way of handling frozen stages, for as long as the block lasts."""
    if name != "computed":
        return nullcontext()
    return patch.multiple(Activations, _hold=_hold_nothing, _embeddings=_embeddings)


def seconds_of(recipe: str, name: str, *, rows: int, folder: Path) -> tuple[float, float]:
    """Of a run, and its score on validation."""
    config = {
        "data": read_splits(rows or None),
        "tasks": {name: {} for name in TASKS},
        "plan": {"recipe": recipe},
        "train": {
            "activations": {"store": "auto" if name == "store" else "never", "folder": str(folder / "stores")}
        },
    }
    start = time.perf_counter()
    with way(name):
        report = fl.train(config, output=folder / f"{name}-{recipe}").report
    return time.perf_counter() - start, report["validation"]["score"]


def main() -> None:
    """Prints a row a scenario, and their sums."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=["heads", "features", "top-layers", "gradual"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--rows", type=int, default=0, help="for training; 0: all")
    options = parser.parse_args()
    print(f"| scenario | {' | '.join(options.ways)} |\n|---|{'---|' * len(options.ways)}")
    sums = dict.fromkeys(options.ways, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes:  # the ways in turn, since machines are shared
            cells = []
            for name in options.ways:
                seconds, score = seconds_of(recipe, name, rows=options.rows, folder=Path(folder))
                sums[name] += seconds
                cells.append(f"{seconds:.0f} s, {score:.3f}; in all {sums[name]:.0f} s")
            print(f"| `{recipe}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
