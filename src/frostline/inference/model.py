"""A finished model in memory: texts in, labels, probabilities or embeddings out.

Shapes: N texts, C labels, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from frostline.data.batches import Tokens, pad, tokenize
from frostline.data.labels import Task
from frostline.data.read import without_surrogates
from frostline.data.table import IntN
from frostline.errors import DataError
from frostline.model.bundle import BundleFile, load_bundle
from frostline.model.cores import map_batches
from frostline.model.device import Precision, choose_device, choose_precision
from frostline.model.heads import decisions, probabilities
from frostline.model.memory import keeping_freed_memory
from frostline.model.multitask import MultitaskModel
from frostline.settings import AskedFormat

_FEW_BATCHES = 8  # to give memory back afterwards takes as long as a batch
Prediction = str | list[str] | float


class Model:
    """A loaded bundle; it takes the network over, and changes its number format and device.

    Attributes:
        tasks: its tasks by name, with their labels.
        about: what `frostline.json` says of it.
        precision: number format it runs in, and why.
    """

    def __init__(
        self, network: MultitaskModel, about: BundleFile, *, precision: Precision, device: torch.device
    ) -> None:
        self.network = network.to(device).eval()
        network.to_format(precision.dtype)
        self.about = about
        self.precision = precision
        self.device = device
        self.tasks: dict[str, Task] = network.tasks

    def predict(self, texts: Sequence[str]) -> dict[str, list[Prediction]]:
        """The answer of every task for every text.

        Returns:
            For each task a list of N: the most probable label (classification), the labels whose probability
            reaches their threshold (multilabel), a number in the target's unit (regression).

        Raises:
            DataError: a single text instead of several, or something that is no text.
        """
        return {name: decide(self.tasks[name], values) for name, values in self.predict_proba(texts).items()}

    def predict_proba(self, texts: Sequence[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Probabilities (N, C) by task, columns as in `tasks[name].labels`; (N,) float64 of a regression.

        Raises:
            DataError: as `predict` does.
        """
        return {name: probabilities(self.tasks[name], v) for name, v in self.logits(texts).items()}

    def classify(
        self, embedding_ND: np.ndarray[Any, Any]
    ) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """`predict_proba` from embeddings that `encode` made earlier; the backbone does not run.

        A task whose head has stages of its own (`protect = "fork"`) cannot be told from them and is left out.
        """
        return {
            name: probabilities(self.tasks[name], values)
            for name, values in self.logits_of(embedding_ND).items()
        }

    def logits(self, texts: Sequence[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Logits (N, C) of every task; for a regression the standardised target (N, 1)."""
        return self.logits_of_tokens(self._tokens(texts))

    def logits_of_tokens(self, tokens: Tokens) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """`logits` for texts that are tokenised already."""
        if not self.network.forks:
            return self.logits_of(self.encode_tokens(tokens))
        logits = {
            name: np.empty((len(tokens), task.num_outputs), np.float32) for name, task in self.tasks.items()
        }
        for rows, values in self._map(self.network, tokens):
            for name, logits_BC in values.items():
                logits[name][rows] = logits_BC.cpu().numpy()
        return logits

    def logits_of(
        self, embedding_ND: np.ndarray[Any, Any]
    ) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """`logits` from embeddings that `encode` made earlier, of the tasks that `classify` answers.

        Raises:
            DataError: no matrix of numbers as wide as the model's embeddings.
        """
        width = self.network.backbone.width
        if getattr(embedding_ND, "ndim", 0) != 2 or embedding_ND.shape[1] != width:
            shape = getattr(embedding_ND, "shape", type(embedding_ND).__name__)
            raise DataError(f"embeddings: a matrix (N, {width}) is needed, {shape} arrived.")
        given = torch.from_numpy(np.ascontiguousarray(embedding_ND, dtype=np.float32)).to(self.device)
        with torch.inference_mode():
            return {name: values.cpu().numpy() for name, values in self.network.logits(given).items()}

    @overload
    def encode(self, texts: str) -> np.ndarray[Any, np.dtype[np.float32]]: ...
    @overload
    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]: ...
    def encode(self, texts: str | Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Embeddings (N, D) float32, those of `SentenceTransformer.encode`; (D,) for a single text.

        Raises:
            DataError: something that is no text.
        """
        if isinstance(texts, str):
            single_D: np.ndarray[Any, np.dtype[np.float32]] = self._encode([texts])[0]
            return single_D
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self.encode_tokens(self._tokens(texts))

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        backbone, texts = self.network.backbone, _clean(texts)
        return tokenize(backbone.tokenizer, texts, max_length=backbone.max_length, prompt=backbone.prompt)

    def encode_tokens(self, tokens: Tokens) -> np.ndarray[Any, np.dtype[np.float32]]:
        """`encode` for texts that are tokenised already."""
        backbone = self.network.backbone
        embedding_ND = np.empty((len(tokens), backbone.width), dtype=np.float32)
        for rows, values in self._map(backbone, tokens):
            embedding_ND[rows] = values.cpu().numpy()
        return embedding_ND

    def _map(self, module: nn.Module, tokens: Tokens) -> Iterator[tuple[IntN, Any]]:
        """Yields rows and what a module makes of their padded tokens, for every text."""
        backbone = self.network.backbone

        def forward(rows: IntN) -> Any:
            with torch.inference_mode():
                return module(pad(tokens, rows, pad_id=backbone.pad_id).to(self.device))

        batches = backbone.batches(tokens.length_N, device=self.device, precision=self.precision)
        is_long = self.device.type == "cpu" and len(batches) > _FEW_BATCHES
        with keeping_freed_memory() if is_long else nullcontext():
            yield from map_batches(forward, batches, device=self.device)


def load(folder: str | Path, *, precision: AskedFormat = "auto", device: str = "auto") -> Model:
    """Loads a bundle, or the one in a run's folder.

    Args:
        folder: of the bundle or of the run.
        precision: 'auto' takes bf16 where it is measured to be faster; 'fp32' gives the embeddings of
            Sentence Transformers within 1e-5.
        device: 'auto', 'cpu', 'cuda' or 'mps'.

    Raises:
        BundleError: incomplete, damaged, unsafe or of a newer format.
        ConfigError: a precision or a device that is not there.
    """
    network, about = load_bundle(Path(folder))
    place = choose_device(device)
    chosen = choose_precision(precision, device=place, width=network.backbone.width)
    return Model(network, about, precision=chosen, device=place)


def decide(task: Task, values: np.ndarray[Any, Any]) -> list[Prediction]:
    """Answers of a task from its probabilities (see `Model.predict`)."""
    answers = decisions(task, values)
    if task.kind == "regression":
        return [float(value) for value in answers]
    if task.kind == "multilabel":
        return [[task.labels[i] for i in np.flatnonzero(row)] for row in answers]
    return [task.labels[i] for i in answers]


def _clean(texts: Sequence[Any]) -> list[str]:
    if isinstance(texts, str | Mapping) or not isinstance(texts, Iterable):
        raise DataError(f"texts: a list of texts is needed, {type(texts).__name__} arrived.")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"texts[{index}]: a text is needed, {type(text).__name__} arrived.")
    return [without_surrogates(text) for text in texts]
