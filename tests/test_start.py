"""A run that starts from a finished model: new heads beside the old ones, which answer as before."""

import json

import numpy as np
import pytest

import frostline as fl
from conftest import WORDS, write_jsonl
from frostline.errors import BundleError, ConfigError, RunError

TEXTS = ["the goal was great", "an awful bank of the one and very sad soup", "bread " * 40]


@pytest.fixture
def more(content, toy, tmp_path):
    """A run that adds a task, the length of a text, with the plan of heads."""
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (toy / f"{name}.jsonl").read_text().splitlines()]
        rows = [{"text": row["text"], "length": str(min(2, len(row["text"].split()) // 4))} for row in rows]
        content["data"][name] = str(write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows))
    content["tasks"] = {"length": {}}
    content["plan"] = {"recipe": "heads"}
    return content


def outputs(folder):
    model = fl.load(folder, precision="fp32")
    return model.predict_proba(TEXTS) | {"embedding": model.encode(TEXTS)}


def test_a_task_is_added_and_every_old_answer_stays_to_the_bit(more, trained, tmp_path):
    run = fl.train(more, output=tmp_path / "run", start_from=trained)
    before, after = outputs(trained), outputs(run.folder)
    assert set(after) - set(before) == {"length"}
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert set(run.report["test"]["tasks"]) == {"length"}
    assert run.report["phases"][0]["frozen_heads"] == ["topic", "mood", "stars", "tags"]
    again = fl.train(run.folder / "config.toml", output=tmp_path / "again")
    assert again.report["test"] == run.report["test"]


def test_a_task_that_the_bundle_has_goes_on_learning(more, content, trained, toy, tmp_path):
    more["data"] = {name: str(toy / f"{name}.jsonl") for name in ("train", "validation", "test")}
    more["tasks"] = {"mood": {}}
    run = fl.train(more, output=tmp_path / "run", start_from=trained / "model")
    before, after = outputs(trained), outputs(run.folder)
    assert not np.array_equal(before["mood"], after["mood"])
    assert np.array_equal(before["topic"], after["topic"])


def test_a_fork_is_carried_along(more, content, toy, tmp_path):
    forking = json.loads(json.dumps(more))
    forking["data"] = {name: str(toy / f"{name}.jsonl") for name in ("train", "validation", "test")}
    forking["tasks"] = {"topic": {}, "mood": {}}
    forking["plan"] = {
        "phases": [
            {"epochs": 1},
            {"top_layers": 1, "frozen_heads": ["mood"], "protect": "fork", "backbone_lr": 1e-2},
        ]
    }
    first = fl.train(forking, output=tmp_path / "forked")
    second = fl.train(more, output=tmp_path / "more", start_from=first.folder)
    before, after = outputs(first.folder), outputs(second.folder)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    deeper = more | {"plan": {"phases": [{"top_layers": 2, "backbone_lr": 1e-2}]}}
    third = fl.train(deeper, output=tmp_path / "deeper", start_from=first.folder)
    after = outputs(third.folder)
    assert np.allclose(before["mood"], after["mood"], atol=1e-6)
    assert not np.allclose(before["topic"], after["topic"], atol=1e-3)


def test_a_head_with_stages_of_its_own_cannot_learn_again(more, toy, tmp_path):
    more["data"] = {name: str(toy / f"{name}.jsonl") for name in ("train", "validation", "test")}
    more["tasks"] = {"topic": {}, "mood": {}}
    fork = {"top_layers": 1, "frozen_heads": ["mood"], "protect": "fork"}
    more["plan"] = {"phases": [{"epochs": 1}, fork]}
    first = fl.train(more, output=tmp_path / "forked")
    more["plan"] = {"phases": [{"epochs": 1}]}
    with pytest.raises(ConfigError, match="the head of 'mood' has stages of its own, so it cannot learn"):
        fl.train(more, output=tmp_path / "run", start_from=first.folder)
    more["plan"] = {"phases": [{"top_layers": 1, "frozen_heads": ["mood"], "protect": "distill"}]}
    second = fl.train(more, output=tmp_path / "run", start_from=first.folder)
    assert second.report["leak"]["mood"]["flip_rate"] == 0


def test_a_run_does_not_write_over_the_model_that_it_starts_from(more, trained, tmp_path):
    with pytest.raises(RunError, match="the run starts from .* which lies in it"):
        fl.train(more, output=trained, start_from=trained, overwrite=True)
    assert (trained / "report.json").is_file()


def test_a_column_that_two_tasks_would_read_is_said(more, trained, tmp_path):
    more["tasks"] = {"length": {"column": "topic"}}
    with pytest.raises(
        ConfigError, match=r"tasks.length.column: 'topic' is what the model's task 'topic' reads"
    ):
        fl.train(more, output=tmp_path / "run", start_from=trained)


def test_what_would_change_the_old_answers_is_refused(more, trained, tmp_path):
    more["model"]["max_length"] = 16
    with pytest.raises(ConfigError, match="16 given, but the heads of .* have learned on texts of 32 tokens"):
        fl.train(more, output=tmp_path / "run", start_from=trained)
    with pytest.raises(BundleError, match="no such folder"):
        fl.train(more, output=tmp_path / "run", start_from=tmp_path / "none")


def test_the_words_of_the_tests_are_those_of_the_tokenizer():
    assert {"goal", "awful", "bread"} <= set(WORDS)
