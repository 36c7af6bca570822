"""Heads from elsewhere give the logits of the model that they were taken from."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import frostline as fl
from conftest import CONFIGS, build_content, build_tokenizer
from frostline.data.labels import Task, TaskSettings
from frostline.errors import BackboneError, BundleError, ConfigError, DataError
from frostline.model.borrowed import take_over

MOODS = {0: "good", 1: "bad"}


def save_classifier(folder, name, *, seed=0, **changes):
    """A random `…ForSequenceClassification` of an architecture, with its tokenizer."""
    torch.manual_seed(seed)
    config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict() | {"id2label": MOODS} | changes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return model


def taking(content, folder, **task):
    """The toy run on a classifier's encoder, with its head for the mood."""
    changed = json.loads(json.dumps(content))
    changed["model"] = {"backbone": str(folder), "max_length": 32}
    changed["tasks"] = {"topic": {}, "mood": {"head_from": str(folder)} | task}
    changed["plan"] = {"phases": [{"epochs": 1, "frozen_heads": ["mood"]}]}
    return changed


def original_logits(model, texts):
    batch = build_tokenizer()(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return model(**batch).logits.numpy()


TEXTS = ["the goal was great", "an awful bank of the one and very sad soup", "bread"]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_head_of_every_architecture_gives_its_own_logits(name, content, tmp_path):
    model = save_classifier(tmp_path / "classifier", name)
    run = fl.train(taking(content, tmp_path / "classifier"), output=tmp_path / "run")
    loaded = fl.load(run.folder, precision="fp32")
    expected = original_logits(model, TEXTS)
    assert np.abs(expected).max() > 0.05
    assert np.abs(loaded.logits(TEXTS)["mood"] - expected).max() < 1e-5
    assert loaded.tasks["mood"].labels == ("good", "bad")
    assert run.report["warnings"] == []


def test_a_head_taken_over_can_learn_and_be_solved_anew(content, tmp_path):
    save_classifier(tmp_path / "classifier", "bert")
    changed = taking(content, tmp_path / "classifier")
    changed["plan"] = {"phases": [{"solver": "probe"}, {"epochs": 2, "head_lr": 1e-2}]}
    run = fl.train(changed, output=tmp_path / "run")
    assert run.report["phases"][1]["validation"]["tasks"]["mood"]["macro_f1"] > 0.4
    assert "mood" in run.report["calibration"]


def test_a_mean_pooled_classifier_brings_its_pooling(content, tmp_path):
    model = save_classifier(tmp_path / "classifier", "modernbert", classifier_pooling="mean")
    run = fl.train(taking(content, tmp_path / "classifier"), output=tmp_path / "run")
    found = fl.load(run.folder, precision="fp32").logits(TEXTS)["mood"]
    assert np.abs(found - original_logits(model, TEXTS)).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"problem_type": "multi_label_classification"}, "multilabel"), ({"id2label": {0: "x"}}, "regression")],
)
def test_a_head_brings_its_kind(content, tmp_path, changes, kind):
    save_classifier(tmp_path / "classifier", "bert", **changes)
    changed = taking(content, tmp_path / "classifier", column="none")
    run = fl.train(changed, output=tmp_path / "run")
    assert run.load().tasks["mood"].kind == kind


def test_a_frozen_head_needs_no_labels(content, toy, tmp_path):
    save_classifier(tmp_path / "classifier", "bert")
    run = fl.train(taking(content, tmp_path / "classifier", column="absent"), output=tmp_path / "run")
    assert set(run.report["test"]["tasks"]) == {"topic"}
    assert set(run.load().predict(TEXTS)) == {"topic", "mood"}


