"""Gradients of embedding tables by row are those that torch makes dense."""

import pytest
import torch
from torch import nn

import frostline as fl
from conftest import weights
from frostline.training import tables
from frostline.training.tables import EmbeddingGradients


class Model(nn.Module):
    """A large table with a padding row, a small one, and what reads them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(3000, 8, padding_idx=0)
        self.places = nn.Embedding(9, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, ids):
        places = torch.arange(ids.shape[1]).expand_as(ids)
        return self.out((self.words(ids) + self.places(places)).tanh())


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(tables, "_LARGE", 10_000)


def backward(model, seed, batches=2):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        model(torch.randint(0, 50, (4, 9), generator=generator)).square().sum().backward()


def test_gradients_of_every_step_are_those_of_torch(large):
    ours, theirs = Model(), Model()
    gradients, places = EmbeddingGradients(ours), []
    for seed in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        with gradients.by_row():
            backward(ours, seed)
            assert ours.words.weight.grad.is_sparse and not ours.places.weight.grad.is_sparse
        backward(theirs, seed)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert not mine.grad.is_sparse
            torch.testing.assert_close(mine.grad, other.grad)
        places.append(ours.words.weight.grad.data_ptr())
        nn.utils.clip_grad_norm_(ours.parameters(), 1e-3)
    assert len(set(places)) == 1, "the buffer stays"


def test_a_frozen_table_and_one_that_was_not_read_have_no_gradient(large):
    model = Model()
    model.words.weight.requires_grad_(False)
    with EmbeddingGradients(model).by_row():
        backward(model, 0)
    assert model.words.weight.grad is None
    model.words.weight.requires_grad_(True)
    model.zero_grad()
    with EmbeddingGradients(model).by_row():
        pass
    assert model.words.weight.grad is None


def test_it_is_off_outside_the_block_and_for_several_processes(large):
    model = Model()
    with pytest.raises(RuntimeError, match="in the block"):
        _fail_within(model)
    assert not model.words.sparse
    with EmbeddingGradients(model, is_on=False).by_row():
        assert not model.words.sparse


def _fail_within(model):
    with EmbeddingGradients(model).by_row():
        assert model.words.sparse
        raise RuntimeError("in the block")


def test_a_run_learns_the_same_with_it(content, tmp_path, monkeypatch):
    content["plan"] = {"phases": [{"top_layers": "all", "epochs": 2, "backbone_lr": 1e-3}]}
    with_it, without = tmp_path / "with", tmp_path / "without"
    monkeypatch.setattr(tables, "_LARGE", 1)
    fl.train(content, output=with_it)
    monkeypatch.setattr(tables, "_LARGE", 2**60)
    fl.train(content, output=without)
    for one, other in zip(weights(with_it).values(), weights(without).values(), strict=True):
        torch.testing.assert_close(one, other)
