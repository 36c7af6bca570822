"""Attention, and whatever else is replaced for a CPU, gives what it gives in torch."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModel

from conftest import CONFIGS
from frostline.model import cpu, dropout
from frostline.model.cpu import attend, replace_slow_parts
from frostline.model.domains import ModelSettings
from frostline.model.dropout import FastDropout
from frostline.model.loading import load_backbone


def test_every_dropout_of_a_model_is_replaced_and_nothing_else():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.2), nn.Dropout1d(0.3)))
    names = list(model.state_dict())
    model[1][0].eval()
    replace_slow_parts(model)
    kinds = [type(one) for one in model[1]]
    assert kinds == [FastDropout, nn.Dropout1d]
    assert model[1][0].p == 0.2 and not model[1][0].training
    assert list(model.state_dict()) == names


def _drawn(*shape, masked):
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(*shape, generator=generator, requires_grad=True) for _ in range(3))
    mask = torch.ones(shape[0], 1, 1, shape[2], dtype=torch.bool)
    mask[0, ..., 5:] = False
    return (query, key, value), mask if masked else None


def _attention():
    module = nn.Module()
    module.is_causal = False
    return module


@pytest.mark.parametrize("masked", [True, False])
def test_attention_and_its_gradients_are_those_of_torch_for_the_same_mask(monkeypatch, masked):
    """With nothing dropped it is torch's attention, scaled by what dropout of a half scales."""
    monkeypatch.setattr(dropout, "_mask", lambda shape, *_: torch.full(shape, 2.0))
    inputs, mask = _drawn(2, 3, 7, 4, masked=masked)
    ours, _ = attend(_attention(), *inputs, mask, dropout=0.5, scaling=None)
    theirs = 2 * scaled_dot_product_attention(*inputs, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    pairs = zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other)


def test_attention_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    (query, key, value), _ = _drawn(16, 8, 40, 4, masked=False)
    out, _ = attend(_attention(), query, key, torch.ones_like(value), None, dropout=0.25)
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert len(out.unique()) > 1000
    torch.manual_seed(0)
    assert torch.equal(out, attend(_attention(), query, key, torch.ones_like(value), None, dropout=0.25)[0])


def test_a_text_of_padding_alone_gives_numbers():
    inputs, mask = _drawn(2, 3, 7, 4, masked=True)
    out, _ = attend(_attention(), *inputs, torch.zeros_like(mask), dropout=0.5)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
def test_a_mask_of_numbers_is_added(numbers):
    inputs, mask = _drawn(2, 3, 7, 4, masked=True)
    inputs = [one.to(numbers).detach().requires_grad_() for one in inputs]
    added = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    out, _ = attend(_attention(), *inputs, added)
    torch.testing.assert_close(out, attend(_attention(), *inputs, mask)[0])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    "rare",
    [
        {"is_causal": True},
        {"position_bias": torch.zeros(1, 3, 7, 7)},
        {"dropout": 1.0},
        {"module": nn.Module()},  # decoders do not say, and are causal
    ],
    ids=lambda rare: next(iter(rare)),
)
def test_what_is_not_plain_is_left_to_transformers(rare, monkeypatch):
    inputs, _ = _drawn(2, 3, 7, 4, masked=False)
    given = {"module": _attention(), "dropout": 0.5} | rare
    asked = []
    monkeypatch.setattr(cpu, "sdpa_attention_forward", lambda *a, **more: asked.append(more) or (a[1], None))
    attend(given.pop("module"), *inputs, None, **given)
    assert len(asked) == 1


def test_long_texts_without_dropout_keep_no_scores(monkeypatch):
    asked = []
    monkeypatch.setattr(cpu, "_LONGEST_KEPT", 6)
    monkeypatch.setattr(cpu, "sdpa_attention_forward", lambda *a, **more: asked.append(more) or (a[1], None))
    inputs, _ = _drawn(2, 3, 7, 4, masked=False)
    assert attend(_attention(), *inputs, None, dropout=0.1)[0].shape == (2, 7, 3, 4) and not asked
    attend(_attention(), *inputs, None)
    assert len(asked) == 1


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", [7, 40], ids=["narrow", "wide"])
def test_attention_in_bf16_is_torchs_to_rounding_however_many_texts_at_once(length, masked, monkeypatch):
    inputs, mask = _drawn(5, 3, length, 16, masked=masked)
    inputs = [one.detach() for one in inputs]
    right = scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3).transpose(1, 2)
    with torch.no_grad():
        whole, _ = attend(_attention(), *(one.bfloat16() for one in inputs), mask, scaling=0.3)
        torch.testing.assert_close(whole.float(), right, atol=0.03, rtol=0.03)
        monkeypatch.setattr(cpu, "_SCORES_AT_ONCE", 2 * 3 * length**2)
        parts, _ = attend(_attention(), *(one.bfloat16() for one in inputs), mask, scaling=0.3)
    assert torch.equal(whole, parts)


