"""Which scenario is taken, from made-up scores."""

import numpy as np

from frostline.study.recommend import recommend
from frostline.study.significance import Draws


def entry(name, validation, seconds, *, identical=False, seeds=1, evaluations=3):
    drift = {"is_identical": identical, "verdict": "Embed your corpus again."}
    cost = {"seconds": seconds, "seconds_estimated": seconds}
    curves = [{"steps": list(range(evaluations))}] * seeds
    return {
        "name": name,
        "validation": validation,
        **cost,
        "seeds": [0] * seeds,
        "drift": drift,
        "curves": curves,
    }


def draws(noise=0.01, **scores):
    generator = np.random.default_rng(0)
    return {
        name: Draws({"task": score + noise * generator.normal(size=1000)}) for name, score in scores.items()
    }


def test_the_best_is_taken_when_nothing_cheaper_is_as_good():
    found = recommend([entry("a", 0.8, 1), entry("b", 0.9, 10)], draws(a=0.8, b=0.9), num_rows=100)
    assert found["scenario"] == found["best"] == "b" and "nothing cheaper" in found["reason"]


def test_a_cheaper_one_within_the_noise_is_taken():
    found = recommend([entry("a", 0.895, 1), entry("b", 0.9, 10)], draws(a=0.895, b=0.9), num_rows=100)
    assert found["scenario"] == "a" and found["best"] == "b"
    assert "-0.005" in found["reason"] and "10.0 times" in found["reason"]


def test_the_run_that_paid_for_the_embeddings_of_all_is_not_called_dear():
    first = entry("a", 0.9, 76) | {"seconds_estimated": 10}
    second = entry("b", 0.9, 20) | {"seconds_estimated": 12}
    assert recommend([first, second], draws(a=0.9, b=0.9), num_rows=100)["scenario"] == "a"


def test_a_small_loss_that_is_sure_is_a_loss():
    sure = draws(noise=1e-4, a=0.895, b=0.9)
    assert recommend([entry("a", 0.895, 1), entry("b", 0.9, 10)], sure, num_rows=100)["scenario"] == "b"


def test_much_noise_does_not_make_bad_plans_good():
    noisy = draws(noise=0.2, a=0.8, b=0.9)
    assert recommend([entry("a", 0.8, 1), entry("b", 0.9, 10)], noisy, num_rows=20)["scenario"] == "b"


def test_what_embedding_again_would_save_is_said():
    plans = [entry("a", 0.8, 1, identical=True), entry("b", 0.9, 10)]
    found = recommend(plans, draws(a=0.8, b=0.9), num_rows=100)
    assert "Embed your corpus again" in found["keeping_embeddings"]
    assert "a leaves every embedding as it was" in found["keeping_embeddings"]
    assert "-0.100" in found["keeping_embeddings"]


def test_one_seed_is_called_one():
    one = recommend([entry("a", 0.8, 1), entry("b", 0.9, 2)], draws(a=0.8, b=0.9), num_rows=100)
    many = recommend(
        [entry("a", 0.8, 1, seeds=3), entry("b", 0.9, 2, seeds=3)], draws(a=0.8, b=0.9), num_rows=100
    )
    assert "1 seed;" in one["uncertainty"] and "give more --seeds" in one["uncertainty"]
    assert "3 seeds." in many["uncertainty"]
    solved = recommend([entry("a", 0.9, 1), entry("b", 0.8, 2, seeds=3)], draws(a=0.9, b=0.8), num_rows=100)
    assert "3 seeds." in solved["uncertainty"]


def test_a_best_of_far_more_evaluations_is_said_to_be_partly_chance():
    scores = draws(a=0.8, b=0.9)
    often = [entry("a", 0.8, 1), entry("b", 0.9, 10, evaluations=33)]
    said = recommend(often, scores, num_rows=100)["uncertainty"]
    assert "b kept the best of 33 evaluations there, a of 3: " in said
    assert "evaluations" not in recommend(often, scores, num_rows=100, keeps_best=False)["uncertainty"]
    alike = [entry("a", 0.8, 1, evaluations=7), entry("b", 0.9, 10, evaluations=33)]
    assert "evaluations" not in recommend(alike, scores, num_rows=100)["uncertainty"]


def test_a_study_of_one_has_nothing_to_compare():
    assert "Nothing was compared" in recommend([entry("a", 0.8, 1)], draws(a=0.8), num_rows=9)["uncertainty"]
