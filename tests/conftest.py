"""A tiny random encoder and a toy data set, built in memory: no network, no weights."""

import atexit
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
if "FROSTLINE_CACHE" not in os.environ:  # workers of pytest-xdist inherit it
    os.environ["FROSTLINE_CACHE"] = tempfile.mkdtemp(prefix="frostline-cache-")
    atexit.register(shutil.rmtree, os.environ["FROSTLINE_CACHE"], ignore_errors=True)

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from frostline import train
from frostline.model.backbone import Backbone
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone
from frostline.training.journal import read_events
from frostline.training.updates import Updates

TOPICS = {
    "sport": ["goal", "team", "match"],
    "money": ["bank", "stock", "price"],
    "food": ["soup", "bread", "salt"],
}
MOODS = {"bad": ["awful", "sad"], "good": ["great", "happy"]}
FILLER = ["the", "a", "was", "and", "very", "of", "it", "one"]
WORDS = [word for words in (*TOPICS.values(), *MOODS.values()) for word in words] + FILLER
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}

CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SIZE, num_hidden_layers=3, max_position_embeddings=64),
    "roberta": RobertaConfig(**SIZE, num_hidden_layers=3, max_position_embeddings=66, pad_token_id=0),
    "xlm-roberta": XLMRobertaConfig(**SIZE, num_hidden_layers=3, max_position_embeddings=66, pad_token_id=0),
    "distilbert": DistilBertConfig(
        vocab_size=64, dim=32, n_heads=4, hidden_dim=64, n_layers=3, max_position_embeddings=64
    ),
    "mpnet": MPNetConfig(**SIZE, num_hidden_layers=3, max_position_embeddings=66, pad_token_id=0),
    "electra": ElectraConfig(**SIZE, embedding_size=16, num_hidden_layers=3, max_position_embeddings=64),
    "deberta-v2": DebertaV2Config(
        **SIZE,
        num_hidden_layers=3,
        max_position_embeddings=64,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        conv_kernel_size=3,
        conv_act="gelu",
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "modernbert": ModernBertConfig(
        **SIZE,
        num_hidden_layers=4,
        max_position_embeddings=64,
        global_attn_every_n_layers=2,
        local_attention=8,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    ),
}


def build_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def save_encoder(folder: Path, config: PretrainedConfig, *, seed: int = 0) -> Path:
    """A plain Hugging Face folder whose random word embeddings are large: mean pooling is a bag of words."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "LayerNorm" not in name:
                parameter.normal_(
                    0, 1.0 if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")) else 0.05
                )
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT of three layers and width 32."""
    return save_encoder(tmp_path_factory.mktemp("tiny") / "bert", CONFIGS["bert"])


@pytest.fixture
def backbone(tiny: Path) -> Backbone:
    return load_backbone(ModelSettings(backbone=str(tiny), max_length=32))


def toy_rows(number: int, *, seed: int) -> list[dict]:
    """Sentences whose topic and mood can be read off single words."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        topic = list(TOPICS)[generator.integers(len(TOPICS))]
        mood = list(MOODS)[generator.integers(len(MOODS))]
        words = list(generator.choice(FILLER, size=generator.integers(1, 6)))
        words += [
            str(generator.choice(TOPICS[topic])),
            str(generator.choice(MOODS[mood])),
            f"w{index}x{seed}",
        ]
        generator.shuffle(words)
        rows.append(
            {"text": " ".join(words), "topic": topic, "mood": mood, "stars": float(mood == "good") * 2 - 1}
        )
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_toy(folder: Path) -> Path:
    """The folder, with three splits of toy rows."""
    for seed, (name, number) in enumerate({"train": 240, "validation": 60, "test": 60}.items()):
        write_jsonl(folder / f"{name}.jsonl", toy_rows(number, seed=seed))
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train, validation and test files of topic and mood."""
    return write_toy(tmp_path_factory.mktemp("toy"))


def events(folder: Path) -> list[dict]:
    """The log of a run without what a clock decides."""
    clock = {"seconds", "phase_seconds", "run_seconds"}
    return [
        {k: v for k, v in event.items() if k not in clock} for event in read_events(folder / "events.jsonl")
    ]


def stop_after(steps: int, kind: str = "progress") -> Callable[[dict], None]:
    """A watcher that asks for a stop as Ctrl-C does, at the given event of a kind."""
    left = [steps]

    def show(event: dict) -> None:
        if event["event"] == kind:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)

    return show


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's model."""
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {f"{file.relative_to(folder)}:{k}": v for file in files for k, v in load_file(file).items()}


def build_content(tiny: Path, toy: Path) -> dict:
    """A run's file as nested dicts: two short phases on the toy data."""
    return {
        "model": {"backbone": str(tiny), "max_length": 32},
        "data": {name: str(toy / f"{name}.jsonl") for name in ("train", "validation", "test")},
        "tasks": {"topic": {}, "mood": {}},
        "plan": {
            "phases": [
                {"name": "heads", "epochs": 6, "head_lr": 1e-1},
                {"name": "top", "top_layers": 1, "epochs": 3, "backbone_lr": 3e-3, "head_lr": 1e-2},
            ]
        },
        # What "auto" finds depends on a clock, and a store on the tests before.
        "train": {"precision": "fp32", "batch_size": 32, "activations": "never"},
    }


@pytest.fixture
def keeps_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint of a run has the moments that a run drops when it ends."""
    monkeypatch.setattr(Updates, "forget", lambda self: None)


@pytest.fixture
def content(tiny: Path, toy: Path) -> dict:
    return build_content(tiny, toy)


@pytest.fixture(scope="session")
def trained(tiny: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a model of every kind of task; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    content = build_content(tiny, toy)
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (toy / f"{name}.jsonl").read_text().splitlines()]
        rows = [row | {"tags": [row["topic"], row["mood"]]} for row in rows]
        content["data"][name] = str(write_jsonl(folder / f"{name}.jsonl", rows))
    content["tasks"] |= {"stars": {"kind": "regression"}, "tags": {"kind": "multilabel"}}
    return train(content, output=folder / "run").folder
