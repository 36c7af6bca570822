"""How users of other tools do the work of `peers.py`: transformers' Trainer, SetFit, finetuning-scheduler and
sentence-transformers.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from work import DEPTHS, HEAD_RATE, RATE, TASKS, THAW, Result, Rows, backbone_folder, read_splits, timed


def build_two_heads(splits: dict[str, Rows], top: int | str) -> Any:
    """A BERT and two linear heads in plain PyTorch, frozen below the top layers."""
    import torch
    from torch import nn
    from transformers import AutoModel
    from transformers.modeling_outputs import ModelOutput

    counts = [len({row[task] for row in splits["train"]}) for task in TASKS]

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(backbone_folder())
            width = self.encoder.config.hidden_size
            self.heads = nn.ModuleList([nn.Linear(width, count) for count in counts])
            layers = self.encoder.encoder.layer
            learning = list(layers)[len(layers) - top :] if isinstance(top, int) else [self.encoder]
            self.encoder.requires_grad_(False)
            for module in learning if top else []:
                module.requires_grad_(True)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> ModelOutput:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask[..., None]
            pooled = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
            pooled = pooled * pooled.shape[1] ** 0.5
            logits = [head(pooled) for head in self.heads]
            loss = sum(nn.functional.cross_entropy(one, labels[:, i]) for i, one in enumerate(logits))
            return ModelOutput(loss=loss, logits=tuple(logits))

    torch.manual_seed(0)
    return TwoHeads()


def encoder_of(splits: dict[str, Rows]) -> tuple[Callable[[Rows], list[dict[str, Any]]], Callable[..., Any]]:
    """From rows to token ids and labels, and from these to a padded batch."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone_folder())
    names = {task: sorted({row[task] for row in splits["train"]}) for task in TASKS}

    def encode(split: Rows) -> list[dict[str, Any]]:
        encoded = tokenizer([row["text"] for row in split], truncation=True, max_length=128)["input_ids"]
        labels = [[names[task].index(row[task]) for task in TASKS] for row in split]
        return [{"input_ids": i, "labels": y, "length": len(i)} for i, y in zip(encoded, labels, strict=True)]

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        batch = tokenizer.pad({"input_ids": [item["input_ids"] for item in items]}, return_tensors="pt")
        return {**batch, "labels": torch.tensor([item["labels"] for item in items])}

    return encode, collate


def mean_macro_f1(logits: Any, labels_NT: Any) -> float:
    """Mean over the tasks, of logits of each task and a column of labels for each."""
    import numpy as np
    from sklearn.metrics import f1_score

    pairs = zip(logits, np.asarray(labels_NT).T, strict=True)
    return float(np.mean([f1_score(y, np.asarray(x).argmax(1), average="macro") for x, y in pairs]))


def run_trainer(work: str, rows: int | None, *, is_tuned: bool) -> Result:
    """The Trainer of transformers, encoder and two heads; tuned: bf16 where it pays, grouped by length."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from frostline.model.device import choose_device, choose_precision

    splits = read_splits(rows)
    top, epochs = DEPTHS[work]
    model = build_two_heads(splits, top)
    encode, collate = encoder_of(splits)
    bf16 = is_tuned and choose_precision("auto", device=choose_device("auto"), width=384).format == "bf16"
    track: list[tuple[float, float]] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            track.append((time.perf_counter() - start, metrics["eval_score"]))

    often: dict[str, Any] = {"eval_strategy": "epoch"}
    if work == "to-score":
        often = {"eval_strategy": "steps", "eval_steps": 0.25 / epochs}
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
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                **often,
            ),
            train_dataset=encode(splits["train"]),
            eval_dataset=encode(splits["validation"]),
            data_collator=collate,
            compute_metrics=lambda given: {"score": mean_macro_f1(given.predictions, given.label_ids)},
            callbacks=[Watch()],
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "score": max(score for _, score in track), "track": track}


def run_setfit(work: str, rows: int | None) -> Result:
    """SetFit's differentiable head, a model for each task, since it trains one task at a time."""
    from setfit import SetFitModel
    from sklearn.metrics import f1_score

    splits = read_splits(rows)
    top, epochs = DEPTHS[work]
    seconds, scores = 0.0, []
    for task in TASKS:
        names = sorted({row[task] for row in splits["train"]})
        model = SetFitModel.from_pretrained(
            str(backbone_folder()),
            use_differentiable_head=True,
            head_params={"out_features": len(names)},
            labels=names,
        )
        texts = [row["text"] for row in splits["train"]]
        numbers = [names.index(row[task]) for row in splits["train"]]
        start = time.perf_counter()
        if top == 0:
            model.freeze("body")
        rates = {"body_learning_rate": RATE, "head_learning_rate": HEAD_RATE}
        model.fit(texts, numbers, epochs, 32, end_to_end=top != 0, show_progress_bar=False, **rates)
        answers = model.predict([row["text"] for row in splits["validation"]])
        seconds += time.perf_counter() - start
        scores.append(f1_score([row[task] for row in splits["validation"]], list(answers), average="macro"))
    return {"seconds": seconds, "score": sum(scores) / len(scores)}


