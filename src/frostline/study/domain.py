"""Signs that texts are from a domain whose words the backbone's tokenizer was not made for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from frostline.data.batches import Split
from frostline.model.backbone import Backbone
from frostline.model.domains import DOMAINS

# Tokens a word of everyday English in the vocabulary of BERT: about 1.2; of clinical notes 1.6 and more.
_MANY_TOKENS = 1.55
_MANY_UNKNOWN = 0.01
_MANY_TEXTS = 0.05
_SOME_TEXTS = 1000  # tell the script
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_WORDS = {
    "finance": "revenue profit shares dividend earnings quarter investors equity bond yield fiscal ebitda "
    "shareholders nasdaq hedge securities operating margin loan bank",
    "biomedical": "patients protein gene cells tumor clinical disease therapy mutation receptor inhibitor "
    "syndrome dose serum diagnosis genes expression cancer treatment plasma",
}


def domain_signs(backbone: Backbone, split: Split, texts: Sequence[str]) -> tuple[str, ...]:
    """Sentences on what the tokenizer makes of the texts; empty where they look like everyday language.

    Args:
        backbone: whose tokenizer it is.
        split: the texts as tokens.
        texts: the same as text; those that were cut at the longest length are left out.
    """
    length_N = split.tokens.length_N
    whole = np.flatnonzero(length_N < backbone.max_length)
    num_words = sum(len(re.findall(r"\w+|[^\w\s]", texts[i])) for i in whole.tolist())
    num_special = backbone.tokenizer.num_special_tokens_to_add() + _prompt_tokens(backbone)
    rate = float((length_N[whole] - num_special).sum()) / max(1, num_words)
    unknown_id = backbone.tokenizer.unk_token_id  # None: it knows every byte
    unknown = 0.0 if unknown_id is None else float((split.tokens.ids_T == unknown_id).mean())
    signs = []
    if rate > _MANY_TOKENS and not _is_without_spaces(texts):
        signs.append(f"many words are split into pieces: {rate:.2f} tokens each, everyday English about 1.2")
    if unknown > _MANY_UNKNOWN:
        signs.append(f"{unknown:.1%} of the tokens are unknown pieces")
    found = _likely_domain(texts)
    if found and DOMAINS.get(found[0]) != backbone.name:
        name, share = found
        signs.append(
            f"{share:.0%} of the texts have two or more words of the {name} domain: try --set "
            f"model.backbone={name}"
        )
    return tuple(signs)


def _prompt_tokens(backbone: Backbone) -> int:
    return len(backbone.tokenizer.encode(backbone.prompt, add_special_tokens=False)) if backbone.prompt else 0


def _is_without_spaces(texts: Sequence[str]) -> bool:
    """Whether most letters are of scripts that put no space between words (Chinese, Japanese, Thai)."""
    some = "".join(texts[:_SOME_TEXTS])
    return 2 * len(_WITHOUT_SPACES.findall(some)) > sum(letter.isalpha() for letter in some)


def _likely_domain(texts: Sequence[str]) -> tuple[str, float] | None:
    """The domain of whose words two or more occur in most texts, if in enough of them."""
    shares: dict[str, float] = {}
    for name, words in _WORDS.items():
        known = set(words.split())
        hits = [len(known & set(re.findall(r"[a-z]+", text.lower()))) >= 2 for text in texts]
        shares[name] = hits.count(True) / max(1, len(hits))
    best = max(shares, key=shares.__getitem__)
    return (best, shares[best]) if shares[best] > _MANY_TEXTS else None
