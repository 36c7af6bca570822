"""Signs of a strange domain."""

import pytest

from frostline.data.batches import Split, tokenize
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone
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
    assert "many words are split into pieces" in signs(general, ["xqzvt qwrtzp ypsxil vvkrt"] * 20)


@pytest.mark.weights
def test_a_script_without_spaces_is_not_called_strange_for_its_long_words(general):
    assert "split into pieces" not in signs(general, ["これは文章です今日はとても天気がいい"] * 20)


@pytest.mark.weights
def test_a_prompt_before_every_text_counts_for_no_word(general):
    general.sentence_transformer.prompts["asked"] = "represent this sentence for searching: "
    general.sentence_transformer.default_prompt_name = "asked"
    tokens = tokenize(general.tokenizer, ["so it goes"] * 20, max_length=128, prompt=general.prompt)
    found = domain_signs(general, Split("validation", tokens, {}), ["so it goes"] * 20)
    general.sentence_transformer.default_prompt_name = None
    assert found == ()


@pytest.mark.weights
def test_a_domain_whose_backbone_is_in_use_is_not_advised(general, monkeypatch):
    monkeypatch.setattr(general, "name", "ProsusAI/finbert")
    assert "model.backbone" not in signs(general, [MARKET] * 20)


def test_unknown_pieces_are_seen(backbone):
    assert "unknown pieces" in signs(backbone, ["words that it does not have"] * 20)
