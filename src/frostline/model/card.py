"""The model card: what a reader of the folder should know, with the real scores."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from frostline.data.labels import Task
from frostline.errors import counted
from frostline.model.bundle import BundleFile

_METRICS = {"classification": "f1", "multilabel": "f1", "regression": "pearsonr"}


def build_card(tasks: tuple[Task, ...], about: BundleFile, *, split: str) -> str:
    """Text of README.md.

    Args:
        tasks: in the order of the heads.
        about: with the scores.
        split: which split the scores are of.
    """
    scores = about.scores.get("tasks", {})
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="custom",
            dataset_name=f"{task.name} ({split} split)",
            metric_type=_METRICS[task.kind],
            metric_value=round(scores[task.name][task.main_score], 4),
            metric_name=task.main_score,
        )
        for task in tasks
        if task.name in scores
    ]
    head = ModelCardData(
        library_name="sentence-transformers",
        base_model=about.base_model
        if "/" in about.base_model and not about.base_model.startswith("/")
        else None,
        pipeline_tag="sentence-similarity",
        tags=["frostline", "text-classification", "multi-task"],
        model_name="frostline model" if results else None,
        eval_results=results or None,
    )
    lines = [f"| {task.name} | {task.kind} | {_labels(task)} | {_score(task, scores)} |" for task in tasks]
    return f"""---
{head.to_yaml()}
---

# One encoder, {counted(len(tasks), "task")}

Fine-tuned from `{about.base_model}` by frostline {about.frostline}; plan: {about.plan}.

| task | kind | labels | main score ({split}) |
|---|---|---|---|
{chr(10).join(lines)}

```python
import frostline as fl

model = fl.load("path/to/this/folder")
model.predict(["A text."])
```

`SentenceTransformer("path/to/this/folder")` gives the same embeddings.
Texts are cut at {about.max_length} tokens.
"""


def _labels(task: Task) -> str:
    return (
        ", ".join(f"`{label}`" for label in task.labels[:12]) + (" …" if len(task.labels) > 12 else "")
        or "a number"
    )


def _score(task: Task, scores: dict[str, dict[str, float]]) -> str:
    return (
        f"{task.main_score} {scores[task.name][task.main_score]:.3f}"
        if task.name in scores
        else "not measured"
    )
