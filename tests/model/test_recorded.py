"""Recorded passes against the passes that they stand for; the counting of shapes needs no GPU."""

import numpy as np
import pytest
import torch

import frostline as fl
from conftest import CONFIGS, save_encoder, stop_after, weights
from frostline.data.batches import TokenBatch
from frostline.errors import Interrupted
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone
from frostline.model.recorded import Recordings, can_record, shapes_worth_recording

CUDA = torch.device("cuda")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def loaded(folder):
    backbone = load_backbone(ModelSettings(backbone=str(folder), max_length=32))
    return backbone.train()


def batch_of(lengths, *, seed=0):
    """Random tokens of texts of some lengths, on the GPU."""
    generator = torch.Generator().manual_seed(seed)
    mask_BL = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids_BL = torch.randint(5, 60, mask_BL.shape, generator=generator) * mask_BL
    return TokenBatch(ids_BL, mask_BL).to(CUDA)


def gradients(backbone, stages, batches, *, depth, numbers=torch.float32):
    """Embeddings of batches whose gradients add up, and the gradients of what learns."""
    backbone.zero_grad(set_to_none=True)
    found = []
    for number, batch in enumerate(batches):
        torch.manual_seed(number)
        with torch.autocast("cuda", dtype=numbers, enabled=numbers != torch.float32):
            states = batch.ids_BL
            if depth:
                with torch.no_grad():
                    states = backbone.eval().prefix(batch, depth=depth)
                backbone.train()
            embedding_BD = stages.suffix(states, batch.mask_BL, depth=depth)
        (embedding_BD * torch.linspace(-1, 1, embedding_BD.shape[1], device=CUDA)).sum().backward()
        found.append(embedding_BD.detach())
    return found, {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}


def test_shapes_are_those_that_come_often_enough():
    lengths = [np.array([9, 3]), np.array([12, 2]), np.array([16, 16]), np.array([17, 1]), np.array([5])]
    assert shapes_worth_recording(lengths, times=6) == {(2, 16)}
    assert shapes_worth_recording(lengths, times=16) == {(2, 16), (2, 24), (1, 8)}
    assert shapes_worth_recording([np.array([], dtype=int)] * 20, times=5) == frozenset()


def test_nothing_is_recorded_on_a_processor(backbone):
    assert not can_record(backbone, device=torch.device("cpu"))
    assert can_record(backbone, device=CUDA)
    backbone.recomputes_stages = True
    assert not can_record(backbone, device=CUDA)


@on_gpu
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "distilbert", "electra"])
@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
def test_a_recording_gives_what_the_backbone_gives(kind, depth, numbers, tmp_path):
    backbone = loaded(save_encoder(tmp_path, CONFIGS[kind])).to(CUDA)
    for name, parameter in backbone.named_parameters():
        stage = backbone.stage_of[name]
        parameter.requires_grad_(stage is not None and stage >= depth)
    batches = [batch_of(lengths, seed=i) for i, lengths in enumerate([[8, 5], [8, 3], [16, 2], [8, 1]])]
    recordings = Recordings(backbone, {(2, 8), (2, 16)})
    about = {"depth": depth, "numbers": numbers}
    embeddings, expected = gradients(backbone, backbone, batches, **about)
    replayed, found = gradients(backbone, recordings, batches, **about)
    near = {"rtol": 1e-4, "atol": 1e-5} if numbers == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(replayed, embeddings, **near)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, **near)
    again, repeated = gradients(backbone, recordings, batches, **about)
    assert all(torch.equal(one, two) for one, two in zip(again, replayed, strict=True))
    assert all(torch.equal(repeated[name], found[name]) for name in found)


@on_gpu
def test_shorter_batches_leave_nothing_behind_and_take_nothing_from_the_batch_before(tiny):
    backbone = loaded(tiny).eval().to(CUDA)
    batches = [batch_of(lengths, seed=i) for i, lengths in enumerate([[8, 8], [3, 2], [7, 6], [8, 8]])]
    recordings = Recordings(backbone, {(2, 8)})
    embeddings, expected = gradients(backbone, backbone, batches, depth=0)
    replayed, found = gradients(backbone, recordings, batches, depth=0)
    torch.testing.assert_close(replayed, embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@on_gpu
def test_a_batch_of_another_shape_is_not_replayed_and_adds_up_too(tiny):
    backbone = loaded(tiny).to(CUDA)
    batches = [batch_of([8, 5]), batch_of([9, 5, 3]), batch_of([8, 2])]
    recordings = Recordings(backbone, {(2, 8)})
    embeddings, expected = gradients(backbone, backbone, batches, depth=0)
    replayed, found = gradients(backbone, recordings, batches, depth=0)
    torch.testing.assert_close(replayed, embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@on_gpu
def test_what_an_optimizer_did_is_what_is_replayed(tiny):
    backbone = loaded(tiny).to(CUDA)
    recordings = Recordings(backbone, {(2, 8)})
    gradients(backbone, recordings, [batch_of([8, 5])], depth=0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1.1)
    expected, _ = gradients(backbone, backbone, [batch_of([8, 5])], depth=0)
    found, _ = gradients(backbone, recordings, [batch_of([8, 5])], depth=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@on_gpu
@pytest.mark.parametrize("stop", [3, 20, 70])
def test_a_run_that_goes_on_records_what_the_unbroken_one_did(stop, content, tmp_path):
    content["plan"]["phases"] = [
        {"name": "all", "top_layers": "all", "epochs": 6, "backbone_lr": 1e-3},
        {"name": "top", "top_layers": 1, "epochs": 6, "backbone_lr": 1e-3},
    ]
    content["train"] |= {"precision": "bf16", "save_seconds": 0.01}
    unbroken = fl.train(content, output=tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        fl.train(content, output=tmp_path / "broken", show=stop_after(stop))
    broken = fl.resume(tmp_path / "broken")
    first, second = weights(unbroken.folder), weights(broken.folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    content["train"]["cuda_graphs"] = False
    plain = weights(fl.train(content, output=tmp_path / "plain").folder)
    assert any(not torch.equal(first[name], plain[name]) for name in first)  # recordings were taken
    assert all(torch.allclose(first[name].float(), plain[name].float(), atol=0.1) for name in first)