def test_the_head_of_an_earlier_bundle_goes_on(content, trained, toy, tmp_path):
    changed = json.loads(json.dumps(content))
    changed["model"]["backbone"] = str(trained / "model")
    changed["tasks"] = {"topic": {}, "feeling": {"column": "mood", "head_from": str(trained)}}
    changed["plan"] = {"phases": [{"epochs": 1, "frozen_heads": ["feeling"]}]}
    with pytest.raises(BundleError, match=r"has no head 'feeling' \(topic, mood, stars, tags\)"):
        fl.train(changed, output=tmp_path / "run")
    changed["tasks"] = {"topic": {}, "mood": {"head_from": str(trained)}}
    changed["plan"]["phases"][0]["frozen_heads"] = ["mood"]
    run = fl.train(changed, output=tmp_path / "run")
    first, second = (fl.load(place, precision="fp32").predict_proba(TEXTS) for place in (trained, run.folder))
    assert np.array_equal(first["mood"], second["mood"])


def test_the_head_of_a_bundle_that_reads_another_pooling_is_refused(content, trained, tmp_path):
    changed = json.loads(json.dumps(content))
    changed["model"]["pooling"] = "cls"
    changed["tasks"]["mood"] = {"head_from": str(trained)}
    with pytest.raises(ConfigError, match=r"the head reads 32 numbers of Pooling \(mean\), this backbone's"):
        fl.train(changed, output=tmp_path / "run")


def test_another_encoder_is_said(content, tiny, trained, tmp_path):
    changed = json.loads(json.dumps(content))
    changed["tasks"]["mood"] = {"head_from": str(trained)}
    run = fl.train(changed, output=tmp_path / "run")
    assert "the head of 'mood' was trained on another encoder" in run.report["warnings"][0]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "regression"}, r"mood.kind: 'regression' asked, but the head of .* is of kind 'classif"),
        ({"labels": ["bad", "fine"]}, r"mood.labels: bad, fine given, but the head of .* has good, bad"),
    ],
)
def test_what_contradicts_the_head_is_refused(content, tmp_path, task, message):
    save_classifier(tmp_path / "classifier", "bert")
    with pytest.raises(ConfigError, match=message):
        fl.train(taking(content, tmp_path / "classifier", **task), output=tmp_path / "run")


def test_labels_of_the_data_that_the_head_does_not_know_are_refused(content, tmp_path):
    save_classifier(tmp_path / "classifier", "bert", id2label={0: "positive", 1: "negative"})
    with pytest.raises(DataError, match=r"train.jsonl:1: label '\w+' is not a label of task 'mood'"):
        fl.train(taking(content, tmp_path / "classifier"), output=tmp_path / "run")


def test_a_model_without_a_head_and_an_embedding_that_it_does_not_read_are_refused(content, tiny, tmp_path):
    with pytest.raises(BackboneError, match="is a model of BertModel; one of …ForSequenceClassification"):
        fl.train(taking(content, tiny), output=tmp_path / "run")
    with pytest.raises(BackboneError, match=r"^tasks.mood.head_from: no weights for 'runs/nope'"):
        fl.train(taking(content, "runs/nope"), output=tmp_path / "run")
    save_classifier(tmp_path / "classifier", "bert")
    changed = taking(content, tmp_path / "classifier")
    changed["model"]["pooling"] = "mean"
    with pytest.raises(
        ConfigError, match="reads the transformer's cls pooling, and this backbone's embedding is"
    ):
        fl.train(changed, output=tmp_path / "run")


def test_a_head_of_a_bundle_brings_its_decimal_mark():
    given = Task(name="x", column="x", kind="regression", decimal=",")
    assert take_over("x", TaskSettings(head_from="f"), given).decimal == ","
    assert take_over("x", TaskSettings(head_from="f", kind="regression", decimal="."), given).decimal == "."


def test_a_frozen_task_needs_a_head_from_somewhere(tiny, toy):
    content = build_content(tiny, toy)
    content["tasks"]["mood"] = {"frozen": True}
    with pytest.raises(ConfigError, match="tasks.mood: frozen: a head that never learns has to come from"):
        fl.Config.build(content)
