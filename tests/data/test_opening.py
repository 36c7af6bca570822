"""Only the opening of a long text is tokenised, and the tokens are those of the whole."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import build_tokenizer
from frostline.data import batches
from frostline.data.batches import tokenize
from frostline.data.opening import opening, splits_at_spaces

PIECES = [
    "the", "goal", "Straße", "ΟΔΟΣ", "e\u0301", "\u0301", "don't", "3.14", "--", "漢字かな", "naïve", "a" * 40, "\u200d",
    " ", "  ", "     ", "\t", "\n", "!\n", "\r\n ", "fox\x1c", "\x85", "\u00a0", "\u3000", " \u0301", "[MASK]", " [MASK] ", "[SEP]", "😀", "ﬁ", ".", ",",
]  # fmt: skip


def _texts(number, seed=0):
    generator = random.Random(seed)
    return [
        "".join(
            generator.choice(PIECES) + generator.choice(["", " ", " "])
            for _ in range(generator.randint(1, 120))
        )
        for _ in range(number)
    ]


def _wrapped(tokenizer, **more):
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **more)


def _trained(model, trainer, *, normalizer, splitter):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if splitter:
        tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(_texts(300, seed=1), trainer)
    return tokenizer


SPECIAL = ["[UNK]", "[PAD]", "[SEP]", "[MASK]"]


def _wordpiece():
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    return _trained(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=normalizers.BertNormalizer(),
        splitter=pre_tokenizers.BertPreTokenizer(),
    )


def _bpe(*, prefix=False):
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    tokenizer = _trained(
        models.BPE(unk_token="[UNK]"),
        trainer,
        normalizer=normalizers.NFC(),
        splitter=pre_tokenizers.ByteLevel(add_prefix_space=prefix),
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram(*, normalizer=None, before=(), **metaspace):
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    splitter = pre_tokenizers.Metaspace(**metaspace)
    if before:
        splitter = pre_tokenizers.Sequence([*before, splitter])
    return _trained(models.Unigram(), trainer, normalizer=normalizer, splitter=splitter)


def _like_xlm_r():
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), spaces])
    return _unigram(normalizer=normalizer, before=[pre_tokenizers.WhitespaceSplit()])


def _metaspace_bpe():
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=SPECIAL, show_progress=False)
    splitter = pre_tokenizers.Metaspace()
    return _trained(models.BPE(unk_token="[UNK]"), trainer, normalizer=None, splitter=splitter)


FAMILIES = {
    "WordPiece": _wordpiece,
    "byte-level BPE": _bpe,
    "byte-level BPE with a prefix": lambda: _bpe(prefix=True),
    "Unigram without a normalizer": _unigram,
    "Unigram like XLM-R's": _like_xlm_r,
    "BPE over Metaspace": _metaspace_bpe,
    "Unigram with a prefix once": lambda: _unigram(prepend_scheme="first"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_length", [4, 16])
def test_tokens_are_those_of_the_whole_text(family, max_length, monkeypatch):
    tokenizer = _wrapped(FAMILIES[family]())
    assert splits_at_spaces(tokenizer)
    texts = _texts(600)
    found = tokenize(tokenizer, texts, max_length=max_length)
    assert any(opening(text, max_length=max_length) != text for text in texts)
    monkeypatch.setattr(batches, "splits_at_spaces", lambda tokenizer: False)
    whole = tokenize(tokenizer, texts, max_length=max_length)
    assert found.ids_T.tolist() == whole.ids_T.tolist()
    assert found.offset_N1.tolist() == whole.offset_N1.tolist()


def test_a_long_text_costs_no_more_than_its_opening(monkeypatch):
    seen = []
    encoded = batches._encoded
    monkeypatch.setattr(
        batches, "_encoded", lambda t, texts, **more: seen.extend(texts) or encoded(t, texts, **more)
    )
    tokens = tokenize(build_tokenizer(), ["the goal " * 10_000, ("x" * 40 + " ") * 3], max_length=8)
    assert tokens.length_N.tolist() == [8, 5]
    assert [len(text) for text in seen] == [62, 40, 123], "too short an opening is followed by the whole"


def test_the_tokenizer_is_not_looked_into_for_short_texts(monkeypatch):
    monkeypatch.setattr(batches, "splits_at_spaces", lambda tokenizer: pytest.fail("looked into"))
    tokenize(build_tokenizer(), ["the goal"], max_length=8)


def test_a_text_is_cut_between_visible_characters():
    assert opening("the goal " * 10, max_length=2) == "the goal the"
    assert opening("the goal \n" * 10, max_length=2) == "the goal \nthe"
    assert opening("the\x1c \u0301 goal" * 10, max_length=1) == "the\x1c \u0301 goal" * 10
    assert opening("漢" * 1000, max_length=8) == "漢" * 1000


def _changed(**parts):
    tokenizer = _wordpiece()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def _with_words(*words):
    tokenizer = _wordpiece()
    tokenizer.add_tokens([AddedToken(word) for word in words])
    return tokenizer


REFUSED = {
    "no splitter": lambda: _wrapped(Tokenizer(models.BPE())),
    "spaces inside": lambda: _wrapped(_unigram(split=False)),
    "the end kept": lambda: _wrapped(_wordpiece(), truncation_side="left"),
    "an added token of two words": lambda: _wrapped(_with_words("New York")),
    "an added token that ends in a space": lambda: _wrapped(_with_words("dog ")),
    "a normalizer that takes spaces away": lambda: _wrapped(
        _changed(normalizer=normalizers.Replace(" ", ""))
    ),
    "a normalizer that hides spaces": lambda: _wrapped(_changed(normalizer=normalizers.Replace(" ", "▁"))),
    "a normalizer that reads over a space": lambda: _wrapped(
        _changed(normalizer=normalizers.Replace(Regex("a b"), "c"))
    ),
    "a splitter of its own": lambda: _wrapped(
        _changed(pre_tokenizer=pre_tokenizers.Split(Regex("a b"), "isolated"))
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_it_is_not_certain_the_whole_is_read(name):
    assert not splits_at_spaces(REFUSED[name]())
