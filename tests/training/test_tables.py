"""Gradients of embedding tables by row are those that torch makes dense."""

import os
import signal

import pytest
import torch
from torch import nn

import frostline as fl
from conftest import weights
from frostline.errors import Interrupted
from frostline.training import tables
from frostline.training.loop import Trainer
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
    monkeypatch.setattr(tables, "_FEWEST_NUMBERS", 10_000)


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


def test_it_is_off_outside_the_block(large):
    model = Model()
    with pytest.raises(RuntimeError, match="in the block"):
        _fail_within(model)
    assert not model.words.sparse
    backward(model, 0)
    assert not model.words.weight.grad.is_sparse


def test_rows_met_many_times_take_no_more_memory_than_the_table(large):
    model, most = Model(), 0
    with EmbeddingGradients(model).by_row():
        for seed in range(100):
            backward(model, seed, batches=1)
            most = max(most, model.words.weight.grad._nnz())
    assert most <= 3000 < 100 * 4 * 9


def test_a_weight_that_is_read_itself_has_torchs_gradient(large):
    model = Model()
    with EmbeddingGradients(model).by_row():
        (model(torch.tensor([[1, 2, 3]])).sum() + model.words.weight.square().sum()).backward()
    other = Model()
    (other(torch.tensor([[1, 2, 3]])).sum() + other.words.weight.square().sum()).backward()
    torch.testing.assert_close(model.words.weight.grad, other.words.weight.grad)


def _fail_within(model):
    with EmbeddingGradients(model).by_row():
        assert model.words.sparse
        raise RuntimeError("in the block")


@pytest.fixture
def thawing(content):
    """A run whose line comes down to the tables in its second phase, and which computes its stages twice."""
    content["plan"] = {
        "phases": [
            {"top_layers": 1, "epochs": 1, "backbone_lr": 1e-3},
            {"top_layers": "all", "epochs": 2, "backbone_lr": 1e-3},
        ]
    }
    content["train"] |= {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}
    return content


def test_a_run_learns_the_same_with_it(thawing, tmp_path, monkeypatch):
    thawing["train"]["device"] = "cpu"  # on a GPU the gradient stays dense
    gathered = []
    dense = EmbeddingGradients._dense
    monkeypatch.setattr(EmbeddingGradients, "_dense", lambda *a: gathered.append(a) or dense(*a))
    for name, fewest in (("with", 1), ("without", 2**60)):
        monkeypatch.setattr(tables, "_FEWEST_NUMBERS", fewest)
        run = fl.train(thawing, output=tmp_path / name)
        steps = run.report["phases"][1]["steps"]
        assert len(gathered) == 3 * steps, "words, places and types; none in the phase before, nor without"
    for one, other in zip(
        weights(tmp_path / "with").values(), weights(tmp_path / "without").values(), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_run_that_goes_on_is_the_unbroken_run(thawing, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_FEWEST_NUMBERS", 1)
    fl.train(thawing, output=tmp_path / "unbroken")
    step, number = Trainer._step, []

    def stopping(self, *arguments):
        step(self, *arguments)
        number.append(1)
        if len(number) == 10:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", stopping)
    with pytest.raises(Interrupted):
        fl.train(thawing, output=tmp_path / "run")
    fl.resume(tmp_path / "run")
    first, second = weights(tmp_path / "unbroken"), weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)
