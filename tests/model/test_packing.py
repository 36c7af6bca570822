"""Texts one after the other without padding: the states that they give with it."""

import numpy as np
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
from frostline.model.packing import Packing, can_pack

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
        packs, asked = runs.can_pack, []
        monkeypatch.setattr(runs, "can_pack", lambda *a, **more: asked.append(packs(*a, **more)) or asked[-1])
        usual = encoder(batch)
        assert asked == [DEVICE.type == "cpu" or packing.has_kernel(DEVICE)]
        monkeypatch.setattr(runs, "can_pack", lambda *_, **__: False)
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


def test_a_cpu_leaves_the_padding_out_where_products_are_in_bf16(load):
    model = load("bert").train().transformer
    cpu = torch.device("cpu")
    assert not can_pack(model, device=cpu), "float32"
    with Precision("bf16", "asked for").autocast(cpu):
        assert can_pack(model, device=cpu)
    assert can_pack(model.to(torch.bfloat16), device=cpu)


def test_batches_are_filled_where_a_cpu_leaves_the_padding_out_and_nowhere_else(load):
    model, cpu, lengths = load("bert"), torch.device("cpu"), np.array([600, 500, 30, 5])
    found = {
        numbers: [
            rows.tolist() for rows in model.batches(lengths, device=cpu, precision=Precision(numbers, ""))
        ]
        for numbers in ("fp32", "bf16")
    }
    assert found == {"fp32": [[0], [1, 2], [3]], "bf16": [[0, 2], [1, 3]]}
    padding = load("mpnet").batches(lengths, device=cpu, precision=Precision("bf16", ""))
    assert [rows.tolist() for rows in padding] == found["fp32"]


@pytest.mark.parametrize("name", PACKING)
@pytest.mark.parametrize(("start", "recomputes"), [(0, False), (1, False), (0, True)])
def test_texts_without_padding_give_the_same_gradients(name, start, recomputes, load, monkeypatch):
    encoder = load(name)
    encoder.recomputes_stages = recomputes
    batch = batch_of(encoder)
    with torch.no_grad():
        given = encoder.hidden(batch.ids_BL, batch.mask_BL, start=0, stop=1)
    gradients, weight = [], torch.randn(len(TEXTS), encoder.width)
    for is_packed in (False, True):
        monkeypatch.setattr(runs, "can_pack", lambda *_, is_packed=is_packed, **__: is_packed)
        encoder.zero_grad()
        states = batch.ids_BL if start == 0 else given
        (encoder.suffix(states, batch.mask_BL, depth=start) * weight).sum().backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    padded, packed = gradients
    assert padded.keys() == packed.keys() and len(padded) > 20
    assert max(gradient.norm() for gradient in padded.values()) > 0.1
    for parameter, gradient in padded.items():
        torch.testing.assert_close(packed[parameter], gradient, atol=1e-5, rtol=1e-4)


def mask_of(*lengths):
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([5, 3, 3], 64),
        ([1], 64),
        ([8] * 8, 64),  # full: no row is spare
        ([32, *[31] * 31], 1024),
        ([32] * 31 + [31], 1024),
        ([8] * 7 + [7, 1], 128),  # 64 tokens, and one place has none
        ([8] * 8 + [4] * 8, 128),  # a grid without a free place gets more texts
        ([50] * 20, 1024),
        ([300], 320),  # one text, and places enough for spare rows
        ([100] * 21 + [3], 2304),
    ],
)
@pytest.mark.parametrize("num_heads", [1, 3])
def test_rows_come_in_few_numbers_and_find_their_place_and_back(lengths, rows, num_heads):
    packing = Packing.of(mask_of(*lengths))
    assert len(packing.place_S) == rows and packing.num_tokens == sum(lengths)
    grid = packing.grid
    states = torch.randn(rows, num_heads, 4, requires_grad=True)
    spread = grid.spread(states)
    length = max(lengths)
    assert spread.shape[0] >= len(lengths) and length <= spread.shape[2] < length + 8
    at = 0
    for text, tokens in enumerate(lengths):
        expected = states[at : at + tokens].transpose(0, 1)
        assert torch.equal(spread[text, :, :tokens], expected)
        at += tokens
    back = grid.collect(spread)
    assert torch.equal(back[:at], states[:at])
    weight = torch.randn(at, num_heads, 4)
    (back[:at] * weight).sum().backward()
    assert torch.equal(states.grad[:at], weight) and not states.grad[at:].any()
    assert (grid.mask_GP is None) == (rows == at)
    if grid.mask_GP is not None:
        assert grid.mask_GP.sum() == at < grid.mask_GP.numel() <= 2 * len(lengths) * length + 256
        assert spread.shape[2] % 4 == 0


def test_few_numbers_of_rows_for_any_number_of_tokens():
    rows = {packing._num_rows(tokens, is_full=False) for tokens in range(1, 16_384)}
    assert len(rows) == 16 + 4 * 8 and all(packing._num_rows(n, is_full=False) > n for n in (1, 63, 64, 2048))
