"""A loaded bundle answers what was trained, in the words of the data."""

import json
import os
from contextlib import contextmanager

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import frostline as fl
from frostline.errors import DataError

TEXTS = ["the goal was great", "soup", "a very sad bank and one awful price of it all", "of the sad bread"]


@pytest.fixture(scope="module")
def model(trained):
    return fl.load(trained, precision="fp32")


def test_predictions_are_the_labels_own_names_and_numbers_in_their_unit(model):
    answers = model.predict(["the goal was great", "an awful bank"])
    assert answers["topic"] == ["sport", "money"]
    assert answers["mood"] == ["good", "bad"]
    assert [set(tags) for tags in answers["tags"]] == [{"sport", "good"}, {"money", "bad"}]
    assert answers["stars"][0] > 0.4
    assert answers["stars"][1] < -0.4


def test_probabilities_have_a_column_for_each_label(model):
    values = model.predict_proba(TEXTS)
    assert {name: value.shape for name, value in values.items()} == {
        "topic": (4, 3),
        "mood": (4, 2),
        "stars": (4,),
        "tags": (4, 5),
    }
    kinds = {name: value.dtype for name, value in values.items()}
    assert kinds == {"topic": "f4", "mood": "f4", "stars": "f8", "tags": "f4"}
    np.testing.assert_allclose(values["topic"].sum(axis=1), 1, atol=1e-6)
    chosen = [model.tasks["topic"].labels[i] for i in values["topic"].argmax(axis=1)]
    assert chosen == model.predict(TEXTS)["topic"]


def test_embeddings_are_those_of_sentence_transformers(model, trained):
    theirs = SentenceTransformer(str(trained / "model")).encode(TEXTS)
    ours = model.encode(TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS[0]), theirs[0], atol=1e-5)


def test_stored_embeddings_give_the_same_answers_without_the_backbone(model):
    values, stored = model.predict_proba(TEXTS), model.classify(model.encode(TEXTS))
    assert all(np.array_equal(values[name], stored[name]) for name in values)


def test_no_texts_give_no_answers(model):
    assert model.predict([]) == {"topic": [], "mood": [], "stars": [], "tags": []}
    assert model.encode([]).shape == (0, 32)
    assert model.predict_proba([])["topic"].shape == (0, 3)


def test_an_empty_text_and_one_with_a_lone_surrogate_are_answered(model):
    assert len(model.predict(["", "  ", "soup \ud800 great"])["topic"]) == 3


def test_what_is_no_text_is_refused_by_its_index(model):
    with pytest.raises(fl.FrostlineError, match=r"texts\[1\]: a text is needed, NoneType arrived"):
        model.predict(["soup", None])
    with pytest.raises(fl.FrostlineError, match=r"a list of texts is needed, str arrived"):
        model.predict("soup")
    for wrong in (None, 5):
        with pytest.raises(fl.FrostlineError, match=r"a list of texts is needed"):
            model.encode(wrong)


@pytest.mark.parametrize("wrong", [None, [1, 2], "x", np.zeros(32), np.zeros((2, 5))])
def test_what_is_no_matrix_of_embeddings_is_refused(model, wrong):
    with pytest.raises(fl.FrostlineError, match=r"embeddings: a matrix \(N, 32\) is needed"):
        model.classify(wrong)


def test_bf16_answers_alike(model, trained):
    quick = fl.load(trained, precision="bf16")
    assert quick.precision.format == "bf16"
    assert quick.predict(TEXTS)["mood"] == model.predict(TEXTS)["mood"]
    assert np.abs(quick.encode(TEXTS) - model.encode(TEXTS)).max() < 0.1


def test_the_test_scores_of_the_report_are_those_of_the_loaded_model(trained):
    from frostline.inference.predict import evaluate_file

    report = json.loads((trained / "report.json").read_text())
    found = evaluate_file(fl.load(trained, precision="fp32"), trained.parent / "test.jsonl")
    assert found == report["test"]


def test_memory_of_a_batch_is_kept_for_the_next_where_there_are_many(trained, monkeypatch):
    model, kept = fl.load(trained, device="cpu"), []

    @contextmanager
    def keeping():
        kept.append("during")
        yield
        kept.append("after")

    monkeypatch.setattr("frostline.inference.model.keeping_freed_memory", keeping)
    model.encode(TEXTS)
    assert not kept
    model.encode([f"{text} {i}" for i in range(1000) for text in TEXTS])
    assert kept == ["during", "after"]


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core")
def test_the_order_of_texts_does_not_change_an_answer(model):
    texts = TEXTS * 200
    np.testing.assert_allclose(model.encode(texts)[: len(TEXTS)], model.encode(TEXTS), atol=1e-5)


def test_an_unknown_number_format_is_refused(trained):
    with pytest.raises(fl.FrostlineError, match="precision: 'fp16' is none of auto, bf16, fp32"):
        fl.load(trained, precision="fp16")


def test_an_unknown_device_is_refused(trained):
    with pytest.raises(fl.FrostlineError, match="device: 'tpu7' cannot be used here"):
        fl.load(trained, device="tpu7")


def test_texts_may_come_from_a_generator_and_not_as_keys(trained):
    model = fl.load(trained)
    assert model.predict(text for text in ["goal", "soup"]) == model.predict(["goal", "soup"])
    with pytest.raises(DataError, match="a list of texts is needed, dict arrived"):
        model.predict({"goal": 1})
