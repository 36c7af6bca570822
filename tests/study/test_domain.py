"""Signs of a strange domain."""

import pytest

from frostline.data.batches import Split, tokenize
from frostline.model.backbone import load_backbone
from frostline.model.domains import ModelSettings
from frostline.study.domain import domain_signs

CLINIC = "Patients received a dose of the inhibitor; serum protein and gene expression were measured."
MARKET = "Revenue and operating margin rose, and shareholders received a dividend of two cents."
DAILY = "The cat sat on the sofa and looked out of the window."


@pytest.fixture(scope="module")
def general():
    return load_backbone(ModelSettings(backbone="general"))


def signs(backbone, texts):
    tokens = tokenize(backbone.tokenizer, texts, max_length=128)
    return " ".join(domain_signs(backbone, Split("validation", tokens, {}), texts))


@pytest.mark.weights
def test_everyday_language_has_no_signs(general):
    assert signs(general, [DAILY] * 20) == ""


@pytest.mark.weights
@pytest.mark.parametrize(("text", "name"), [(CLINIC, "biomedical"), (MARKET, "finance")])
def test_the_words_of_a_domain_are_seen(general, text, name):
    assert f"model.backbone={name}" in signs(general, [text] * 10 + [DAILY] * 10)


@pytest.mark.weights
def test_words_in_many_pieces_are_seen(general):
    assert "many words are unknown" in signs(general, ["xqzvt qwrtzp ypsxil vvkrt"] * 20)


def test_unknown_pieces_are_seen(backbone):
    assert "unknown pieces" in signs(backbone, ["words that it does not have"] * 20)
