"""Losses of a step: labelled rows alone count, however the step is cut into parts."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import toy_rows
from frostline.data.batches import Split, tokenize
from frostline.data.labels import Task
from frostline.model.device import Precision
from frostline.model.multitask import MultitaskModel
from frostline.plan.freeze import freeze_to
from frostline.plan.groups import build_groups, build_optimizer
from frostline.plan.phase import Phase
from frostline.training.activations import Activations
from frostline.training.losses import add_gradients

PHASE = Phase(top_layers=1, weight_decay=0.5)
HEADS = ("topic", "mood", "stars")
TASKS = (
    Task(
        name="topic", column="topic", kind="classification", labels=("a", "b", "c"), class_weights=(1, 2, 3)
    ),
    Task(name="mood", column="mood", kind="multilabel", labels=("x", "y")),
    Task(name="stars", column="stars", kind="regression", target_mean=1.0, target_std=2.0),
)


@pytest.fixture
def parts(backbone):
    """A model that obeys a phase, its activations and a split of twelve rows, some labels missing."""
    model = MultitaskModel(backbone, TASKS)
    for task in TASKS:
        torch.nn.init.normal_(model.head(task.name).linear.weight)
    freeze_to(model, PHASE, depth=3)
    generator = np.random.default_rng(0)
    labels = {
        "topic": generator.integers(0, 3, 12),
        "mood": generator.integers(0, 2, (12, 2)).astype(np.float32),
        "stars": generator.normal(size=12).astype(np.float32),
    }
    labels["topic"][:3] = -100
    labels["mood"][4:6] = np.nan
    labels["stars"][1] = np.nan
    texts = [row["text"] for row in toy_rows(12, seed=0)]
    split = Split("train", tokenize(backbone.tokenizer, texts, max_length=16), labels)
    cpu = torch.device("cpu")
    return model, Activations(backbone, precision=Precision("fp32", ""), device=cpu), split


def gradients(model, activations, split, batches):
    model.zero_grad(set_to_none=True)
    model.eval()  # dropout would differ between the cuts
    losses = add_gradients(model, activations, split, batches, heads=HEADS)
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_gradients_of_a_step_do_not_depend_on_how_it_is_cut(parts):
    rows = np.arange(12)
    whole, expected = gradients(*parts, [rows])
    cut, found = gradients(*parts, [rows[:2], rows[2:3], rows[3:]])
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    for name, loss in whole.items():
        torch.testing.assert_close(cut[name], loss, atol=1e-5, rtol=1e-4)


class Casts(TorchDispatchMode):
    """Counts how often each of some tensors is cast."""

    def __init__(self, tensors):
        super().__init__()
        self.found = {tensor.data_ptr(): 0 for tensor in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.found:
            self.found[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_step_in_bf16_casts_each_weight_once_and_has_the_bits_of_casting_it_for_every_batch(
    parts, monkeypatch, recomputes
):
    model, activations, split = parts
    activations.precision = Precision("bf16", "")
    model.backbone.recomputes_stages = recomputes
    weights = [p for name, p in model.backbone.named_parameters() if p.requires_grad and p.ndim == 2]
    batches = [np.arange(5), np.arange(5, 8), np.arange(8, 12)]
    with Casts(weights) as casts:
        _, once = gradients(model, activations, split, batches)
    assert set(casts.found.values()) == {1}
    batch = Activations.batch

    def forget(self, *arguments, **more):
        torch.clear_autocast_cache()
        return batch(self, *arguments, **more)

    monkeypatch.setattr(Activations, "batch", forget)
    with Casts(weights) as casts:
        _, often = gradients(model, activations, split, batches)
    assert min(casts.found.values()) >= 3
    assert all(torch.equal(once[name], gradient) for name, gradient in often.items())


def test_rows_without_a_label_add_nothing(parts):
    model, activations, split = parts
    _, everything = gradients(*parts, [np.arange(12)])
    labelled = np.flatnonzero(split.labels["topic"] != -100)
    _, known = gradients(model, activations, split, [labelled])
    name = "heads.topic_head.linear.weight"
    torch.testing.assert_close(everything[name], known[name], atol=1e-5, rtol=1e-4)


def test_a_step_without_a_label_leaves_that_head_alone_by_decay_too(parts):
    model, activations, split = parts
    optimizer = build_optimizer(model, build_groups(model, PHASE))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = add_gradients(model, activations, split, [np.arange(3)], heads=HEADS)
    optimizer.step()
    assert set(losses) == {"mood", "stars"}
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not any("topic_head" in name for name in moved)
    assert any("mood_head" in name for name in moved)


def test_a_frozen_head_has_no_loss(parts):
    losses = add_gradients(*parts, [np.arange(12)], heads=("topic",))
    assert set(losses) == {"topic"}


def test_a_head_that_knows_nothing_has_a_loss_of_about_one(parts):
    model, activations, split = parts
    for task in TASKS:
        torch.nn.init.zeros_(model.head(task.name).linear.weight)
    losses = add_gradients(model, activations, split, [np.arange(12)], heads=HEADS)
    assert float(losses["topic"]) == pytest.approx(1)
    assert float(losses["mood"]) == pytest.approx(1)
