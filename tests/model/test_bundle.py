"""A bundle is loaded whole and unchanged, or refused with the reason."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import frostline as fl
from frostline.errors import BundleError
from frostline.model.bundle import load_bundle


@pytest.fixture
def bundle(trained, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    return tmp_path / "model"


def change(path, **fields):
    content = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps(content), "utf-8")


def trust(bundle, *names):
    """Writes the present hashes into frostline.json, as an attacker who knows the format would."""
    from frostline.atomic import file_hash

    about = json.loads((bundle / "frostline.json").read_text("utf-8"))
    change(bundle / "frostline.json", hashes=about["hashes"] | {n: file_hash(bundle / n) for n in names})


def test_a_loaded_bundle_is_the_model_that_was_saved(bundle, trained):
    network, about = load_bundle(bundle)
    again, _ = load_bundle(trained)
    first, second = network.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert about.tasks == ("topic", "mood", "stars", "tags")
    assert not network.training


def test_the_card_holds_the_real_scores_and_how_to_load_it(bundle, trained):
    card = (bundle / "README.md").read_text("utf-8")
    report = json.loads((trained / "report.json").read_text())
    assert f"macro_f1 {report['test']['tasks']['topic']['macro_f1']:.3f}" in card
    assert "library_name: sentence-transformers" in card
    assert 'fl.load("path/to/this/folder")' in card


@pytest.mark.parametrize(
    "name", ["model.safetensors", "heads/topic/model.safetensors", "heads/topic/head.json", "tokenizer.json"]
)
def test_a_changed_byte_is_found(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: is not what was saved"):
        fl.load(bundle)


def test_a_missing_file_is_named(bundle):
    (bundle / "heads" / "mood" / "head.json").unlink()
    with pytest.raises(BundleError, match="'heads/mood/head.json' is missing"):
        fl.load(bundle)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "is of format 2, this frostline reads up to 1. Upgrade frostline"),
        ({"tasks": ["../../etc"]}, r"'\.\./\.\./etc' is no task's name"),
        ({"hashes": {"../outside.json": "0"}}, "names '../outside.json', which lies outside"),
        ({"surprise": 1}, "surprise"),
        ({"max_length": "many"}, "max_length"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(bundle, fields, message):
    change(bundle / "frostline.json", **fields)
    with pytest.raises(BundleError, match=message):
        fl.load(bundle)


def test_folders_that_are_no_bundle_say_what_is_needed(tmp_path, tiny):
    with pytest.raises(BundleError, match="no such folder. Give the folder of a run"):
        fl.load(tmp_path / "nothing")
    with pytest.raises(BundleError, match="holds no frostline.json"):
        fl.load(tiny)


@pytest.mark.parametrize("text", ["{", "[" * 200_000, "[]", '"x"', "null"])
def test_a_broken_description_is_refused(bundle, text):
    (bundle / "frostline.json").write_text(text)
    with pytest.raises(BundleError, match="frostline.json"):
        fl.load(bundle)


def test_heads_of_another_shape_or_with_nan_are_refused(bundle):
    path = bundle / "heads" / "topic" / "model.safetensors"
    weights = load_file(path)
    save_file({"weight": weights["weight"][:2].contiguous(), "bias": weights["bias"][:2]}, path)
    trust(bundle, "heads/topic/model.safetensors")
    with pytest.raises(BundleError, match="not the weights of this head"):
        fl.load(bundle)
    save_file(weights | {"bias": torch.full_like(weights["bias"], torch.nan)}, path)
    trust(bundle, "heads/topic/model.safetensors")
    with pytest.raises(BundleError, match="not finite"):
        fl.load(bundle)


def test_no_code_of_the_folder_runs_and_nothing_outside_is_read(bundle, tmp_path):
    canary = tmp_path / "canary"
    (bundle / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: ...\n")
    modules = json.loads((bundle / "modules.json").read_text())
    (bundle / "modules.json").write_text(
        json.dumps([*modules, {"idx": 9, "name": "9", "path": "", "type": "evil.Evil"}])
    )
    trust(bundle, "modules.json")
    with pytest.raises(BundleError, match="'evil.Evil' is not one that frostline loads"):
        fl.load(bundle)
    (bundle / "modules.json").write_text(json.dumps(modules))
    change(bundle / "config.json", auto_map={"AutoModel": "evil.Evil"})
    trust(bundle, "modules.json", "config.json")
    with pytest.raises(BundleError, match="'auto_map' asks to run code"):
        fl.load(bundle)
    assert not canary.exists()


def test_a_link_out_of_the_folder_is_refused(bundle, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    os.symlink(secret, bundle / "vocab.txt")
    with pytest.raises(BundleError, match="lies outside"):
        fl.load(bundle)


def test_hostile_weights_are_refused_without_running_them(bundle, tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    (bundle / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, bundle / "pytorch_model.bin")
    about = json.loads((bundle / "frostline.json").read_text())
    about["hashes"].pop("model.safetensors")
    (bundle / "frostline.json").write_text(json.dumps(about))
    with pytest.raises(BundleError, match="weights are damaged, or no plain tensors"):
        fl.load(bundle)
    assert not canary.exists()


def test_a_header_that_promises_too_much_is_refused(bundle):
    (bundle / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    trust(bundle, "model.safetensors")
    with pytest.raises(BundleError):
        fl.load(bundle)


def test_a_run_that_has_not_ended_is_told_from_a_strange_folder(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(BundleError, match="its run has not ended. Go on with it: frostline resume"):
        load_bundle(tmp_path)