def run_scheduler(work: str, rows: int | None) -> Result:
    """finetuning-scheduler thaws heads, top layers and the rest; bf16 where it pays, batches of 64."""
    import lightning
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint
    from torch.utils.data import DataLoader

    from frostline.model.device import choose_device, choose_precision

    splits = read_splits(rows)
    model = build_two_heads(splits, "all")
    encode, collate = encoder_of(splits)
    bf16 = choose_precision("auto", device=choose_device("auto"), width=384).format == "bf16"
    track: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "schedule.yaml"
        file.write_text(_schedule(len(model.encoder.encoder.layer)), "utf-8")
        thawing = FinetuningScheduler(ft_schedule=str(file), epoch_transitions_only=True)
        trainer = lightning.Trainer(
            max_epochs=sum(epochs for _, epochs in THAW),
            accelerator="auto",
            precision="bf16-mixed" if bf16 else "32-true",
            default_root_dir=place,
            callbacks=[thawing, FTSCheckpoint(monitor="val_loss", save_top_k=1)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        train, held = (
            DataLoader(encode(splits[n]), batch_size=64, shuffle=n == "train", collate_fn=collate)  # type: ignore[arg-type]
            for n in ("train", "validation")
        )
        start = time.perf_counter()
        module = _build_module(model, lambda score: track.append((time.perf_counter() - start, score)))
        trainer.fit(module, train, held)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "score": max(score for _, score in track), "track": track}


def _schedule(num_layers: int) -> str:
    """The thaw as finetuning-scheduler's YAML."""
    top = "|".join(str(num_layers - 1 - i) for i in range(int(THAW[1][0])))
    patterns = [r"model\.heads\..*", rf"model\.encoder\.encoder\.layer\.({top})\..*"]
    patterns.append(rf"model\.encoder\.(?!encoder\.layer\.({top})\.).*")
    ends = [sum(epochs for _, epochs in THAW[: i + 1]) for i in range(len(THAW))]
    phases = {
        str(i): {"params": [pattern], "max_transition_epoch": end, "lr": HEAD_RATE if i == 0 else RATE}
        for i, (pattern, end) in enumerate(zip(patterns, ends, strict=True))
    }
    return re.sub(r'"(\d)":', r"\1:", json.dumps(phases))  # JSON is YAML, but phases have numbers


def _build_module(model: Any, tell: Callable[[float], None]) -> Any:
    """The model as Lightning trains it; `tell` gets the score of each validation."""
    import lightning
    import torch

    class Thawing(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.found: list[tuple[Any, Any]] = []

        def training_step(self, batch: dict[str, Any], _: int) -> Any:
            return self.model(**batch).loss

        def validation_step(self, batch: dict[str, Any], _: int) -> None:
            given = self.model(**batch)
            self.found.append(([x.float().cpu() for x in given.logits], batch["labels"].cpu()))
            self.log("val_loss", given.loss, batch_size=len(batch["labels"]))

        def on_validation_epoch_end(self) -> None:
            logits = [torch.cat([one[i] for one, _ in self.found]) for i in range(len(TASKS))]
            tell(mean_macro_f1(logits, torch.cat([labels for _, labels in self.found])))
            self.found = []

        def configure_optimizers(self) -> Any:
            learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return torch.optim.AdamW(learning, lr=HEAD_RATE)

    return Thawing()


def embed_sentence_transformers(rows: int | None, *, dtype: str) -> Result:
    """`SentenceTransformer.encode`, as its users call it."""
    import torch
    from sentence_transformers import SentenceTransformer

    folder = backbone_folder()
    model = SentenceTransformer(str(folder), model_kwargs={"dtype": getattr(torch, dtype)})
    model.max_seq_length = 128
    return timed(lambda texts: model.encode(texts, show_progress_bar=False), rows)
