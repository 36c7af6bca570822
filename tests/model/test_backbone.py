import copy

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AutoModel, GPT2Config

from conftest import CONFIGS, SIZE, WORDS, build_tokenizer, save_encoder
from frostline.data.batches import pad, tokenize
from frostline.errors import BackboneError
from frostline.model.architectures import LAYOUTS, layout_of
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone

TEXTS = [
    "the goal was great",
    "a sad bank",
    "soup and bread and salt and the very awful price of it all was one",
]


@pytest.fixture(scope="module", params=CONFIGS)
def encoder(request, tmp_path_factory):
    folder = save_encoder(tmp_path_factory.mktemp(request.param) / "m", CONFIGS[request.param])
    return load_backbone(ModelSettings(backbone=str(folder), max_length=32))


def batch_of(encoder, texts=TEXTS):
    return pad(tokenize(encoder.tokenizer, texts, max_length=32), range(len(texts)), pad_id=encoder.pad_id)


def test_every_architecture_of_the_table_is_tried():
    assert set(CONFIGS) == set(LAYOUTS)


def test_a_suffix_on_its_prefix_is_the_whole_model_to_the_last_bit_at_every_depth(encoder):
    batch = batch_of(encoder)
    with torch.no_grad():
        whole = encoder(batch)
        for depth in range(1, encoder.num_stages + 1):
            parts = encoder.suffix(encoder.prefix(batch, depth=depth), batch.mask_BL, depth=depth)
            assert torch.equal(whole, parts), depth


def test_the_whole_is_what_sentence_transformers_computes(encoder):
    with torch.no_grad():
        ours = encoder(batch_of(encoder))
    theirs = encoder.sentence_transformer.encode(TEXTS, convert_to_numpy=True)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_padding_changes_an_embedding_by_rounding_only(encoder):
    with torch.no_grad():
        together = encoder(batch_of(encoder))
        alone = torch.cat([encoder(batch_of(encoder, [text])) for text in TEXTS])
    assert (together - alone).abs().max() < 1e-5


def test_prefix_and_suffix_share_every_parameter(encoder):
    batch, depth = batch_of(encoder), 2
    parameters = dict(encoder.named_parameters())
    encoder.suffix(encoder.prefix(batch, depth=depth).detach(), batch.mask_BL, depth=depth).sum().backward()
    moved = {encoder.stage_of[name] for name, p in parameters.items() if p.grad is not None}
    encoder.zero_grad()
    # DeBERTa-v2's relative embeddings are read by every layer, and count as stage 0.
    assert moved - {0} == set(range(depth, encoder.num_stages))


def gradients_and_kept_bytes(encoder):
    """Gradients of a step with dropout from depth 1 on, and the bytes that the forward pass keeps for it."""
    batch, kept = batch_of(encoder), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    states = encoder.prefix(batch, depth=1).detach()
    encoder.train()
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = encoder.suffix(states, batch.mask_BL, depth=1).pow(3).sum()
    loss.backward()
    found = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    encoder.eval()
    return found, sum(kept.values())


def test_stages_computed_again_in_the_backward_pass_give_the_same_bits_and_keep_less(encoder):
    whole, most = gradients_and_kept_bytes(encoder)
    encoder.recomputes_stages = True
    clone = copy.deepcopy(encoder)
    again, least = gradients_and_kept_bytes(clone)
    encoder.recomputes_stages = False
    assert clone.recomputes_stages
    assert whole.keys() == again.keys()
    for name, gradient in whole.items():
        # Relative positions, which MPNet's and DeBERTa's layers share, add up in another order.
        is_shared = encoder.stage_of[name] == 0
        assert (
            torch.allclose(gradient, again[name], rtol=1e-4)
            if is_shared
            else torch.equal(gradient, again[name])
        ), name
    assert least < most


def test_every_parameter_has_a_stage_and_every_stage_a_module(encoder):
    assert set(encoder.stage_of.values()) >= set(range(encoder.num_stages))
    covered = {
        id(p) for s in range(encoder.num_stages) for m in encoder.stage_modules(s) for p in m.parameters()
    }
    for name, parameter in encoder.named_parameters():
        assert (id(parameter) in covered) == (encoder.stage_of[name] is not None), name


def test_a_copy_shares_nothing(encoder):
    clone = copy.deepcopy(encoder)
    batch = batch_of(encoder)
    with torch.no_grad():
        before = encoder.prefix(batch, depth=1)
        for parameter in clone.parameters():
            parameter.zero_()
        assert torch.equal(encoder.prefix(batch, depth=1), before)


def test_an_unknown_architecture_is_refused_with_what_to_add(tmp_path):
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    folder = save_encoder(tmp_path / "m", config)
    with pytest.raises(BackboneError, match=r"architecture 'gpt2' is unknown. Known: bert.*architectures.py"):
        load_backbone(ModelSettings(backbone=str(folder)))


def test_albert_is_refused_with_the_reason(tmp_path):
    folder = save_encoder(tmp_path / "m", AlbertConfig(**SIZE, num_hidden_layers=2, embedding_size=16))
    with pytest.raises(BackboneError, match="'albert' is refused: its layers share one set of weights"):
        load_backbone(ModelSettings(backbone=str(folder)))


def test_a_misspelt_architecture_is_answered_with_the_nearest():
    with pytest.raises(BackboneError, match="Did you mean 'roberta'"):
        layout_of("robert")


def test_more_tokens_than_positions_are_refused(tiny):
    with pytest.raises(BackboneError, match=r"model.max_length: 512 tokens asked, but this backbone has 64"):
        load_backbone(ModelSettings(backbone=str(tiny), max_length=512))


def test_cls_pooling_can_be_asked_for_and_is_the_first_token(tiny):
    encoder = load_backbone(ModelSettings(backbone=str(tiny), max_length=32, pooling="cls"))
    batch = batch_of(encoder)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tiny)(input_ids=batch.ids_BL, attention_mask=batch.mask_BL)[0]
        assert torch.allclose(encoder(batch), hidden[:, 0], atol=1e-6)


def test_the_toy_tokenizer_knows_its_words():
    assert build_tokenizer().tokenize(" ".join(WORDS)) == WORDS
