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


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5)])
def test_a_head_that_starts_from_labels_answers_every_text_with_their_shares(weights):
    head = Head(CLASSES.model_copy(update={"class_weights": weights}), width=8)
    labels = np.array([0] * 700 + [1] * 300 + [-100] * 500)
    head.start_from(labels)
    expected = (np.array([700.5, 300.5, 0.5]) / 1001.5) * np.array(weights or (1, 1, 1))
    answers = torch.softmax(head(EMBEDDING), dim=1).detach().numpy()
    np.testing.assert_allclose(answers, np.tile(expected / expected.sum(), (6, 1)), rtol=1e-5)
    assert not head.has_learned


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5)])
def test_a_head_of_several_labels_starts_from_the_odds_at_which_its_loss_is_least(weights):
    head = Head(CLASSES.model_copy(update={"kind": "multilabel", "class_weights": weights}), width=8)
    labels = np.zeros((4000, 3))
    labels[:400, 0], labels[:40, 1], labels[:2000, 2], labels[-1] = 1, 1, 1, math.nan
    head.start_from(labels)
    logits = head(torch.zeros(4000, 8))
    head.loss_sum(logits, torch.from_numpy(labels).float()).backward()
    assert (head.linear.bias.grad.abs() < 0.5).all()  # of 4,000 rows


def test_a_number_starts_from_its_mean():
    head = Head(CLASSES.model_copy(update={"kind": "regression", "labels": ()}), width=8)
    head.start_from(np.array([1.0, 5.0]))
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
