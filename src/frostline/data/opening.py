"""The opening of a long text that its first tokens are made of, where that is certain.

A tokenizer that splits at spaces before all else makes of a text cut at a space the first tokens of the
whole text; so of a long one only the opening need be tokenised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

# More than almost any text has; where it is not enough, the whole is tokenised.
_CHARACTERS_PER_TOKEN = 8
_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace"}
_WITHIN_WORDS = {"Punctuation", "Digits"}
_NORMALIZERS = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Strip", "Precompiled",
    "Prepend",
}  # fmt: skip
_SPACES = {"String": " "}, {"Regex": " {2,}"}, {"Regex": r"\s+"}


def splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is certain that a text cut before a space gives the first tokens of the whole text."""
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        return False
    parts: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    if any(" " in token["content"].strip() for token in parts.get("added_tokens", ())):
        return False
    splitters = _parts(parts.get("pre_tokenizer"), "pretokenizers")
    return (
        all(_is_splitter(part) or part["type"] in _WITHIN_WORDS for part in splitters)
        and any(_is_splitter(part) for part in splitters)
        and all(_is_local(part) for part in _parts(parts.get("normalizer"), "normalizers"))
    )


def opening(text: str, *, max_length: int) -> str:
    """The text up to the last space that may matter to so many tokens; all of it where there is no space."""
    size = _CHARACTERS_PER_TOKEN * max_length
    if len(text) <= size:
        return text
    return text[: text.rfind(" ", 0, size)].rstrip() if " " in text[:size] else text


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
    """Whether a normalizer looks at a space and its neighbours alone."""
    return part["type"] in _NORMALIZERS or (part["type"] == "Replace" and part["pattern"] in _SPACES)
