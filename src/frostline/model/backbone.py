"""A pretrained encoder as numbered stages: run a prefix, run a suffix.

Stage 0 is the embeddings, stage i transformer layer i, the top one with the final norm and the pooling. A
prefix or suffix is a view of the Hugging Face model: the same `forward`, the same parameters, fewer layers.
Knows nothing of tasks or plans.

Shapes: B texts, L tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from frostline.data.batches import TokenBatch, filled_batches, sorted_batches
from frostline.data.table import IntN
from frostline.errors import BackboneError
from frostline.model.architectures import Layout, counts_from_padding, first_position, layout_of
from frostline.model.cpu import replace_slow_parts
from frostline.model.device import Precision, forward_tokens
from frostline.model.fused import fuse
from frostline.model.packing import Packing, can_pack
from frostline.model.views import build_view, has_module, is_under


class Backbone(nn.Module):
    """A Sentence Transformers model that can be run from any stage to any other.

    Attributes:
        sentence_transformer: the model itself, whose folder format is ours.
        num_layers: transformer layers L; there are L + 1 stages, and frozen depth runs from 0 to L + 1.
        width: D of the embedding.
        max_length: most tokens of a text.
        name: what the weights are called.
        recomputes_stages: whether a pass with gradient keeps the inputs of stages alone, and the backward
            pass computes them again: less memory for about a third more time, the same bits; to rounding
            what layers share, as MPNet's relative positions.
    """

    def __init__(self, sentence_transformer: SentenceTransformer, *, max_length: int, name: str) -> None:
        super().__init__()
        self.sentence_transformer = sentence_transformer
        self.layout: Layout = layout_of(self.transformer.config.model_type)
        self.num_layers = len(cast(nn.ModuleList, self.transformer.get_submodule(self.layout.layers)))
        self.width = int(sentence_transformer.get_embedding_dimension() or 0)
        self.max_length = _checked_length(self.transformer, max_length)
        sentence_transformer.max_seq_length = self.max_length
        self.name = name
        self.recomputes_stages = False
        replace_slow_parts(self.transformer)
        fuse(self.transformer)
        self._views: dict[tuple[int, int], nn.Module] = {}
        self.stage_of = {name: self._find_stage(name) for name, _ in self.named_parameters()}

    @property
    def transformer(self) -> PreTrainedModel:
        """The Hugging Face model."""
        return cast(PreTrainedModel, self.sentence_transformer[0].auto_model)

    @property
    def hidden_width(self) -> int:
        """Width of the transformer's hidden states, which a projection after the pooling may change."""
        return int(self.transformer.config.hidden_size)

    @property
    def tail(self) -> list[nn.Module]:
        """What follows the transformer: pooling, normalisation, a projection."""
        return list(self.sentence_transformer)[1:]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the pretrained weights."""
        return cast(PreTrainedTokenizerBase, self.sentence_transformer.tokenizer)

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def prompt(self) -> str:
        """What the pretrained model expects before every text; mostly empty."""
        name = self.sentence_transformer.default_prompt_name
        return str(self.sentence_transformer.prompts[name]) if name else ""

    @property
    def is_normalized(self) -> bool:
        """Whether embeddings have length 1."""
        return any(type(module).__name__ == "Normalize" for module in self.tail)

    @property
    def pooling(self) -> str:
        """How token states become one embedding: 'mean', 'cls', or another of Sentence Transformers'."""
        return str(next(m.pooling_mode for m in self.tail if hasattr(m, "pooling_mode")))

    @property
    def num_stages(self) -> int:
        """L + 1."""
        return self.num_layers + 1

    @property
    def num_positions(self) -> int | None:
        """Most tokens of a text that it can be asked for; None where it knows no bound."""
        return _num_positions(self.transformer)

    def batches(self, length_N: IntN, *, device: torch.device, precision: Precision) -> list[IntN]:
        """Rows of N texts of so many tokens in batches for a pass without a gradient, by falling length of
        the longest; filled where a CPU leaves the padding out.
        """
        with torch.no_grad(), precision.autocast(device):
            is_packed = self.layout.packs and can_pack(self.transformer, device=device)
        cut_up = filled_batches if is_packed and device.type == "cpu" else sorted_batches
        return cut_up(length_N, max_tokens=forward_tokens(device))

    def stage_modules(self, stage: int) -> Iterator[nn.Module]:
        """Modules of one stage, as freezing and dropout see them."""
        layout = self.layout
        paths = {0: [layout.embeddings, layout.projection, *layout.shared], 1: [layout.first_layer]}
        for path in paths.get(stage, []):
            if path and has_module(self.transformer, path):
                yield self.transformer.get_submodule(path)
        if stage > 0:
            yield cast(nn.ModuleList, self.transformer.get_submodule(layout.layers))[stage - 1]
        if stage == self.num_layers:
            if layout.final_norm:
                yield self.transformer.get_submodule(layout.final_norm)
            yield from self.tail

    def prefix(self, batch: TokenBatch, *, depth: int) -> torch.Tensor:
        """What stages 0 … depth − 1 make of the tokens.

        Args:
            batch: padded tokens.
            depth: 1 … L + 1.

        Returns:
            Hidden states (B, L, D) for depth ≤ L; embeddings (B, D) float32 at L + 1.
        """
        return self.between(batch.ids_BL, batch.mask_BL, start=0, stop=depth)

    def between(self, states: torch.Tensor, mask_BL: torch.Tensor, *, start: int, stop: int) -> torch.Tensor:
        """What stages `start` … `stop` − 1 make of what the stages below returned (see `prefix`)."""
        if stop == self.num_stages:
            return self.suffix(states, mask_BL, depth=start)
        return self.hidden(states, mask_BL, start=start, stop=stop)

    def hidden(self, states: torch.Tensor, mask_BL: torch.Tensor, *, start: int, stop: int) -> torch.Tensor:
        """Hidden states (B, L, D) after stage `stop` − 1, also after the top one, before pooling."""
        if not (self.recomputes_stages and torch.is_grad_enabled()):
            return self._run(states, mask_BL, start=start, stop=stop)
        for stage in range(start, stop):
            after = checkpoint(self._run, states, mask_BL, start=stage, stop=stage + 1, use_reentrant=False)
            states = cast(torch.Tensor, after)
        return states

    def suffix(self, states: torch.Tensor, mask_BL: torch.Tensor, *, depth: int) -> torch.Tensor:
        """Embeddings from what the prefix of this depth returned; from token ids at depth 0.

        Returns:
            Embeddings (B, D) float32, those of `SentenceTransformer.encode`.
        """
        if depth == self.num_stages:
            return states
        return self.pool(self.hidden(states, mask_BL, start=depth, stop=self.num_stages), mask_BL)

    def pool(self, hidden_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) float32 from the hidden states of the top stage."""
        features = {"token_embeddings": hidden_BLD.float(), "attention_mask": mask_BL}
        for module in self.tail:
            features = module(features)
        return features["sentence_embedding"].float()

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """Embeddings (B, D) of a padded batch."""
        return self.suffix(batch.ids_BL, batch.mask_BL, depth=0)

    def to_format(self, dtype: torch.dtype) -> Backbone:
        """Itself, with the transformer's weights in a number format; buffers (rotary frequencies), and what
        follows it, stay float32.
        """
        for parameter in self.transformer.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def _run(self, states: torch.Tensor, mask_BL: torch.Tensor, *, start: int, stop: int) -> torch.Tensor:
        view = self._view(start, stop)
        # A suffix is given hidden states in place of token ids; only the replaced embeddings read them.
        if not (self.layout.packs and can_pack(self.transformer, device=states.device)):
            # Embeddings of kinds that pack do not read the mask; a GPU would be waited for to look into it.
            read = None if stop == 1 and self.layout.packs else mask_BL
            return cast(torch.Tensor, view(input_ids=states, attention_mask=read, return_dict=True)[0])
        packing = Packing.of(mask_BL)
        position_1S = packing.position_1S
        if states.ndim == 2 and counts_from_padding(self.transformer):
            # A token that spells padding is not counted.
            padding = first_position(self.transformer) - 1
            is_counted_BL = states.ne(padding)
            position_1S = packing.pack(is_counted_BL.cumsum(1) * is_counted_BL + padding)
        state_1SD = view(
            input_ids=packing.pack(states), position_ids=position_1S, packing=packing, return_dict=True
        )[0]
        return packing.unpack(state_1SD)

    def _view(self, start: int, stop: int) -> nn.Module:
        key = (start, stop)
        if key not in self._views:
            self._views[key] = build_view(self.transformer, self.layout, start, stop)
        return self._views[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """A copy that shares nothing; its views are built anew."""
        sentence_transformer = copy.deepcopy(self.sentence_transformer, memo)
        clone = Backbone(sentence_transformer, max_length=self.max_length, name=self.name)
        clone.recomputes_stages = self.recomputes_stages
        return clone

    def _find_stage(self, name: str) -> int | None:
        """Stage of a parameter; None for those that no embedding depends on."""
        head, _, rest = name.removeprefix("sentence_transformer.").partition(".")
        if head != "0":
            return self.num_layers  # the tail
        path = rest.partition(".")[2]
        layout = self.layout
        if is_under(path, layout.layers):
            return int(path.removeprefix(layout.layers + ".").partition(".")[0]) + 1
        for stage, owners in (
            (0, (layout.embeddings, layout.projection, *layout.shared)),
            (1, (layout.first_layer,)),
            (self.num_layers, (layout.final_norm,)),
            (None, layout.unused),
        ):
            if any(owner and is_under(path, owner) for owner in owners):
                return stage
        raise BackboneError(
            f"model.backbone: parameter '{path}' of {type(self.transformer).__name__} belongs to no stage. "
            "Name its module in frostline/model/architectures.py."
        )


def _num_positions(model: PreTrainedModel) -> int | None:
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions - first_position(model) if positions else None


def _checked_length(model: PreTrainedModel, max_length: int) -> int:
    positions = _num_positions(model)
    if positions and max_length > positions:
        raise BackboneError(
            f"model.max_length: {max_length} tokens asked, but this backbone has {positions} positions."
        )
    return max_length
