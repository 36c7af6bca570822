"""Advice before training: on toy data whose answer is known."""

import json
import tomllib

import numpy as np
import pytest

import frostline as fl
from frostline.data.labels import Task
from frostline.errors import ConfigError
from frostline.plan.phase import Phase
from frostline.plan.recipes import recipes
from frostline.study.advise import PlanAdvice, _extrapolated, _predict, _sorted, advice_file
from frostline.study.layers import separability
from frostline.study.race import drawn, race_rows, race_steps


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


def test_a_race_takes_a_tenth_of_much_data_and_enough_of_little():
    assert [race_rows(n) for n in (100, 5_000, 15_000, 10**6)] == [100, 1000, 1500, 2000]
    assert race_steps(100, batch_size=64) >= 48 and race_steps(10**6, batch_size=64) == 96


def test_rows_are_drawn_the_same_for_a_seed(content):
    from frostline.prepare import prepare

    prepared = prepare(fl.Config.build(content))
    one, two = (drawn(prepared, train=50, validation=20) for _ in range(2))
    assert (one["train"].tokens.ids_T == two["train"].tokens.ids_T).all()
    assert len(one["train"]) == 50 and len(one["validation"]) == 20


def test_a_probe_that_still_grows_is_carried_on():
    assert _extrapolated({100: 0.6, 300: 0.65, 1000: 0.7}, 1000) == 0.7
    assert _extrapolated({100: 0.6, 300: 0.65, 1000: 0.7}, 10_000) == pytest.approx(0.75)
    assert _extrapolated({100: 0.7, 1000: 0.6}, 10_000) == 0.6


def test_a_gain_grows_with_the_steps_and_a_loss_does_not():
    phases = (Phase(solver="probe"), Phase(top_layers="all"))
    more, _ = _predict(phases, probe=0.7, ran=(0.7, 0.74), steps=500, raced=50)
    few, _ = _predict(phases, probe=0.7, ran=(0.7, 0.74), steps=50, raced=50)
    lost, _ = _predict(phases, probe=0.7, ran=(0.7, 0.66), steps=500, raced=50)
    assert few == pytest.approx(0.74) and more == pytest.approx(0.76) and lost == pytest.approx(0.66)


def test_the_cheaper_of_two_level_plans_comes_first():
    dear, cheap, bad = (
        PlanAdvice(n, s, t, "")
        for n, s, t in (
            (
                "d",
                0.802,
                9,
            ),
            ("c", 0.8, 1),
            ("b", 0.7, 0.1),
        )
    )
    assert [plan.recipe for plan in _sorted([bad, dear, cheap])] == ["c", "d", "b"]
