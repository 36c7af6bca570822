"""frostline against what people would use instead, in alternation on the same rows of `opinions`.

pip install accelerate                                   what transformers' Trainer needs
python benchmarks/peers.py                               every piece of work, five rounds: hours without bf16
python benchmarks/peers.py --rows 2000 --rounds 3 --work heads top-layers

Each contender runs in a process of its own, so that none warms up for another. Seconds are those of training
with an evaluation an epoch (or of embedding); loading the model and reading the file are left out for all.
The score is the mean macro-F1 of both tasks on the validation split, so that speed is never bought with
quality.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "examples" / "opinions"
TASKS = ("classification", "sentiment")
# layers that learn, epochs
WORK = {"heads": (0, 10), "top-layers": (2, 5), "full": ("all", 3), "embed": (0, 0)}
RATE, HEAD_RATE = 1e-4, 1e-3
Rows = list[dict[str, Any]]


def read_rows(name: str, most: int | None) -> Rows:
    """Rows of a split."""
    lines = (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()[:most]
    return [json.loads(line) for line in lines]


def run_frostline(work: str, rows: int | None) -> dict[str, float]:
    """Phases with a store that is filled anew."""
    import frostline as fl

    top, epochs = WORK[work]
    phase = {"top_layers": top, "head_lr": HEAD_RATE, "epochs": epochs}
    if top != 0:
        phase |= {"backbone_lr": RATE, "layer_decay": 0.9}
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "data": {"train": read_rows("train", rows), "validation": read_rows("validation", rows)},
            "tasks": {name: {} for name in TASKS},
            "plan": {"phases": [phase]},
            "train": {"activations": {"folder": folder}},
        }
        report = fl.train(config, output=Path(folder) / "run").report
    return {"seconds": report["phases"][0]["seconds"], "score": report["validation"]["score"]}


def run_trainer(work: str, rows: int | None, *, is_tuned: bool) -> dict[str, float]:
    """The Trainer of transformers, encoder and two heads; tuned: bf16 where it pays, grouped by length."""
    import numpy as np
    import torch
    from sklearn.metrics import f1_score
    from torch import nn
    from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments
    from transformers.modeling_outputs import ModelOutput

    from frostline.model.device import choose_precision
    from frostline.model.domains import find_backbone

    folder = find_backbone("general").folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    splits = {name: read_rows(name, rows) for name in ("train", "validation")}
    names = {task: sorted({row[task] for row in splits["train"]}) for task in TASKS}
    top, epochs = WORK[work]

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder)
            self.heads = nn.ModuleList(
                [nn.Linear(self.encoder.config.hidden_size, len(n)) for n in names.values()]
            )
            layers = self.encoder.encoder.layer
            learning = list(layers)[len(layers) - top :] if isinstance(top, int) else [self.encoder]
            for parameter in self.encoder.parameters():
                parameter.requires_grad_(False)
            for module in learning if top else []:
                for parameter in module.parameters():
                    parameter.requires_grad_(True)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> ModelOutput:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask[..., None]
            pooled = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
            pooled = pooled * pooled.shape[1] ** 0.5
            logits = [head(pooled) for head in self.heads]
            loss = sum(nn.functional.cross_entropy(one, labels[:, i]) for i, one in enumerate(logits))
            return ModelOutput(loss=loss, logits=tuple(logits))

    def encode(split: Rows) -> list[dict[str, Any]]:
        encoded = tokenizer([row["text"] for row in split], truncation=True, max_length=128)["input_ids"]
        labels = [[names[task].index(row[task]) for task in TASKS] for row in split]
        return [{"input_ids": i, "labels": y, "length": len(i)} for i, y in zip(encoded, labels, strict=True)]

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        batch = tokenizer.pad({"input_ids": [item["input_ids"] for item in items]}, return_tensors="pt")
        return {**batch, "labels": torch.tensor([item["labels"] for item in items])}

    def scores(given: Any) -> dict[str, float]:
        pairs = zip(given.predictions, given.label_ids.T, strict=True)
        return {"score": float(np.mean([f1_score(y, x.argmax(1), average="macro") for x, y in pairs]))}

    torch.manual_seed(0)
    model = TwoHeads()
    bf16 = is_tuned and choose_precision("auto", device=torch.device("cpu"), width=384).format == "bf16"
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(
            model,
            TrainingArguments(
                place,
                num_train_epochs=epochs,
                per_device_train_batch_size=64 if is_tuned else 32,
                per_device_eval_batch_size=64 if is_tuned else 32,
                learning_rate=HEAD_RATE if top == 0 else RATE,
                bf16=bf16,
                train_sampling_strategy="group_by_length" if is_tuned else "random",
                length_column_name="length",
                remove_unused_columns=False,
                eval_strategy="epoch",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=encode(splits["train"]),
            eval_dataset=encode(splits["validation"]),
            data_collator=collate,
            compute_metrics=scores,
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    last = [entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry]
    return {"seconds": seconds, "score": max(last)}


def embed_frostline(rows: int | None) -> dict[str, float]:
    """`Model.encode` of an untrained bundle: what `frostline embed` runs."""
    import frostline as fl

    with tempfile.TemporaryDirectory() as folder:
        config = {
            "data": {"train": read_rows("train", 200), "validation": read_rows("validation", 50)},
            "tasks": {name: {} for name in TASKS},
            "plan": {"recipe": "features"},
        }
        model = fl.train(config, output=Path(folder) / "run").load()
    return _timed(model.encode, rows)


def embed_sentence_transformers(rows: int | None, *, dtype: str) -> dict[str, float]:
    """`SentenceTransformer.encode`, as its users call it."""
    import torch
    from sentence_transformers import SentenceTransformer

    from frostline.model.domains import find_backbone

    folder = find_backbone("general").folder
    model = SentenceTransformer(str(folder), model_kwargs={"dtype": getattr(torch, dtype)})
    model.max_seq_length = 128
    return _timed(lambda texts: model.encode(texts, show_progress_bar=False), rows)


def _timed(encode: Callable[[list[str]], Any], rows: int | None) -> dict[str, float]:
    texts = [row["text"] for row in read_rows("train", rows)]
    encode(texts[:64])
    start = time.perf_counter()
    encode(texts)
    return {"seconds": time.perf_counter() - start, "score": float("nan")}


CONTENDERS: dict[str, Callable[[str, int | None], dict[str, float]]] = {
    "frostline": lambda work, rows: embed_frostline(rows) if work == "embed" else run_frostline(work, rows),
    "Trainer, defaults": lambda work, rows: run_trainer(work, rows, is_tuned=False),
    "Trainer, tuned": lambda work, rows: run_trainer(work, rows, is_tuned=True),
    "encode, float32": lambda _, rows: embed_sentence_transformers(rows, dtype="float32"),
    "encode, bfloat16": lambda _, rows: embed_sentence_transformers(rows, dtype="bfloat16"),
}


def contenders_of(work: str) -> list[str]:
    """Who does a piece of work, frostline first."""
    return [
        name for name in CONTENDERS if name == "frostline" or name.startswith("encode") == (work == "embed")
    ]


def measure(name: str, work: str, rows: int | None) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--single", name, "--work", work, "--rows", str(rows or 0)]
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(command, env=quiet, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(work: str, rows: int | None, rounds: int) -> None:
    """Prints a row a contender: seconds, how many times frostline is as fast, memory, score."""
    names = contenders_of(work)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(measure(name, work, rows))
    ours = [result["seconds"] for result in found["frostline"]]
    for name in names:
        seconds = [result["seconds"] for result in found[name]]
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        cells = [
            work, name, f"{statistics.median(seconds):.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{max(result['peak_mib'] for result in found[name]):.0f}",
            f"{statistics.median(result['score'] for result in found[name]):.3f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Compares, or runs a single contender and prints its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--rows", type=int, default=0, help="of each split; 0: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--single", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = options.rows or None
    if options.single:
        result = CONTENDERS[options.single](options.work[0], rows)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps(result | {"peak_mib": peak}))
        return
    import torch

    from frostline.model.device import choose_precision

    reason = choose_precision("auto", device=torch.device("cpu"), width=384).reason
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{reason}; {options.rows or 'all'} rows, medians of {options.rounds} rounds\n")
    print("| work | contender | seconds | frostline is so many times as fast (range) | peak MiB | score |")
    print("|---|---|---|---|---|---|")
    for work in options.work:
        compare(work, rows, options.rounds)


if __name__ == "__main__":
    main()
