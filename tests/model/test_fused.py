"""Passes in bf16 take one operator for a product and what follows it, and give what two operators give."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import AutoModel

from conftest import CONFIGS, save_encoder
from frostline.model import fused
from frostline.model.domains import ModelSettings
from frostline.model.fused import can_fuse, fuse
from frostline.model.loading import load_backbone

# Fused operators a layer: queries, keys and values, a GELU, and the sums after attention and feed-forward part.
NUM_FUSED = {
    "bert": 6, "roberta": 6, "xlm-roberta": 6, "electra": 6, "deberta-v2": 3, "mpnet": 2, "distilbert": 4, "modernbert": 0,
}  # fmt: skip
pytestmark = pytest.mark.skipif(not can_fuse(), reason="this processor has no products in bf16")


@pytest.fixture
def models(request):
    """The same model as transformers gives it and with fused operators."""
    torch.manual_seed(0)
    plain = AutoModel.from_config(CONFIGS[request.param]).eval()
    ours = copy.deepcopy(plain)
    fuse(ours)
    return plain, ours


@pytest.fixture
def calls(monkeypatch):
    """Shapes that the fused operators were given."""
    seen = []

    class Counted:
        def __call__(self, states, *more):
            seen.append(states.shape)
            return torch.ops.mkldnn._linear_pointwise(states, *more)

        def binary(self, states, *more):
            seen.append(states.shape)
            return torch.ops.mkldnn._linear_pointwise.binary(states, *more)

    monkeypatch.setattr(fused, "_LINEAR", Counted())
    return seen


def _given():
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 4:] = 0
    return {"input_ids": torch.randint(5, 40, (3, 9)), "attention_mask": mask}


@pytest.mark.parametrize(("models", "name"), [(name, name) for name in CONFIGS], indirect=["models"])
def test_a_pass_in_bf16_is_nearer_to_float32_or_as_near(models, name, calls):
    plain, ours = models
    given = _given()
    with torch.no_grad():
        exact = plain(**given)[0]
        theirs = plain.to(torch.bfloat16)(**given)[0].float()
        assert not calls
        fast = ours.to(torch.bfloat16)(**given)[0].float()
    assert len(calls) == NUM_FUSED[name] * ours.config.num_hidden_layers
    is_token = given["attention_mask"].bool()
    error, their_error = ((one - exact)[is_token].abs().mean() for one in (fast, theirs))
    assert error <= 1.1 * their_error
    assert (fast - theirs)[is_token].abs().max() < 0.1


@pytest.mark.parametrize("models", ["bert", "distilbert"], indirect=True)
def test_passes_in_float32_and_in_weights_of_bf16_with_a_gradient_stay_to_the_bit(models, calls):
    plain, ours = models
    given = _given()
    with torch.no_grad():
        assert torch.equal(plain(**given)[0], ours(**given)[0])
    plain.to(torch.bfloat16), ours.to(torch.bfloat16)
    first, second = plain(**given)[0], ours(**given)[0]
    assert torch.equal(first, second)
    first.sum().backward(), second.sum().backward()
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    assert not calls


@pytest.mark.parametrize("models", ["bert", "electra", "distilbert"], indirect=True)
def test_autocast_converts_what_queries_keys_and_values_are_made_of_once(models):
    plain, ours = models
    fuse(ours)  # a second time changes nothing
    seen, given = [], _given()
    for name, module in ours.named_modules():
        assert len(module._forward_pre_hooks) <= 1
        if name.rpartition(".")[2] in {"query", "key", "value", "q_lin", "k_lin", "v_lin"}:
            module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = plain(**given)[0], ours(**given)[0]
    assert torch.equal(first, second)
    assert len(seen) == 3 * ours.config.num_hidden_layers
    assert all(one.dtype == torch.bfloat16 for one in seen)
    assert all(one is other for one, other in zip(seen[::3], seen[2::3], strict=True))
    weight = torch.randn_like(
        first, dtype=torch.float32
    )  # the plain sum of normalised states does not change
    (first.float() * weight).sum().backward(), (second.float() * weight).sum().backward()
    largest = max(one.grad.norm() for one in plain.parameters() if one.grad is not None)
    assert largest > 1
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:  # of a key's bias it is zero but for rounding
            assert (one.grad - other.grad).norm() <= 0.01 * one.grad.norm() + 1e-3 * largest


@pytest.mark.parametrize("models", ["bert"], indirect=True)
def test_dropout_in_a_pass_without_a_gradient_still_drops(models, calls):
    _, ours = models
    with torch.no_grad():
        ours.to(torch.bfloat16).train()
        first, second = (ours(**_given())[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert len(calls) == 2 * 4 * ours.config.num_hidden_layers  # all but the sums


def test_a_copy_computes_with_its_own_weights():
    model = AutoModel.from_config(CONFIGS["bert"]).eval().to(torch.bfloat16)
    fuse(model)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        before = model(**(given := _given()))[0].clone()
        for parameter in clone.parameters():
            parameter.zero_()
        assert torch.equal(model(**given)[0], before)
        assert not torch.equal(clone(**given)[0], before)


@pytest.mark.parametrize("models", ["bert", "roberta"], indirect=True)
def test_under_autocast_weights_in_float32_widen_in_one_operator(models, calls):
    plain, ours = models
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        theirs, fast = plain(**(given := _given()))[0], ours(**given)[0]
    assert len(calls) == 4 * ours.config.num_hidden_layers  # sums stay in float32
    assert theirs.dtype == fast.dtype
    is_token = given["attention_mask"].bool()
    assert (fast - theirs)[is_token].abs().max() < 0.1


def test_a_pickled_model_is_the_same():
    model = AutoModel.from_config(CONFIGS["bert"]).eval().to(torch.bfloat16)
    fuse(model)
    again = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        before = model(**(given := _given()))[0]
        assert torch.equal(again(**given)[0], before)
        for parameter in again.parameters():
            parameter.zero_()
        assert torch.equal(model(**given)[0], before)
        assert not torch.equal(again(**given)[0], before)


def test_a_backbone_has_them(tiny, calls):
    backbone = load_backbone(ModelSettings(backbone=str(tiny), max_length=32)).to_format(torch.bfloat16)
    states = torch.randn(2, 5, backbone.hidden_width, dtype=torch.bfloat16)
    with torch.no_grad():
        backbone.hidden(states, torch.ones(2, 5, dtype=torch.long), start=1, stop=backbone.num_stages)
    assert len(calls) == NUM_FUSED["bert"] * backbone.num_layers


@pytest.mark.parametrize("is_cast", [True, False])
@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "electra"])
def test_attention_without_padding_has_the_bits_of_the_module_itself(name, is_cast, tmp_path, monkeypatch):
    folder = save_encoder(tmp_path, CONFIGS[name])
    backbone = load_backbone(ModelSettings(backbone=str(folder), max_length=32))
    attentions = [layer.attention.self for layer in backbone.transformer.encoder.layer]
    if not is_cast:
        backbone.to_format(torch.bfloat16)
    states = torch.randn(3, 9, backbone.hidden_width, dtype=torch.float32 if is_cast else torch.bfloat16)
    fast, calls = fused.attend_in_grid, []
    monkeypatch.setattr(fused, "attend_in_grid", lambda *a, **more: calls.append(1) or fast(*a, **more))

    def run():
        calls.clear()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_cast):
            mask_BL = _given()["attention_mask"]
            return backbone.hidden(states, mask_BL, start=1, stop=backbone.num_stages)

    found = run()
    assert len(calls) == len(attentions)
    attentions[0].train()
    assert not torch.equal(run(), found) and len(calls) == len(attentions) - 1, (
        "dropout is left to the module"
    )
    attentions[0].eval()
    seen = []
    attentions[0].query.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(run(), found) and len(seen) == 1
    for attention in attentions:
        del attention.forward
    assert torch.equal(run(), found) and not calls


def test_approximations_of_gelu_are_left_alone():
    assert fused._is_gelu(nn.GELU()) and not fused._is_gelu(nn.GELU(approximate="tanh"))
    config = copy.deepcopy(CONFIGS["bert"])
    config.hidden_act = "gelu_new"
    assert not fused._is_gelu(AutoModel.from_config(config).encoder.layer[0].intermediate.intermediate_act_fn)
