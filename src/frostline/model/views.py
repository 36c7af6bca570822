"""Views of a Hugging Face model that run some of its stages and share every parameter with it.

A view is a shallow copy whose children are replaced: the same `forward` with fewer layers in its list, and
with an embedding module that hands over stored hidden states. Tried with transformers 5.23.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from frostline.model.architectures import Layout


class _Given(nn.Module):
    """Stands where the embeddings were; returns the hidden states that it is given for token ids."""

    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return input_ids


class _NoLayers(nn.Module):
    """Stands where an encoder was that cannot run without layers (DeBERTa-v2)."""

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(
            last_hidden_state=cast(torch.FloatTensor, hidden_states),
            hidden_states=(cast(torch.FloatTensor, hidden_states),),
        )


def build_view(model: PreTrainedModel, layout: Layout, start: int, stop: int) -> nn.Module:
    """The model reduced to stages `start` … `stop` − 1, sharing every parameter with it."""
    view = _shallow(model)
    num_layers = len(cast(nn.ModuleList, model.get_submodule(layout.layers)))
    for path in layout.unused:
        if has_module(model, path):
            _replace(view, path, None)
    if start > 0:
        _replace(view, layout.embeddings, _Given())
        if layout.projection and has_module(model, layout.projection):
            _replace(view, layout.projection, nn.Identity())
    if stop <= num_layers and layout.final_norm:
        _replace(view, layout.final_norm, nn.Identity())
    if start > 1 and layout.first_layer and has_module(model, layout.first_layer):
        _replace(view, layout.first_layer, None)
    layers = list(cast(nn.ModuleList, model.get_submodule(layout.layers)))[max(0, start - 1) : stop - 1]
    parent = layout.layers.rpartition(".")[0]
    if not layers and not layout.runs_empty:
        _replace(view, parent, _NoLayers())
    else:
        _replace(view, layout.layers, nn.ModuleList(layers))
    return view


def _shallow(module: nn.Module) -> nn.Module:
    """A copy of one module that shares its children and parameters but can be given other children."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    return clone


def _replace(view: nn.Module, path: str, module: nn.Module | None) -> None:
    """Puts a module at a path of a view, copying the containers on the way; the original keeps its own."""
    *parents, last = path.split(".")
    for name in parents:
        child = _shallow(cast(nn.Module, view._modules[name]))
        view._modules[name] = child
        view = child
    view._modules[last] = module


def has_module(model: nn.Module, path: str) -> bool:
    """Whether a module is at a dotted path; a model's optional parts are None or absent."""
    owner, _, last = path.rpartition(".")
    return model.get_submodule(owner)._modules.get(last) is not None


def is_under(path: str, owner: str) -> bool:
    """Whether a dotted path is the owner's or leads through it."""
    return path == owner or path.startswith(owner + ".")
