"""Logits and labels of a run, as they are read back."""

import json

import pytest

import frostline as fl
from frostline.errors import RunError
from frostline.training.answers import ANSWERS, load_answers
from frostline.training.evaluate import score_task


def test_answers_of_a_run_give_its_scores(trained):
    model = fl.load(trained, precision="fp32")
    report = json.loads((trained / "report.json").read_text("utf-8"))["test"]["tasks"]
    logits, labels = load_answers(trained / ANSWERS, split="test")
    assert logits.keys() == labels.keys() == model.tasks.keys()
    for name, task in model.tasks.items():
        scores = score_task(task, logits[name], labels[name])
        assert scores[task.main_score] == report[name][task.main_score]


def test_a_split_that_was_not_there_has_no_answers(trained):
    assert load_answers(trained / ANSWERS, split="holiday") == ({}, {})


def test_a_damaged_file_is_refused(trained, tmp_path):
    path = tmp_path / ANSWERS
    path.write_bytes((trained / ANSWERS).read_bytes()[:-9])
    with pytest.raises(RunError, match="holds no answers"):
        load_answers(path, split="test")
