"""Pretrained encoders read from a folder: Sentence Transformers models and plain Hugging Face ones.

Knows files and what may be wrong with them; what runs is a `Backbone`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for a .bin that holds more than tensors

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from frostline.errors import BackboneError
from frostline.model.backbone import Backbone
from frostline.model.domains import ModelSettings, find_backbone


def load_backbone(settings: ModelSettings) -> Backbone:
    """The pretrained backbone in float32 on the CPU, in eval mode.

    Raises:
        BackboneError: not found, unsafe, damaged, or of an unknown architecture.
    """
    found = find_backbone(settings.backbone)
    model = load_sentence_transformer(found.folder, pooling=settings.pooling)
    return Backbone(model, max_length=settings.max_length, name=found.name)


def load_sentence_transformer(folder: Path, *, pooling: str | None = None) -> SentenceTransformer:
    """A Sentence Transformers or plain Hugging Face folder in float32; no code of the folder runs.

    Raises:
        BackboneError: the folder cannot be loaded, or its prompt is left out of its pooling.
    """
    try:
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(0)  # a pooler that the weights lack is drawn; draw the same one each time
            model = SentenceTransformer(
                str(folder),
                device="cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32},
            )
    except (SafetensorError, UnpicklingError, EOFError, IndexError) as error:
        raise BackboneError(f"{folder}: its weights are damaged, or no plain tensors ({error}).") from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        raise BackboneError(f"{folder}: cannot be loaded as a text encoder ({error}).") from error
    return _with_pooling(model, folder, pooling).eval()


def _with_pooling(model: SentenceTransformer, folder: Path, pooling: str | None) -> SentenceTransformer:
    from sentence_transformers.sentence_transformer.modules import Pooling

    pools = [module for module in model if isinstance(module, Pooling)]
    if len(pools) != 1 or not hasattr(model[0], "auto_model"):
        raise BackboneError(f"{folder}: a transformer with one pooling is needed, this model is {model}.")
    if model.default_prompt_name and not pools[0].include_prompt:
        raise BackboneError(
            f"{folder}: leaves its prompt out of the pooling, which frostline does not do yet."
        )
    if pooling and pools[0].pooling_mode != pooling:
        if (folder / "modules.json").is_file():
            raise BackboneError(
                f"model.pooling: '{pooling}' asked, but {folder} says '{pools[0].pooling_mode}'. Drop it."
            )
        model[1] = Pooling(pools[0].embedding_dimension, pooling_mode=pooling)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no notes of libraries about weights that a backbone does not use."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    had_bars = transformers_logging.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            transformers_logging.enable_progress_bar()
