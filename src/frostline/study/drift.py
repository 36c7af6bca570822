"""Drift: what training did to the embeddings, and whether a corpus must be embedded again.

The same texts go through the backbone before and after. Besides: how well it still finds paraphrases of
everyday sentences, which come with frostline and which it was not trained on.

Shapes: N texts, S stages, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import normalize

from frostline.data.batches import Tokens, tokenize
from frostline.errors import BackboneError
from frostline.inference.predict import text_blocks
from frostline.model.backbone import Backbone
from frostline.model.bundle import load_bundle, read_about
from frostline.model.device import Precision, choose_device, choose_precision
from frostline.model.domains import ModelSettings, find_backbone
from frostline.model.loading import load_backbone
from frostline.places import bundle_folder
from frostline.plan.groups import stage_name
from frostline.prepare import says_its_pooling
from frostline.settings import AskedFormat
from frostline.study.ability import general_ability
from frostline.training.embed import stage_means

Matrix = np.ndarray[Any, np.dtype[np.float32]]
FEW_TEXTS, MOST_TEXTS = 200, 1000
_FEWEST_TEXTS = 20
_MOST_NEIGHBOURS = 10
_TEXTS_A_NEIGHBOUR = 20  # of fewer texts many are neighbours by chance
# Search results that may change before old vectors are called useless beside new ones: 1 in 20.
_SAME_RESULTS = 0.95


@dataclass(frozen=True)
class Drift:
    """What became of a backbone.

    Attributes:
        num_texts: looked at.
        num_neighbours: of a text that are looked at: ten, or one for every twenty texts.
        is_identical: whether no weight of the backbone changed.
        cosine: mean cosine of a text's embedding before and after.
        cosine_low: the same at the 5th percentile.
        neighbours: share of a text's nearest neighbours that stayed, everything embedded anew.
        neighbours_mixed: share of them that a new query finds in vectors made before, of those that it would
            find in vectors made anew.
        weight_change: by stage, norm of the change over the norm of the weights.
        cka: by stage, linear centred kernel alignment of the averaged states before and after
            (Kornblith et al. 2019, arXiv 1905.00414): 1 where they differ by rotation and scale alone.
        general_before: how early everyday sentences found their paraphrases (see `general_ability`).
        general_after: the same after training.
    """

    num_texts: int
    num_neighbours: int
    is_identical: bool
    cosine: float
    cosine_low: float
    neighbours: float
    neighbours_mixed: float
    weight_change: dict[str, float]
    cka: dict[str, float]
    general_before: float
    general_after: float

    @property
    def must_embed_again(self) -> bool:
        """Whether vectors made before are no longer to be searched with new queries."""
        return self.neighbours_mixed < _SAME_RESULTS

    @property
    def verdict(self) -> str:
        """The answer in words: must I embed my corpus again?"""
        if self.is_identical:
            return "No need to embed again: not one weight of the backbone changed."
        near = f"the {self.num_neighbours} nearest neighbours"
        lost = f"{1 - self.neighbours_mixed:.1%} of {near} would be wrong ones"
        if self.must_embed_again:
            return f"Embed your corpus again: searched with new queries, {lost} among old vectors."
        return f"Old vectors may stay: searched with new queries, only {lost}."

    def content(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self) | {"must_embed_again": self.must_embed_again, "verdict": self.verdict}


def measure_drift(
    before: Backbone, after: Backbone, tokens: Tokens, *, precision: Precision, device: torch.device
) -> Drift:
    """Compares a backbone with what training made of it.

    Args:
        before: moved to the device, put in eval mode.
        after: of the same shape; the same.
        tokens: texts to look at, of the tokenizer of both; 20 at least.
        precision: number format of the forward passes.
        device: where they run.

    Raises:
        BackboneError: the two differ in shape, or there are too few texts.
    """
    changes = weight_changes(before, after)
    if len(tokens) < _FEWEST_TEXTS:
        raise BackboneError(f"drift: too few texts: {len(tokens)} of at least {_FEWEST_TEXTS}.")
    near = min(_MOST_NEIGHBOURS, len(tokens) // _TEXTS_A_NEIGHBOUR)
    general_before = general_ability(before.to(device), precision=precision, device=device)
    if not any(changes.values()):
        same = dict.fromkeys(changes, 1.0)
        ones, general = (1.0, 1.0, 1.0, 1.0), (general_before, general_before)
        return Drift(len(tokens), near, True, *ones, changes, same, *general)
    old, new = (
        stage_means(one, tokens, precision=precision, device=device) for one in (before, after.to(device))
    )
    old_ND, new_ND = normalize(old.embedding_ND), normalize(new.embedding_ND)
    cosine_N = (old_ND * new_ND).sum(axis=1)
    anew, there, mixed = (
        _neighbours(q, c, number=near) for q, c in ((new_ND, new_ND), (old_ND, old_ND), (new_ND, old_ND))
    )
    return Drift(
        num_texts=len(tokens),
        num_neighbours=near,
        is_identical=False,
        cosine=float(cosine_N.mean()),
        cosine_low=float(np.quantile(cosine_N, 0.05)),
        neighbours=_overlap(there, anew),
        neighbours_mixed=_overlap(mixed, anew),
        weight_change=changes,
        cka={name: linear_cka(old.means_NSD[:, i], new.means_NSD[:, i]) for i, name in enumerate(changes)},
        general_before=general_before,
        general_after=general_ability(after, precision=precision, device=device),
    )


def drift_between(
    before: str | Path, after: str | Path, texts: Sequence[str], *, precision: AskedFormat = "auto"
) -> Drift:
    """Compares two models on texts; more than `MOST_TEXTS` are thinned out evenly.

    Args:
        before: the pretrained backbone (a name or a folder), or an earlier bundle or run.
        after: the same, of now.
        texts: to look at.
        precision: number format; 'auto' measures.

    Raises:
        BackboneError: one of the two is not there, they differ in shape, or there are too few texts.
        BundleError: a bundle is damaged.
    """
    new = _load(after)
    old = _load(before, like=new)
    device = choose_device("auto")
    kept = thinned(texts)
    length = min(old.max_length, new.max_length)
    tokens = tokenize(new.tokenizer, kept, max_length=length, prompt=new.prompt)
    chosen = choose_precision(precision, device=device, width=new.width)
    return measure_drift(old, new, tokens, precision=chosen, device=device)


def drift_of_file(
    before: str | Path,
    after: str | Path,
    source: Path,
    *,
    text: str | None = None,
    precision: AskedFormat = "auto",
) -> Drift:
    """`drift_between` on a sample of a file's texts, of which rows without text are left out.

    Args:
        before: see `drift_between`.
        after: see `drift_between`.
        source: CSV, TSV, JSONL or Parquet, each also gzipped; of any size.
        text: column of the texts; None: that of the training data of `after`.
        precision: number format; 'auto' measures.

    Raises:
        DataError: a file that cannot be read, or no such column.
        BackboneError: see `drift_between`.
    """
    column = text or _text_column(Path(after))
    generator = np.random.default_rng(0)
    kept: list[str] = []
    known = (one for block in text_blocks(source, column) for one in block if one is not None)
    for number, one in enumerate(known):  # a sample in one pass: Vitter's algorithm R
        place = number if number < MOST_TEXTS else int(generator.integers(number + 1))
        if place < MOST_TEXTS:
            kept[place : place + 1] = [one]
    return drift_between(before, after, kept, precision=precision)


def _text_column(after: Path) -> str:
    folder = bundle_folder(after.expanduser())
    return read_about(folder).text_column


def thinned(texts: Sequence[str]) -> list[str]:
    """At most `MOST_TEXTS` of the texts, at equal distances."""
    step = max(1.0, len(texts) / MOST_TEXTS)
    return [texts[int(i * step)] for i in range(min(len(texts), MOST_TEXTS))]


def _load(name: str | Path, *, like: Backbone | None = None) -> Backbone:
    """The backbone of a bundle or a run; else the pretrained one of that name, which cuts and pools texts as
    another does.
    """
    folder = Path(name).expanduser()
    if (folder / "frostline.json").is_file() or (folder / "config.toml").is_file():
        return load_bundle(folder)[0].backbone
    try:
        find_backbone(str(name))
    except BackboneError as error:
        raise BackboneError(f"'{name}' is neither a run nor a bundle. As a backbone: {error}") from error
    settings: dict[str, Any] = {"backbone": str(name)}
    if like is not None:
        settings["max_length"] = like.max_length
        settings["pooling"] = None if says_its_pooling(str(name)) else like.pooling
    return load_backbone(ModelSettings.model_validate(settings))


def weight_changes(before: Backbone, after: Backbone) -> dict[str, float]:
    """By stage, embeddings first: norm of the change of its weights over their norm before.

    Raises:
        BackboneError: the two differ in shape.
    """
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    shapes = [{name: tuple(p.shape) for name, p in one.items()} for one in (old, new)]
    if shapes[0] != shapes[1]:
        raise BackboneError(
            f"drift: {before.name} ({before.num_layers} layers, width {before.width}) and {after.name} "
            f"({after.num_layers} layers, width {after.width}) differ in shape. Drift is between a backbone "
            "and what training made of it."
        )
    squares = np.zeros((before.num_stages, 2))
    for name, parameter in old.items():
        stage = before.stage_of[name]
        if stage is not None:
            there = parameter.detach().double().cpu()
            moved = new[name].detach().double().cpu() - there
            squares[stage] += [float((moved**2).sum()), float((there**2).sum())]
    return {stage_name(i): float(np.sqrt(m / max(w, 1e-30))) for i, (m, w) in enumerate(squares)}


def linear_cka(first_ND: Matrix, second_ND: Matrix) -> float:
    """Linear centred kernel alignment of two sets of states of the same texts, 0 … 1."""
    first, second = (x.astype(np.float64) - x.mean(axis=0, dtype=np.float64) for x in (first_ND, second_ND))
    cross, one, two = (
        float(np.linalg.norm(a.T @ b)) for a, b in ((first, second), (first, first), (second, second))
    )
    return cross**2 / max(one * two, 1e-30)


def _neighbours(query_ND: Matrix, corpus_ND: Matrix, *, number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers (N, K) of the K nearest texts by cosine, the text itself left out."""
    near_NN = query_ND @ corpus_ND.T
    np.fill_diagonal(near_NN, -np.inf)
    return np.argpartition(-near_NN, number - 1, axis=1)[:, :number]


def _overlap(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Mean share of the one's neighbours that are the other's too."""
    shared = [len(set(a) & set(b)) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    return float(np.mean(shared)) / int(first.shape[1])


def drift_sentences(drift: Mapping[str, Any]) -> list[str]:
    """A drift in words, for the terminal."""
    if drift["is_identical"]:
        return [str(drift["verdict"])]
    most = max(drift["weight_change"], key=drift["weight_change"].__getitem__)
    change = drift["general_after"] - drift["general_before"]
    return [
        str(drift["verdict"]),
        f"{drift['num_texts']} texts: cosine before and after {drift['cosine']:.3f} "
        f"(5th percentile {drift['cosine_low']:.3f}); of {drift['num_neighbours']} neighbours "
        f"{drift['neighbours']:.0%} stayed, everything embedded anew.",
        f"The weights of {most} changed most ({drift['weight_change'][most]:.1%} of their norm).",
        f"Paraphrases of everyday sentences found (mean reciprocal rank): {drift['general_before']:.3f} "
        f"before, {drift['general_after']:.3f} after ({change:+.3f}).",
    ]
