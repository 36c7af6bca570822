"""frostline against transformers' Trainer and sentence-transformers on a GPU: a BERT-base shape, 12 layers of
width 768.

python benchmarks/gpu.py --rows 2048 --rounds 3      accelerate beside frostline's own requirements
python benchmarks/gpu.py --work passes               a minute: passes with padding and without, by their size

All in one process and in alternation, after a round that is not counted. The weights are random, so there is
no score to speak of: `peers.py` shows that speed is not bought with quality. Rates are texts that learned (or
were embedded) a second; the share is useful operations over the measured rate of bf16 products, without
padding, and without those of the evaluations, whose seconds are counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from work import DEPTHS, Result, backbone_folder, product_rate, read_rows, use_backbone, useful_gflop

_HEADER = "| work | contender | seconds | texts/s | frostline is so many times as fast | MiB | of the limit |"
SHAPE = {"layers": 12, "width": 768, "inner": 3072}
WORK = {
    "heads": ("frostline", "Trainer, tuned", "Trainer, defaults"),
    "top-layers": ("frostline", "Trainer, tuned", "Trainer, defaults"),
    "full": ("frostline", "Trainer, tuned", "Trainer, defaults"),
    "embed": ("frostline", "encode, bfloat16", "encode, float32"),
}


def save_backbone(folder: Path) -> None:
    """A BERT of the shape with random weights and the packaged tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=SHAPE["width"], num_hidden_layers=SHAPE["layers"], intermediate_size=SHAPE["inner"]
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone_folder()).save_pretrained(folder)


def gflop_a_text(rows: int | None) -> float:
    """Of a forward pass, on average."""
    from transformers import AutoTokenizer

    texts = [row["text"] for row in read_rows("train", rows)]
    ids = AutoTokenizer.from_pretrained(backbone_folder())(texts, max_length=128, truncation=True)
    return useful_gflop([len(one) for one in ids["input_ids"]], **SHAPE) / len(texts)


def measure(name: str, work: str, rows: int | None) -> dict[str, Any]:
    """The figures of one run, with the most device memory that it had."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result: Result = CONTENDERS[name][1](work, rows)
    return {**result, "peak_mib": torch.cuda.max_memory_allocated() / 2**20}


def compare(work: str, rows: int | None, rounds: int, limit: float) -> None:
    """Prints a row a contender."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WORK[work]}
    for number in range(rounds + 1):
        for name in WORK[work] if number % 2 == 0 else reversed(WORK[work]):
            result = measure(name, work, rows)
            if number > 0:
                found[name].append(result)
    passes = DEPTHS[work][1] if work in DEPTHS else 1
    texts = passes * len(read_rows("train", rows))
    ours = [result["seconds"] for result in found["frostline"]]
    for name, results in found.items():
        seconds = [result["seconds"] for result in results]
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        rate = texts / statistics.median(seconds)
        factor = {"embed": 1, "full": 3}.get(work)
        share = f"{factor * rate * gflop_a_text(rows) / limit:.1%}" if factor else ""
        cells = [
            work, name, f"{statistics.median(seconds):.2f}", f"{rate:.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{max(result['peak_mib'] for result in results):.0f}", share,
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def time_passes(rows: int | None, rounds: int, limit: float) -> None:
    """Prints how fast a pass without gradient is, with padding and without, by the tokens of a batch."""
    from unittest.mock import patch

    import torch

    from frostline.data.batches import tokenize
    from frostline.model import backbone as runs
    from frostline.model.device import Precision
    from frostline.model.domains import ModelSettings
    from frostline.model.loading import load_backbone
    from frostline.training import embed

    backbone = load_backbone(ModelSettings(backbone=str(backbone_folder()))).to("cuda")
    texts = [row["text"] for row in read_rows("train", rows)]
    tokens = tokenize(backbone.tokenizer, texts, max_length=backbone.max_length)
    precision = Precision("bf16", "asked for")
    print("\n| tokens at once | padding | seconds | texts/s | of the limit |\n|---|---|---|---|---|")
    for at_once in (16_384, 65_536):
        for is_padded in (True, False):
            seconds = []
            with (
                patch.object(embed, "forward_tokens", lambda _, n=at_once: n),
                patch.object(runs, "can_pack", (lambda *_, **__: False) if is_padded else runs.can_pack),
            ):
                for _ in range(rounds + 1):
                    start = time.perf_counter()
                    embed.embedding_matrix(backbone, tokens, precision=precision, device=torch.device("cuda"))
                    seconds.append(time.perf_counter() - start)
            rate = len(texts) / statistics.median(seconds[1:])
            share = rate * gflop_a_text(rows) / limit
            row = [
                at_once,
                "yes" if is_padded else "no",
                f"{len(texts) / rate:.2f}",
                f"{rate:.0f}",
                f"{share:.1%}",
            ]
            print(f"| {' | '.join(map(str, row))} |", flush=True)


def main() -> None:
    """Compares all pieces of work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=[*WORK, "passes"])
    parser.add_argument("--rows", type=int, default=0, help="for training, validation in proportion; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use")
    limit = product_rate(width=SHAPE["width"], inner=SHAPE["inner"])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print(f"bf16 products of the layers' shapes: {limit / 1000:.0f} TFLOP/s")
    print(f"rows: {options.rows or 'all'}, medians of {options.rounds} rounds")
    print(
        "| work | contender | seconds | texts/s | frostline is so many times as fast | MiB | of the limit |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        save_backbone(Path(name))
        use_backbone(Path(name))
        if "passes" in options.work:
            time_passes(options.rows or None, options.rounds, limit)
        works = [work for work in options.work if work != "passes"]
        if works:
            print(f"\n{_HEADER}\n|---|---|---|---|---|---|---|")
        for work in works:
            compare(work, options.rows or None, options.rounds, limit)


if __name__ == "__main__":
    main()
