"""Texts one after the other without padding: the states that they give with it."""

import pytest
import torch

from conftest import CONFIGS, save_encoder
from frostline.data.batches import pad, tokenize
from frostline.model import backbone as runs
from frostline.model import packing
from frostline.model.architectures import LAYOUTS
from frostline.model.device import Precision, choose_device
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone
from frostline.model.packing import can_pack

DEVICE, CUDA = choose_device("auto"), torch.device("cuda")
PACKING = [name for name, layout in LAYOUTS.items() if layout.packs]
TEXTS = [
    "the goal was great",
    "a sad bank [PAD] [PAD] was very sad",
    "soup and bread and salt and the very awful price of it all was one",
]


@pytest.fixture
def load(tmp_path):
    def load(name):
        folder = save_encoder(tmp_path / name, CONFIGS[name])
        return load_backbone(ModelSettings(backbone=str(folder), max_length=32))

    return load


@pytest.fixture
def is_at_hand(monkeypatch):
    """As if a GPU with the kernel were here."""
    monkeypatch.setattr(packing, "has_kernel", lambda device: True)


def batch_of(encoder):
    return pad(tokenize(encoder.tokenizer, TEXTS, max_length=32), range(len(TEXTS)), pad_id=encoder.pad_id)


@pytest.mark.parametrize("name", PACKING)
def test_texts_without_padding_give_the_same_states(name, load, monkeypatch):
    encoder = load(name)
    batch = batch_of(encoder)
    mask = batch.mask_BL.bool()
    assert encoder.pad_id in batch.ids_BL[mask], "a text may spell padding"
    with torch.no_grad():
        padded = [encoder.hidden(batch.ids_BL, batch.mask_BL, start=0, stop=stop) for stop in (1, 2, 3)]
        whole = encoder(batch)
        monkeypatch.setattr(runs, "can_pack", lambda *_, **__: True)
        for stop, states in zip((1, 2, 3), padded, strict=True):
            packed = encoder.hidden(batch.ids_BL, batch.mask_BL, start=0, stop=stop)
            torch.testing.assert_close(packed[mask], states[mask], atol=1e-5, rtol=1e-5)
            assert not packed[~mask].any()
        suffix = encoder.suffix(padded[0], batch.mask_BL, depth=1)
    torch.testing.assert_close(suffix, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PACKING)
def test_the_device_of_this_machine_gives_the_same_in_bf16(name, load, monkeypatch):
    encoder = load(name).to(DEVICE)
    batch = batch_of(encoder).to(DEVICE)
    with torch.no_grad(), Precision("bf16", "asked for").autocast(DEVICE):
        usual = encoder(batch)
        is_packed = DEVICE.type != "cuda"
        monkeypatch.setattr(runs, "can_pack", lambda *_, **__: is_packed)
        torch.testing.assert_close(encoder(batch), usual, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("is_at_hand")
def test_a_gpu_leaves_the_padding_out_in_half_precision_where_nothing_learns(name, load):
    encoder = load(name)
    with torch.no_grad():
        assert not can_pack(encoder.transformer, device=CUDA), "float32"
        model = encoder.to_format(torch.bfloat16).transformer
        is_ours = model.config._attn_implementation == packing.ATTENTION
        assert can_pack(model, device=CUDA) == is_ours
        assert is_ours or not encoder.layout.packs
        assert not can_pack(model, device=torch.device("cpu"))
        model.train()
        assert not can_pack(model, device=CUDA), "dropout"
    model.eval()
    assert not can_pack(model, device=CUDA), "gradient"


@pytest.mark.usefixtures("is_at_hand")
def test_another_attention_or_a_decoder_keeps_its_padding(load):
    model = load("bert").to_format(torch.bfloat16).transformer
    with torch.no_grad():
        assert can_pack(model, device=CUDA)
        model.config.is_decoder = True
        assert not can_pack(model, device=CUDA)
        model.config.is_decoder = False
        model.set_attn_implementation("eager")
        assert not can_pack(model, device=CUDA)


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True)])
def test_an_older_gpu_has_no_such_kernel(capability, has, monkeypatch):
    packing.has_kernel.cache_clear()
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert packing.has_kernel(CUDA) == has
    packing.has_kernel.cache_clear()
