"""frostline against transformers' Trainer and sentence-transformers on a GPU: a BERT-base shape.

python benchmarks/gpu.py --rows 2048 --rounds 3      accelerate beside frostline's own requirements
python benchmarks/gpu.py --work passes               passes with padding and without, by their size
python benchmarks/gpu.py --work stores               two layers, by where the states below them lie

All in one process and in alternation, after a round over few rows that does not count; with random weights,
so no scores. Shares are of the measured rate of bf16 products, without the operations of padding and of
evaluations.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from contenders import CONTENDERS, run_frostline
from work import DEPTHS, Result, backbone_folder, product_rate, read_rows, use_backbone, useful_gflop

_HEADER = "| work | contender | seconds | texts/s | frostline is so many times as fast | MiB | of the limit |"
_WARM_UP_ROWS = 128
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


def gflop_a_text(num_rows: int | None) -> float:
    """Of a forward pass, on average."""
    from transformers import AutoTokenizer

    texts = [row["text"] for row in read_rows("train", num_rows)]
    ids = AutoTokenizer.from_pretrained(backbone_folder())(texts, max_length=128, truncation=True)
    return useful_gflop([len(one) for one in ids["input_ids"]], **SHAPE) / len(texts)


def measure(name: str, *, work: str, num_rows: int | None) -> dict[str, Any]:
    """The figures of one run, with the most device memory that torch held for it."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result: Result = CONTENDERS[name][1](work, num_rows)
    return {**result, "peak_mib": torch.cuda.max_memory_reserved() / 2**20}


def compare(
    work: str, names: list[str], *, num_rows: int | None, num_rounds: int, limit_gflops: float
) -> None:
    """Prints a row a contender."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(num_rounds + 1):
        for name in names if number % 2 == 0 else reversed(names):
            result = measure(name, work=work, num_rows=num_rows if number > 0 else _WARM_UP_ROWS)
            if number > 0:
                found[name].append(result)
    passes = DEPTHS[work][1] if work in DEPTHS else 1
    num_texts = passes * len(read_rows("train", num_rows))
    ours = [result["seconds"] for result in found["frostline"]]
    for name, results in found.items():
        seconds = [result["seconds"] for result in results]
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        rate = num_texts / statistics.median(seconds)
        factor = {"embed": 1, "full": 3}.get(work)
        share = f"{factor * rate * gflop_a_text(num_rows) / limit_gflops:.1%}" if factor else ""
        cells = [
            work, name, f"{statistics.median(seconds):.2f}", f"{rate:.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{max(result['peak_mib'] for result in results):.0f}", share,
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def compare_stores(num_rows: int | None, *, num_rounds: int) -> None:
    """Prints what two layers take with their states in the GPU's memory, on the disk, and computed again."""
    from frostline.training import activations

    print("\n| states below the line | seconds | texts/s |\n|---|---|---|")
    seconds: dict[str, list[float]] = {"in the GPU's memory": [], "on the disk": [], "computed again": []}
    for number in range(num_rounds + 1):
        for name in seconds if number % 2 == 0 else reversed(seconds):
            where = (lambda store, **_: store) if name == "on the disk" else activations.held_where_it_fits
            store = "never" if name == "computed again" else "always"
            with patch.object(activations, "held_where_it_fits", where):
                result = run_frostline("top-layers", num_rows if number > 0 else _WARM_UP_ROWS, store=store)
            if number > 0:
                seconds[name].append(result["seconds"])
    num_texts = DEPTHS["top-layers"][1] * len(read_rows("train", num_rows))
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.2f} ({min(found):.2f}–{max(found):.2f}) | {num_texts / middle:.0f} |")


def time_passes(num_rows: int | None, *, num_rounds: int, limit_gflops: float) -> None:
    """Prints how fast a pass without gradient is, with padding and without, by the tokens of a batch."""
    import torch

    from frostline.data.batches import tokenize
    from frostline.model import backbone as runs
    from frostline.model.domains import ModelSettings
    from frostline.model.loading import load_backbone

    backbone = load_backbone(ModelSettings(backbone=str(backbone_folder()))).to("cuda")
    backbone.to_format(torch.bfloat16)
    texts = [row["text"] for row in read_rows("train", num_rows)]
    tokens = tokenize(backbone.tokenizer, texts, max_length=backbone.max_length)
    print("\n| tokens at once | padding | seconds | texts/s | of the limit |\n|---|---|---|---|---|")
    for most_tokens in (16_384, 65_536):
        for is_padded in (True, False):
            with patch.object(runs, "can_pack", (lambda *_, **__: False) if is_padded else runs.can_pack):
                seconds = [_seconds_of_passes(backbone, tokens, most_tokens) for _ in range(num_rounds + 1)]
            rate = len(texts) / statistics.median(seconds[1:])
            share = rate * gflop_a_text(num_rows) / limit_gflops
            cells = [str(most_tokens), "yes" if is_padded else "no", f"{len(texts) / rate:.2f}"]
            print(f"| {' | '.join(cells)} | {rate:.0f} | {share:.1%} |", flush=True)


def _seconds_of_passes(backbone: Any, tokens: Any, most_tokens: int) -> float:
    """Of all texts, padding and copying to the GPU included."""
    import torch

    from frostline.data.batches import pad, sorted_batches

    start = time.perf_counter()
    with torch.inference_mode():
        for rows in sorted_batches(tokens.length_N, max_tokens=most_tokens):
            backbone(pad(tokens, rows, pad_id=backbone.pad_id).to(torch.device("cuda")))
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Compares all pieces of work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=[*WORK, "passes", "stores"])
    others = sorted({name for names in WORK.values() for name in names} - {"frostline"})
    parser.add_argument("--without", nargs="+", default=[], choices=others)
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
    with tempfile.TemporaryDirectory() as name:
        save_backbone(Path(name))
        use_backbone(Path(name))
        about: dict[str, Any] = {"num_rounds": options.rounds, "limit_gflops": limit}
        if "passes" in options.work:
            time_passes(options.rows or None, **about)
        if "stores" in options.work:
            compare_stores(options.rows or None, num_rounds=options.rounds)
        works = [work for work in options.work if work in WORK]
        print(f"\n{_HEADER}\n|---|---|---|---|---|---|---|" if works else "")
        for work in works:
            names = [name for name in WORK[work] if name not in options.without]
            compare(work, names, num_rows=options.rows or None, **about)


if __name__ == "__main__":
    main()