def test_a_mask_for_all_texts_is_spread(monkeypatch):
    monkeypatch.setattr(cpu, "_SCORES_AT_ONCE", 1)
    inputs, mask = _drawn(3, 3, 7, 16, masked=True)
    inputs = [one.detach().bfloat16() for one in inputs]
    one, _ = attend(_attention(), *inputs, mask[:1])
    assert torch.equal(one, attend(_attention(), *inputs, mask[:1].expand(3, -1, -1, -1))[0])


def test_attention_in_bf16_with_large_scores_is_off_by_their_rounding_alone():
    """Scores around 50, as pretrained models have them: a score is rounded by at most a part in 256."""
    inputs, _ = _drawn(5, 3, 40, 16, masked=False)
    inputs = [(4 * one.detach()).bfloat16() for one in inputs]
    right = scaled_dot_product_attention(*(one.double() for one in inputs)).transpose(1, 2)
    with torch.no_grad():
        ours, _ = attend(_attention(), *inputs, None)
    assert (ours.double() - right).abs().mean() < 0.03 * right.abs().mean()


@pytest.mark.parametrize("learning", range(3), ids=["query", "key", "value"])
def test_whatever_learns_gets_a_gradient_in_bf16(learning):
    inputs, mask = _drawn(2, 3, 7, 16, masked=True)
    inputs = [one.detach().bfloat16() for one in inputs]
    inputs[learning].requires_grad_()
    attend(_attention(), *inputs, mask)[0].float().sum().backward()
    assert inputs[learning].grad is not None


def test_attention_in_float32_without_gradient_is_torchs_to_the_bit():
    inputs, mask = _drawn(2, 3, 7, 4, masked=True)
    with torch.no_grad():
        ours, _ = attend(_attention(), *inputs, mask)
        assert torch.equal(ours, scaled_dot_product_attention(*inputs, attn_mask=mask).transpose(1, 2))


# MPNet and DeBERTa attend by themselves, with modules for dropout.
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in {"mpnet", "deberta-v2"}])
def test_attention_of_every_architecture_is_fast_in_training_and_unchanged_without(name, monkeypatch):
    torch.manual_seed(0)
    plain = AutoModel.from_config(CONFIGS[name], attn_implementation="sdpa").eval()
    ours = AutoModel.from_config(CONFIGS[name], attn_implementation="sdpa").eval()
    ours.load_state_dict(plain.state_dict())
    replace_slow_parts(ours)
    given = {"input_ids": torch.randint(5, 40, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    given["attention_mask"][1, 4:] = 0
    with torch.no_grad():
        assert torch.equal(plain(**given)[0], ours(**given)[0])
    torch.testing.assert_close(plain(**given)[0], ours(**given)[0])
    assert plain.config.to_dict() == ours.config.to_dict()
    drawn = []
    keep = dropout._mask
    monkeypatch.setattr(dropout, "_mask", lambda shape, *more: drawn.append(shape) or keep(shape, *more))
    for module in ours.modules():
        if hasattr(module, "attention_dropout"):  # ModernBERT has none by default
            module.attention_dropout = 0.1
    ours.train()(**given)
    assert sum(shape[-2:] == (9, 9) for shape in drawn) == ours.config.num_hidden_layers


def test_a_saved_model_does_not_name_it(tiny, tmp_path):
    model = load_backbone(ModelSettings(backbone=str(tiny), max_length=32))
    assert model.transformer.config._attn_implementation == "frostline"
    model.sentence_transformer.save_pretrained(str(tmp_path))
    for file in tmp_path.rglob("*.json"):
        assert "frostline" not in file.read_text("utf-8")
