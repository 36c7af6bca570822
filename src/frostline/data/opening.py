"""The opening of a long text that its first tokens are made of, where that is certain.

A tokenizer that splits at spaces before all else makes of a text cut at a space the first tokens of the
whole text; so of a long one only the opening need be tokenised.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

# More than almost any text has; where it is not enough, the whole is tokenised.
_CHARACTERS_PER_TOKEN = 8
# What is known to split at a space, to split words further, or to change no more than a character and its
# neighbours between two spaces. Of anything else nothing is certain.
_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace"}
_WITHIN_WORDS = {"Punctuation", "Digits"}
_NORMALIZERS = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Strip", "Precompiled",
    "Prepend",
}  # fmt: skip
_SPACES = {"String": " "}, {"Regex": " {2,}"}, {"Regex": r"\s+"}


def is_long(text: str, *, max_length: int) -> bool:
    """Whether a text goes beyond the 8 characters a token that are looked at first."""
    return len(text) > _CHARACTERS_PER_TOKEN * max_length


def opening(text: str, *, max_length: int) -> str:
    """A long text up to a space between two visible characters, 8 characters a token from its start; all of a
    text that is not long or has no such space.
    """
    if not is_long(text, max_length=max_length):
        return text
    space = text.rfind(" ", 0, _CHARACTERS_PER_TOKEN * max_length)
    while space > 0 and not (_is_visible(text[space - 1]) and _is_visible(text[space + 1])):
        space = text.rfind(" ", 0, space)
    return text[:space] if space > 0 else text


def splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is certain that the `opening` of a text gives the first tokens of the whole text."""
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        return False
    added = (token.content.lstrip() for token in tokenizer.added_tokens_decoder.values())
    if any(letter.isspace() for content in added for letter in content):
        return False
    backend = tokenizer.backend_tokenizer
    splitters = _parts(_described(backend.pre_tokenizer), "pretokenizers")
    return (
        all(_is_splitter(part) or part["type"] in _WITHIN_WORDS for part in splitters)
        and any(_is_splitter(part) for part in splitters)
        and all(_is_local(part) for part in _parts(_described(backend.normalizer), "normalizers"))
    )


def _is_visible(letter: str) -> bool:
    """A letter, number, punctuation or symbol: no space, no control, no mark that joins what precedes it."""
    return unicodedata.category(letter)[0] in "LNPS"


def _described(part: Any) -> Mapping[str, Any] | None:
    """A part of a tokenizer as data, without the vocabulary, which is large."""
    described: Mapping[str, Any] | None = None if part is None else json.loads(part.__getstate__())
    return described


def _parts(part: Mapping[str, Any] | None, several: str) -> list[Mapping[str, Any]]:
    """A part of a tokenizer, or those of a sequence."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [inner for one in part[several] for inner in _parts(one, several)]


def _is_splitter(part: Mapping[str, Any]) -> bool:
    return part["type"] in _SPLITTING and part.get("split", True) and part.get("use_regex", True)


def _is_local(part: Mapping[str, Any]) -> bool:
    """Whether a normalizer keeps the spaces that the splitter is to see, and reads over none."""
    if part["type"] == "Replace":
        return part["pattern"] in _SPACES and part["content"] == " "
    return part["type"] in _NORMALIZERS
