"""Recorded passes against the passes that they stand for; what of it needs no GPU is tried without."""

import copy

import numpy as np
import pytest
import torch
from replaying import Recorder

import frostline as fl
from conftest import CONFIGS, save_encoder, stop_after, weights
from frostline.data.batches import TokenBatch
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone
from frostline.model.recorded import Gradients, Recordings, can_record, put, shapes_worth_recording

CUDA = torch.device("cuda")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BF16 = pytest.param(torch.bfloat16, marks=on_gpu)
NUMBERS = pytest.mark.parametrize("numbers", [torch.float32, BF16])
NEAR = {torch.float32: 1e-5, torch.bfloat16: 0.03}  # of a tensor's norm


@pytest.fixture
def place(monkeypatch):
    """The GPU, or a processor and what stands in for CUDA graphs."""
    if torch.cuda.is_available():
        return CUDA
    recorder = Recorder()
    for name in recorder.NAMES:
        monkeypatch.setattr(torch.cuda, name, getattr(recorder, name))
    return torch.device("cpu")


def loaded(folder, place):
    """A backbone; without dropout on a processor, whose masks the stand-in would repeat."""
    backbone = load_backbone(ModelSettings(backbone=str(folder), max_length=32))
    return backbone.train(place == CUDA).to(place)


def batch_of(lengths, place, *, seed=0):
    """Random tokens of texts of some lengths."""
    generator = torch.Generator().manual_seed(seed)
    mask_BL = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids_BL = torch.randint(5, 60, mask_BL.shape, generator=generator) * mask_BL
    return TokenBatch(ids_BL, mask_BL).to(place)


def gradients(backbone, stages, batches, *, depth=0, numbers=torch.float32):
    """Tensors by name: the embeddings of batches whose gradients add up, and the gradients of what learns."""
    backbone.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype=numbers, enabled=numbers != torch.float32):
        found = {f"{i}": one_pass(backbone, stages, batch, depth=depth) for i, batch in enumerate(batches)}
    return found | {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}


def one_pass(backbone, stages, batch, *, depth):
    torch.manual_seed(0)
    states = batch.ids_BL
    if depth:
        was = backbone.training
        with torch.no_grad():
            states = backbone.eval().prefix(batch, depth=depth)
        backbone.train(was)
    embedding_BD = stages.suffix(states, batch.mask_BL, depth=depth)
    with torch.autocast("cuda", enabled=False):
        (embedding_BD * torch.linspace(-1, 1, embedding_BD.shape[1]).to(embedding_BD)).sum().backward()
    return embedding_BD.detach()


def assert_near(found, expected, numbers=torch.float32):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # A softmax does not see what all keys share: the gradient of their bias is rounding and nothing else.
        if not name.endswith(("key.bias", "k_lin.bias")):
            assert (found[name] - tensor).norm() <= NEAR[numbers] * (tensor.norm() + 1e-3), name


def test_shapes_are_those_that_come_often_enough():
    lengths = [np.array([9, 3]), np.array([12, 2]), np.array([16, 16]), np.array([17, 1]), np.array([5])]
    assert shapes_worth_recording(lengths, num_epochs=6) == {(2, 16)}
    assert shapes_worth_recording(lengths, num_epochs=16) == {(2, 16), (2, 24), (1, 8)}
    assert shapes_worth_recording([np.array([], dtype=int)] * 20, num_epochs=5) == frozenset()


def test_only_layers_of_known_kinds_are_recorded_and_only_on_a_gpu(backbone, tmp_path):
    assert not can_record(backbone, 0, device=torch.device("cpu"))
    assert can_record(backbone, 0, device=CUDA)
    assert not can_record(backbone, backbone.num_stages, device=CUDA)
    backbone.recomputes_stages = True
    assert not can_record(backbone, 0, device=CUDA)
    other = save_encoder(tmp_path, CONFIGS["modernbert"])
    assert not can_record(load_backbone(ModelSettings(backbone=str(other), max_length=32)), 0, device=CUDA)


def test_gradients_are_added_to_what_was_there_and_begin_with_zero():
    fresh, added, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    kept = Gradients({"fresh": fresh, "added": added, "unused": unused})
    for name, twin in kept.twins.items():
        own = kept.weights[name]
        assert twin is not own and twin.data_ptr() == own.data_ptr() and twin.is_leaf and twin.requires_grad
    kept.keep([True, True, False])
    added.grad = torch.full((2,), 3.0)
    for step in (1, 2):
        kept.settle()
        for buffer in kept.buffers:
            buffer.add_(1)
        assert fresh.grad.tolist() == [step] * 2 and added.grad.tolist() == [3 + step] * 2
        assert unused.grad is None
    fresh.grad = added.grad = None
    kept.settle()
    assert fresh.grad.tolist() == added.grad.tolist() == [0, 0]


