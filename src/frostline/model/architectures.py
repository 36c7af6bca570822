"""Where each architecture keeps its stages: the one place that knows Hugging Face models by name.

To add an architecture, add a row here; `tests/model/test_backbone.py` runs every row at every depth.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from frostline.errors import BackboneError, did_you_mean


@dataclass(frozen=True)
class Classifier:
    """Where a `…ForSequenceClassification` model keeps its head: linear(norm(activation(dense(pooled)))).

    Attributes:
        dense: dotted path in the whole model.
        linear: the map to the logits.
        activation: tanh, relu or gelu; the name of a key of config.json where `from_config`.
        from_config: whether the configuration names the activation.
        norm: path of a LayerNorm after the activation.
        pooling: what the head reads: the first token's state, or what config.json says.
    """

    dense: str = "classifier.dense"
    linear: str = "classifier.out_proj"
    activation: str = "tanh"
    from_config: bool = False
    norm: str | None = None
    pooling: str = "cls"


@dataclass(frozen=True)
class Layout:
    """Names of modules inside a Hugging Face encoder, as dotted paths.

    Attributes:
        layers: the list of transformer layers: stages 1 to L.
        embeddings: called with token ids; stage 0.
        projection: applied to what `embeddings` returns; stage 0.
        final_norm: applied after the last layer; top stage.
        first_layer: used after the first layer alone; stage 1.
        shared: parameters that every layer reads. Moving them moves every stage, so they belong to
            stage 0 and learn only when all layers do.
        unused: makes no part of a token's state (BERT's pooler); never learns.
        runs_empty: whether the encoder's `forward` works with an empty list of layers.
        packs: whether texts can be run one after the other without padding: nothing but the positions that
            they are given and the attention tells them apart.
        classifier: of the architecture's model for classification.
    """

    layers: str = "encoder.layer"
    embeddings: str = "embeddings"
    projection: str | None = None
    final_norm: str | None = None
    first_layer: str | None = None
    shared: tuple[str, ...] = ()
    unused: tuple[str, ...] = ("pooler",)
    runs_empty: bool = True
    packs: bool = False
    classifier: Classifier = Classifier()


LAYOUTS = {
    "bert": Layout(packs=True, classifier=Classifier("bert.pooler.dense", "classifier")),
    "roberta": Layout(packs=True),
    "xlm-roberta": Layout(packs=True),
    "distilbert": Layout(
        layers="transformer.layer",
        packs=True,
        classifier=Classifier("pre_classifier", "classifier", "relu"),
    ),
    "mpnet": Layout(shared=("encoder.relative_attention_bias",)),
    "electra": Layout(projection="embeddings_project", packs=True, classifier=Classifier(activation="gelu")),
    "deberta-v2": Layout(
        first_layer="encoder.conv",
        shared=("encoder.rel_embeddings", "encoder.LayerNorm"),
        runs_empty=False,
        classifier=Classifier("pooler.dense", "classifier", "pooler_hidden_act", from_config=True),
    ),
    "modernbert": Layout(
        layers="layers",
        final_norm="final_norm",
        classifier=Classifier(
            "head.dense",
            "classifier",
            "classifier_activation",
            from_config=True,
            norm="head.norm",
            pooling="classifier_pooling",
        ),
    ),
}

_REFUSED = {
    "albert": "its layers share one set of weights, so no layer can be frozen alone",
}


def counts_from_padding(model: PreTrainedModel) -> bool:
    """Whether the positions of a text count up from the padding id, which stands for padding."""
    return model.config.model_type in {"roberta", "xlm-roberta", "mpnet"}


def first_position(model: PreTrainedModel) -> int:
    """Number of a text's first position."""
    if not counts_from_padding(model):
        return 0
    return 2 if model.config.model_type == "mpnet" else int(model.config.pad_token_id) + 1


def layout_of(model_type: str) -> Layout:
    """The layout of an architecture, by the `model_type` of its config.

    Raises:
        BackboneError: an architecture that is not in the table, or cannot be in it.
    """
    if model_type in _REFUSED:
        raise BackboneError(
            f"model.backbone: architecture '{model_type}' is refused: {_REFUSED[model_type]}."
        )
    if model_type not in LAYOUTS:
        raise BackboneError(
            f"model.backbone: architecture '{model_type}' is unknown. Known: {', '.join(LAYOUTS)}."
            + did_you_mean(model_type, LAYOUTS)
            + " To add it, say where its embeddings and layers are in frostline/model/architectures.py."
        )
    return LAYOUTS[model_type]
