"""What `peers.py` compares: each contender does a piece of work as its users would.

A contender takes the name of the work and the rows for training (None: all), and returns its seconds, its
score, and where it trains the track of (seconds, score) at its evaluations.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from others import embed_sentence_transformers, run_scheduler, run_setfit, run_trainer
from work import (
    DEPTHS,
    HEAD_RATE,
    PHASES,
    RATE,
    TASKS,
    WORK,
    Result,
    backbone_folder,
    read_rows,
    read_splits,
    timed,
)


def run_frostline(work: str, rows: int | None, *, store: str = "auto") -> Result:
    """Phases with a store that is filled anew; to a score, the plan that was quickest on validation."""
    import frostline as fl

    plan: dict[str, Any] = {"phases": [_phase(top, epochs) for top, epochs in PHASES[work]]}
    if work == "to-score":  # docs/experiments.md
        often = {"backbone_lr": 2 * RATE, "evaluations_per_epoch": 4}
        plan = {"phases": [_phase("all", 2) | often]}
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "model": {"backbone": str(backbone_folder())},
            "data": read_splits(rows),
            "tasks": {name: {} for name in TASKS},
            "plan": plan,
            "train": {"activations": {"folder": folder, "store": store}},
        }
        seen: list[tuple[float, dict[str, Any]]] = []
        run = fl.train(
            config, output=Path(folder) / "run", show=lambda event: seen.append((time.perf_counter(), event))
        )
    start = next(moment for moment, event in seen if event["event"] == "phase")
    track = [(moment - start, event["score"]) for moment, event in seen if event["event"] == "evaluation"]
    seconds = sum(phase["seconds"] for phase in run.report["phases"])
    return {"seconds": seconds, "score": run.report["validation"]["score"], "track": track}


def _phase(top: int | str, epochs: int) -> dict[str, Any]:
    phase: dict[str, Any] = {"top_layers": top, "head_lr": HEAD_RATE, "epochs": epochs}
    return phase if top == 0 else phase | {"backbone_lr": RATE, "layer_decay": 0.9}


def embed_frostline(_: str, rows: int | None) -> Result:
    """`Model.encode` of an untrained bundle: what `frostline embed` runs."""
    import frostline as fl
    from frostline.data.batches import tokenize

    with tempfile.TemporaryDirectory() as folder:
        config = {
            "model": {"backbone": str(backbone_folder())},
            "data": {"train": read_rows("train", 200), "validation": read_rows("validation", 50)},
            "tasks": {name: {} for name in TASKS},
            "plan": {"recipe": "features"},
        }
        model = fl.train(config, output=Path(folder) / "run").load()
    backbone = model.network.backbone
    alone = timed(
        model.encode_tokens,
        rows,
        prepare=lambda texts: tokenize(backbone.tokenizer, texts, max_length=backbone.max_length),
    )
    result = timed(model.encode, rows)
    return result | {"pass_share": alone["share_of_limit"]} if "share_of_limit" in alone else result


Contender = Callable[[str, int | None], Result]
OURS: dict[str, Contender] = {"embed": embed_frostline}
# Who, at which work.
CONTENDERS: dict[str, tuple[tuple[str, ...], Contender]] = {
    "frostline": (WORK, lambda work, rows: OURS.get(work, run_frostline)(work, rows)),
    "Trainer, defaults": (tuple(DEPTHS), lambda work, rows: run_trainer(work, rows, is_tuned=False)),
    "Trainer, tuned": (tuple(DEPTHS), lambda work, rows: run_trainer(work, rows, is_tuned=True)),
    "SetFit": (("heads", "full"), run_setfit),
    "finetuning-scheduler": (("thaw",), run_scheduler),
    "encode, float32": (("embed",), lambda _, rows: embed_sentence_transformers(rows, dtype="float32")),
    "encode, bfloat16": (("embed",), lambda _, rows: embed_sentence_transformers(rows, dtype="bfloat16")),
}
# The package that a contender needs, where frostline does not.
NEEDS = {
    "Trainer, defaults": "accelerate",
    "Trainer, tuned": "accelerate",
    "SetFit": "setfit",
    "finetuning-scheduler": "finetuning_scheduler",
}