def test_a_shorter_batch_clears_the_places_behind_it():
    place = torch.ones(2, 4, 3)
    put(place, torch.full((2, 3, 3), 2.0))
    assert place[:, :3].eq(2).all() and place[:, 3].eq(0).all()


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "distilbert", "electra"])
@NUMBERS
def test_a_recording_gives_what_the_backbone_gives(kind, depth, numbers, place, tmp_path):
    backbone = loaded(save_encoder(tmp_path, CONFIGS[kind]), place)
    for name, parameter in backbone.named_parameters():
        stage = backbone.stage_of[name]
        parameter.requires_grad_(stage is not None and stage >= depth)
    # As long as places are, for the same draws of dropout; one shape is not recorded, and comes first.
    lengths = [[8, 5, 4], [8, 5], [8, 3], [16, 2], [8, 1]]
    batches = [batch_of(one, place, seed=i) for i, one in enumerate(lengths)]
    recordings = Recordings(backbone, shapes={(2, 8), (2, 16)})
    about = {"depth": depth, "numbers": numbers}
    expected = gradients(backbone, backbone, batches, **about)
    recorded = gradients(backbone, recordings, batches, **about)
    assert_near(recorded, expected, numbers)
    replayed = gradients(backbone, recordings, batches, **about)
    assert all(torch.equal(recorded[name], replayed[name]) for name in recorded)


def test_shorter_batches_leave_nothing_behind_and_take_nothing_from_the_batch_before(tiny, place):
    backbone = loaded(tiny, place).eval()  # without dropout, which would draw for more places
    lengths = [[8, 8], [3, 2], [7, 6], [8, 8]]
    batches = [batch_of(one, place, seed=i) for i, one in enumerate(lengths)]
    expected = gradients(backbone, backbone, batches)
    assert_near(gradients(backbone, Recordings(backbone, shapes={(2, 8)}), batches), expected)


@NUMBERS
def test_a_pass_from_before_that_is_still_held_changes_nothing(numbers, tiny, place):
    backbone, batch = loaded(tiny, place), batch_of([8, 5], place)
    expected = gradients(backbone, backbone, [batch], numbers=numbers)
    with torch.autocast("cuda", dtype=numbers, enabled=numbers != torch.float32):
        held = backbone(batch)  # weights that it cast are still in reach, too
        recorded = gradients(backbone, Recordings(backbone, shapes={(2, 8)}), [batch], numbers=numbers)
    assert_near(recorded, expected, numbers)
    assert held.requires_grad


@NUMBERS
def test_what_an_optimizer_did_is_what_is_replayed(numbers, tiny, place):
    backbone, batches = loaded(tiny, place), [batch_of([8, 5], place)]
    recordings = Recordings(backbone, shapes={(2, 8)})
    before = gradients(backbone, recordings, batches, numbers=numbers)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("dense.weight"):
                parameter.mul_(3)
    expected = gradients(backbone, backbone, batches, numbers=numbers)
    assert_near(gradients(backbone, recordings, batches, numbers=numbers), expected, numbers)
    assert (before["0"] - expected["0"]).norm() > 0.1 * expected["0"].norm()


@pytest.fixture
def recorded_depths(monkeypatch):
    """Where recordings begin, as runs take them; a shape is worth one when it comes twice."""
    depths, record = [], Recordings._record

    def noted(self, states, shape, *, start):
        depths.append(start)
        return record(self, states, shape, start=start)

    monkeypatch.setattr(Recordings, "_record", noted)
    monkeypatch.setattr("frostline.training.loop.can_record", lambda *_, **__: True)
    monkeypatch.setattr("frostline.model.recorded._WORTH_STEPS", 2)
    return depths


@pytest.fixture
def replayed(content, place, tmp_path):
    """A config of two phases; without dropout on a processor, whose masks the stand-in would repeat."""
    config = copy.deepcopy(CONFIGS["bert"])
    if place != CUDA:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    content["model"]["backbone"] = str(save_encoder(tmp_path / "encoder", config))
    content["plan"]["phases"] = [
        {"name": "all", "top_layers": "all", "epochs": 2, "backbone_lr": 1e-3},
        {"name": "top", "top_layers": 1, "epochs": 2, "backbone_lr": 1e-3},
    ]
    content["train"] |= {"precision": "bf16" if place == CUDA else "fp32"}
    return content


@pytest.mark.parametrize("stop", [3, 10, 25])
def test_a_run_that_goes_on_records_what_the_unbroken_one_did(stop, replayed, recorded_depths, tmp_path):
    replayed["train"]["save_seconds"] = 0.01
    unbroken = weights(fl.train(replayed, output=tmp_path / "unbroken").folder)
    assert set(recorded_depths) == {1, 3}
    recorded_depths.clear()
    with pytest.raises(fl.Interrupted):
        fl.train(replayed, output=tmp_path / "broken", show=stop_after(stop))
    broken = weights(fl.resume(tmp_path / "broken").folder)
    assert recorded_depths[0] == 1 and recorded_depths[-1] == 3
    assert all(torch.equal(unbroken[name], broken[name]) for name in unbroken)


def test_a_run_learns_from_recordings_what_it_learns_without(replayed, recorded_depths, tmp_path):
    # Where places are as many as tokens alone, dropout draws the same masks: here there is none.
    plain_encoder = copy.deepcopy(CONFIGS["bert"])
    plain_encoder.hidden_dropout_prob = plain_encoder.attention_probs_dropout_prob = 0.0
    replayed["model"]["backbone"] = str(save_encoder(tmp_path / "plain_encoder", plain_encoder))
    replayed["train"] |= {"precision": "fp32", "cuda_graphs": False}
    plain = weights(fl.train(replayed, output=tmp_path / "plain").folder)
    assert not recorded_depths
    replayed["train"]["cuda_graphs"] = True
    found = weights(fl.train(replayed, output=tmp_path / "replayed").folder)
    assert set(recorded_depths) == {1, 3}
    for name, tensor in plain.items():
        if "key.bias" not in name:  # see assert_near
            assert (found[name] - tensor).norm() <= 0.01 * tensor.norm(), name
