"""What became of the embeddings, measured on backbones whose change is known."""

import copy

import numpy as np
import pytest
import torch

from conftest import CONFIGS, WORDS, save_encoder, toy_rows, write_jsonl
from frostline import train
from frostline.data.batches import tokenize
from frostline.errors import BackboneError, DataError
from frostline.model.device import Precision
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone
from frostline.study.drift import (
    drift_between,
    drift_of_file,
    drift_sentences,
    general_ability,
    linear_cka,
    measure_drift,
    thinned,
    weight_changes,
)

FP32, CPU = Precision("fp32", "asked for"), torch.device("cpu")
TEXTS = [row["text"] for row in toy_rows(60, seed=5)]


@pytest.fixture
def tokens(backbone):
    return tokenize(backbone.tokenizer, TEXTS, max_length=32)


def moved(backbone, amount, *, stage=None):
    """A copy whose weights were moved at random."""
    other = copy.deepcopy(backbone)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if stage is None or other.stage_of[name] == stage:
                parameter += amount * torch.randn(parameter.shape, generator=generator)
    return other


def test_an_untouched_backbone_has_not_drifted(backbone, tokens):
    found = measure_drift(backbone, copy.deepcopy(backbone), tokens, precision=FP32, device=CPU)
    assert found.is_identical and not found.must_embed_again
    assert found.cosine == found.neighbours == found.neighbours_mixed == 1
    assert set(found.weight_change.values()) == {0.0}
    assert "not one weight" in found.verdict


def test_a_shaken_backbone_needs_its_corpus_embedded_again(backbone, tokens):
    found = measure_drift(backbone, moved(backbone, 0.5), tokens, precision=FP32, device=CPU)
    assert not found.is_identical and found.must_embed_again
    assert found.cosine < 0.9 and found.neighbours_mixed < 0.95
    assert "Embed your corpus again" in found.verdict
    assert len(drift_sentences(found.content())) == 4


def test_a_touch_leaves_old_vectors_of_use(backbone, tokens):
    found = measure_drift(backbone, moved(backbone, 1e-5), tokens, precision=FP32, device=CPU)
    assert not found.is_identical and not found.must_embed_again
    assert found.cosine > 0.9999 and "Old vectors may stay" in found.verdict


def test_the_stage_that_moved_is_named(backbone):
    changes = weight_changes(backbone, moved(backbone, 0.1, stage=2))
    assert list(changes) == ["embeddings", "layer 1", "layer 2", "layer 3"]
    assert changes["layer 2"] > 0
    assert changes["layer 1"] == changes["layer 3"] == changes["embeddings"] == 0


def test_weight_change_is_relative_to_the_norm(backbone):
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.25
    assert all(abs(change - 0.25) < 1e-6 for change in weight_changes(backbone, other).values())


def test_states_below_the_moved_stage_are_aligned_still(backbone, tokens):
    found = measure_drift(backbone, moved(backbone, 0.5, stage=2), tokens, precision=FP32, device=CPU)
    assert found.cka["layer 1"] > 1 - 1e-6 > found.cka["layer 2"]


def test_linear_cka_ignores_rotation_and_scale():
    generator = np.random.default_rng(0)
    states = generator.normal(size=(50, 8)).astype(np.float32)
    rotation = np.linalg.qr(generator.normal(size=(8, 8)))[0].astype(np.float32)
    assert linear_cka(states, 3 * states @ rotation + 1) == pytest.approx(1, abs=1e-5)
    assert linear_cka(states, generator.normal(size=(50, 8)).astype(np.float32)) < 0.6


def test_backbones_of_other_shapes_are_refused(backbone, tmp_path):
    config = copy.deepcopy(CONFIGS["bert"])
    config.num_hidden_layers = 2
    other = load_backbone(ModelSettings(backbone=str(save_encoder(tmp_path / "two", config)), max_length=32))
    with pytest.raises(BackboneError, match="differ in shape"):
        weight_changes(backbone, other)


def test_few_texts_are_not_all_each_others_neighbours(backbone, tokens):
    """Of twenty texts ten neighbours would be half of all: chance alone would find most of them again."""
    few = tokens.take(range(20))
    found = measure_drift(backbone, moved(backbone, 0.5), few, precision=FP32, device=CPU)
    assert found.num_neighbours == 1 and found.must_embed_again
    assert "the 1 nearest" in found.verdict


def test_a_plain_folder_is_pooled_as_the_run_pools(content, tiny, toy, tmp_path):
    content["model"]["pooling"] = "cls"
    content["plan"] = {"phases": [{"name": "heads", "epochs": 1}]}
    run = train(content, output=tmp_path / "run").folder
    assert drift_of_file(tiny, run, toy / "test.jsonl").cosine > 0.999


def test_too_few_texts_are_refused(backbone, tokens):
    with pytest.raises(BackboneError, match="too few texts: 10 of at least"):
        measure_drift(backbone, backbone, tokens.take(range(10)), precision=FP32, device=CPU)


def test_general_ability_is_a_share(backbone):
    assert 0 < general_ability(backbone, precision=FP32, device=CPU) <= 1


@pytest.mark.weights
def test_pretrained_weights_find_paraphrases():
    pretrained = load_backbone(ModelSettings(backbone="general"))
    assert general_ability(pretrained, precision=FP32, device=CPU) > 0.95


def test_long_lists_are_thinned_evenly():
    assert thinned(["a", "b"]) == ["a", "b"]
    assert len(thinned([str(i) for i in range(2500)])) == 1000
    assert thinned([str(i) for i in range(2000)])[:3] == ["0", "2", "4"]


def test_drift_of_a_run_against_its_pretrained_weights(tiny, toy, trained):
    found = drift_of_file(str(tiny), trained, toy / "test.jsonl", precision="fp32")
    assert found.num_texts == 60
    changed = {stage for stage, change in found.weight_change.items() if change}
    assert changed == {"layer 3"}  # the plan of this run lets the top layer learn


def test_a_run_has_not_drifted_from_itself(trained):
    assert drift_between(trained, trained, TEXTS, precision="fp32").is_identical


def test_a_missing_column_is_refused(tiny, trained, tmp_path):
    path = write_jsonl(tmp_path / "other.jsonl", [{"body": word} for word in WORDS])
    with pytest.raises(DataError, match="no column 'text'"):
        drift_of_file(str(tiny), trained, path)


def test_a_run_that_is_not_there_is_said_to_be_none(tiny, trained):
    for pair in ((str(tiny), "runs/nope"), ("runs/nope", trained)):
        with pytest.raises(BackboneError, match="'runs/nope' is neither a run nor a bundle. As a backbone: "):
            drift_between(*pair, ["a"] * 30)
