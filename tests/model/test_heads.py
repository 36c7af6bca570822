import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from frostline.data.labels import Task
from frostline.model.heads import Head, probabilities

EMBEDDING = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
CLASSES = Task(name="t", column="t", kind="classification", labels=("a", "b", "c"))


def head_of(task, seed=1):
    head = Head(task, width=8)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(seed))
    return head


def test_a_fresh_head_gives_every_class_the_same_and_a_loss_of_one():
    head = Head(CLASSES, width=8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    logits = head(EMBEDDING)
    assert (logits == 0).all()
    assert (head.loss_sum(logits, labels) / head.label_weight(labels)).item() == pytest.approx(1.0)


TAGS = CLASSES.model_copy(update={"kind": "multilabel"})


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5)])
def test_several_labels_start_at_the_least_loss_that_needs_no_text(weights):
    head = Head(TAGS.model_copy(update={"class_weights": weights}), width=8)
    labels = np.full((1500, 3), math.nan)
    labels[:1000] = np.eye(3)[[0] * 700 + [1] * 290 + [2] * 10]
    head.start_at_base_rates(labels)
    head.loss_sum(head(EMBEDDING.repeat(250, 1)), torch.from_numpy(labels).float()).backward()
    assert (head.linear.bias.grad.abs() < 1).all()  # of 1,000 rows; half a row is added to each label
    assert not head.has_learned


def test_a_label_without_rows_never_starts_as_the_likeliest():
    head = Head(TAGS.model_copy(update={"class_weights": (1.0, 1.0, 4000.0)}), width=8)
    head.start_at_base_rates(np.eye(3)[np.repeat([0, 1], 500)])
    assert head.linear.bias.argmin() == 2


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (CLASSES, np.array([0, 0, 0, 1, 2])),
        (CLASSES.model_copy(update={"kind": "regression", "labels": ()}), np.array([1.0, 5.0])),
        (TAGS, np.full((4, 3), math.nan)),
    ],
)
def test_other_heads_start_at_zero(task, labels):
    head = Head(task, width=8)
    head.start_at_base_rates(labels)
    assert not head.linear.bias.any()


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_a_missing_label_adds_no_loss_and_no_gradient(kind):
    task = CLASSES.model_copy(update={"kind": kind, "labels": () if kind == "regression" else CLASSES.labels})
    labels = {
        "classification": torch.tensor([0, -100, 2]),
        "multilabel": torch.tensor([[1.0, 0, 1], [math.nan] * 3, [0, 0, 1]]),
        "regression": torch.tensor([0.5, math.nan, -1.0]),
    }[kind]
    head = head_of(task)
    given = EMBEDDING[:3].clone().requires_grad_()
    loss = head.loss_sum(head(given), labels)
    loss.backward()
    kept = [0, 2]
    assert loss.item() == pytest.approx(head.loss_sum(head(EMBEDDING[kept]), labels[kept]).item(), rel=1e-6)
    assert head.label_weight(labels) == 2
    assert (given.grad[1] == 0).all()
    assert (given.grad[kept] != 0).any()


def test_class_weights_and_smoothing_are_those_of_torch():
    task = CLASSES.model_copy(update={"class_weights": (1.0, 2.0, 0.5), "label_smoothing": 0.1})
    head, labels = head_of(task), torch.tensor([0, 1, 2, -100, 1, 1])
    ours = head.loss_sum(head(EMBEDDING), labels) / head.label_weight(labels)
    theirs = F.cross_entropy(
        head(EMBEDDING), labels, weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1
    ) / math.log(3)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_probabilities_are_as_people_want_them():
    logits = np.array([[1000.0, -1000.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(probabilities(CLASSES, logits), [[1, 0, 0], [1 / 3] * 3], atol=1e-6)
    several = CLASSES.model_copy(update={"kind": "multilabel"})
    np.testing.assert_allclose(probabilities(several, logits), [[1, 0, 0.5], [0.5] * 3], atol=1e-6)
    number = Task(name="r", column="r", kind="regression", target_mean=2.0, target_std=3.0)
    np.testing.assert_allclose(probabilities(number, np.array([[1.0], [-1.0]])), [5.0, -1.0])
