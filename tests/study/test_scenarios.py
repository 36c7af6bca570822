"""Which plans a study compares."""

import pytest

from frostline.errors import ConfigError
from frostline.plan.phase import Phase, PlanSettings
from frostline.study.scenarios import Scenario, build_scenarios

OWN = PlanSettings(phases=(Phase(name="mine"),))
TASKS = ("topic", "mood")


def names(asked, tasks=TASKS):
    return [scenario.name for scenario in build_scenarios(asked, own=OWN, tasks=tasks)]


def test_without_names_every_plan_and_each_head_frozen():
    wanted = ["features", "heads", "one-head:topic", "one-head:mood", "top-layers", "gradual", "full"]
    assert names(None) == wanted


def test_a_single_task_has_no_head_to_freeze():
    assert names(None, ("topic",)) == ["features", "heads", "top-layers", "gradual", "full"]
    with pytest.raises(ConfigError, match="one task"):
        names(["one-head"], ("topic",))


def test_own_is_the_plan_of_the_config():
    assert build_scenarios(["own"], own=OWN, tasks=TASKS)[0].plan == OWN


def test_one_head_names_the_head():
    found = build_scenarios(["one-head:mood"], own=OWN, tasks=TASKS)[0]
    assert found.plan.frozen_heads == ("mood",) and found.folder == "one-head-mood"
    with pytest.raises(ConfigError, match=r"one-head:modo: is no task\. Did you mean 'mood'"):
        names(["one-head:modo"])


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'features'"):
        names(["featurs"])


def test_a_name_twice_is_refused(tmp_path):
    (tmp_path / "full.toml").write_text('recipe = "full"')
    with pytest.raises(ConfigError, match="named twice"):
        names(["full", str(tmp_path / "full.toml")])


@pytest.mark.parametrize(
    "text",
    ['recipe = "full"', '[plan]\nrecipe = "full"', "[[phases]]\nepochs = 2", "[[plan.phases]]\nepochs = 2"],
)
def test_a_file_holds_a_plan(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    found = build_scenarios([str(path)], own=OWN, tasks=TASKS)[0]
    assert found.name == "mine" and (found.plan.recipe == "full" or found.plan.phases[0].epochs == 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\n", "holds no plan"),
        ("recipe = ", "not valid TOML"),
        ("[plan]\nrecipee = 1", "plan.recipee: unknown key. Did you mean 'recipe'"),
        ("[plan]\n", "holds no plan"),
        ("[[phases]]\nepoch = 2", "plan.phases.*epoch: unknown key. Did you mean 'epochs'"),
    ],
)
def test_a_file_without_a_plan_is_refused(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        names([str(path)])


def test_every_key_of_a_file_counts(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('recipe = "full"\nepochs = 8\n')
    assert build_scenarios([str(path)], own=OWN, tasks=TASKS)[0].plan.epochs == 8


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        names([str(tmp_path / "none.toml")])


def test_what_is_solved_alone_has_no_chance_in_it():
    solved, descends = Phase(solver="probe"), Phase(epochs=1)
    assert Scenario("a", OWN, (solved,)).is_solved
    assert not Scenario("a", OWN, (solved, descends)).is_solved
