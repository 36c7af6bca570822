"""Advice before training: on toy data whose answer is known."""

import json
import tomllib

import numpy as np
import pytest

import frostline as fl
from frostline.data.labels import Task
from frostline.errors import ConfigError
from frostline.plan.recipes import recipes
from frostline.study import advise as advise_module
from frostline.study.advise import advice_file
from frostline.study.layers import separability
from frostline.study.race import drawn, race_phase, race_splits, repeated


@pytest.fixture(scope="module")
def advised(tiny, toy):
    from conftest import build_content

    config = fl.Config.build(build_content(tiny, toy))
    return config, fl.advise(config)


def test_every_layer_is_probed_for_every_task(advised):
    _, advice = advised
    assert advice.layers.keys() == {"topic", "mood"}
    assert list(advice.layers["topic"]) == ["embeddings", "layer 1", "layer 2", "layer 3", "embedding"]
    assert all(0 <= score <= 1 for scores in advice.layers.values() for score in scores.values())
    assert advice.layers["mood"]["embeddings"] > 0.9, "a bag of words tells these labels"


def test_recipes_are_ranked(advised):
    _, advice = advised
    assert {plan.recipe for plan in advice.plans} <= recipes().keys()
    assert advice.plans[0].recipe == "features", "nothing is left to gain on these sentences"
    assert all(plan.seconds > 0 and plan.reason for plan in advice.plans)
    assert advice.plans[0].score >= max(plan.score for plan in advice.plans) - 0.003


def test_growth_is_measured_on_shares_of_the_rows(advised):
    assert list(advised[1].growth) == [24, 72, 240]


def test_the_file_is_one_that_train_takes(advised):
    config, advice = advised
    text = advice_file(config, advice)
    assert text.startswith("# What `frostline advise` found")
    content = tomllib.loads(text)
    assert content["plan"]["recipe"] == advice.plans[0].recipe
    assert fl.Config.build(content).tasks.keys() == config.tasks.keys()
    assert all(f"# {i}. {plan.recipe}: " in text for i, plan in enumerate(advice.plans, 1))


def test_few_validation_rows_are_told(advised):
    config, advice = advised
    assert any("60 rows for validation decide this" in warning for warning in advice.warnings)
    assert "# Note: 60 rows for validation" in advice_file(config, advice)


def test_a_task_of_chance_is_told_and_promises_nothing(tiny, toy):
    from conftest import build_content, toy_rows

    content, draw = build_content(tiny, toy), np.random.default_rng(1)
    for name, number in {"train": 240, "validation": 120}.items():
        content["data"][name] = [row | {"luck": draw.normal()} for row in toy_rows(number, seed=number)]
    del content["data"]["test"]
    content["tasks"] = {"topic": {}, "luck": {"kind": "regression"}}
    advice = fl.advise(content)
    assert "no layer knows anything of 'luck': are its labels right?" in advice.warnings
    assert advice.plans[0].recipe == "features", "what chance leaves is nothing to gain"


def test_what_a_plan_would_warn_of_is_told(tiny, toy):
    from conftest import build_content

    content = build_content(tiny, toy)
    content["model"]["max_length"] = 4
    assert any("cut" in warning for warning in fl.advise(content).warnings)


def test_content_is_json(advised):
    assert json.loads(json.dumps(advised[1].content()))["plans"]


def test_frozen_heads_are_refused(content, trained):
    content["tasks"]["mood"] = {"head_from": str(trained), "frozen": True}
    with pytest.raises(ConfigError, match="heads that learn"):
        fl.advise(content)


def test_what_lies_further_apart_is_more_separable():
    task = Task(name="t", column="t", kind="classification", labels=("a", "b"))
    labels = np.repeat([0, 1], 50)
    noise = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    apart = noise + 5 * labels[:, None].astype(np.float32)
    near = separability(task, noise, labels)
    far = separability(task, apart, labels)
    assert near is not None and far is not None and 0 <= near < 0.05 < far <= 1
    assert separability(task.model_copy(update={"kind": "regression"}), noise, labels) is None


@pytest.mark.parametrize("batch_size", [8, 16, 64, 256])
def test_a_race_has_enough_steps_whatever_a_batch_is(content, batch_size):
    from frostline.prepare import prepare

    prepared = prepare(fl.Config.build(content).with_({"train": {"batch_size": batch_size}}))
    splits = race_splits(prepared)
    assert [len(splits[name]) for name in ("train", "validation")] == [240, 60]
    again = repeated(prepared, splits)
    num_rows = {8: 240, 16: 256, 64: 1024, 256: 240}[
        batch_size
    ]  # a batch that holds all rows holds none twice
    assert [len(again[name]) for name in ("train", "validation")] == [num_rows, 60]
    steps = race_phase(prepared, again).epochs * -(-num_rows // batch_size)
    assert 48 <= steps <= 90


def test_a_race_that_would_cost_too_much_is_not_run(tiny, toy, monkeypatch):
    from conftest import build_content

    monkeypatch.setattr(advise_module, "_RACE_SHARE", 0.0)
    monkeypatch.setattr(advise_module, "run_race", lambda *args, **more: pytest.fail("raced"))
    advice = fl.advise(build_content(tiny, toy))
    assert advice.race is None
    reasons = {plan.recipe: plan.reason for plan in advice.plans}
    assert reasons["full"].startswith("a guess")


def test_a_race_is_told_with_its_scores(tiny, toy, monkeypatch):
    from conftest import build_content

    monkeypatch.setattr(advise_module, "_RACE_SHARE", 100.0)
    race = fl.advise(build_content(tiny, toy)).race
    assert race is not None and race.steps >= 48 and race.num_held == 60
    assert 0 <= race.before <= 1 and 0 <= race.after <= 1


def test_rows_are_drawn_the_same_for_a_seed(content):
    from frostline.prepare import prepare

    prepared = prepare(fl.Config.build(content))
    one, two = (drawn(prepared, {"train": 50, "validation": 20}) for _ in range(2))
    assert (one["train"].tokens.ids_T == two["train"].tokens.ids_T).all()
    assert len(one["train"]) == 50 and len(one["validation"]) == 20
    short = drawn(prepared, {"train": 50}, mean_tokens=2)["train"]
    assert 80 < len(short.tokens.ids_T) <= 100, "long texts are fewer"


def test_plans_are_known_by_what_they_do(content):
    from frostline.dry_run import build_estimator
    from frostline.prepare import prepare
    from frostline.study.advise import _courses

    prepared = prepare(fl.Config.build(content))
    found = {course.recipe: course for course in _courses(prepared, build_estimator(prepared))}
    assert found["features"].deepest == found["heads"].deepest == 0
    assert found["features"].is_solved and not found["heads"].is_solved
    assert found["full"].deepest == found["gradual"].deepest == "all"
    assert found["gradual"].is_solved and not found["full"].is_solved
    assert [name for name, course in found.items() if course.is_gradual] == ["gradual"]
    assert found["full"].steps >= 128 and found["heads"].steps == 0
