import pytest

from frostline.errors import ConfigError
from frostline.plan.checks import check_plan, plan_warnings
from frostline.plan.phase import Phase, PlanSettings
from frostline.plan.recipes import recipes, resolve_phases

TASKS = ("topic", "mood")


def test_frozen_depth_counts_stages_from_below():
    assert Phase(top_layers=0).depths(6)[0] == 7
    assert Phase(top_layers=2).depths(6)[0] == 5
    assert Phase(top_layers=6).depths(6)[0] == 1
    assert Phase(top_layers="all").depths(6)[0] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_layers": -1}, "a number of layers from 0"),
        ({"top_layers": 1, "solver": "probe"}, "needs the whole backbone frozen"),
        ({"head_lr": -1}, "greater than 0"),
        ({"backbone_lr": 0}, "greater than 0"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"layer_decay": 1.5}, "less than or equal to 1"),
        ({"epoch": 2}, "Extra inputs"),
    ],
)
def test_a_phase_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Phase(**settings)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (
            {"top_layers": 9},
            r"plan.phases\[0\].top_layers: 9 layers asked, but this backbone has 6. Write \"all\"",
        ),
        (
            {"frozen_heads": ["moood"]},
            r"frozen_heads: 'moood' is not a task \(topic, mood\). Did you mean 'mood'",
        ),
        ({"frozen_heads": TASKS}, "nothing trains: top_layers is 0 and every head is frozen"),
        ({"frozen_heads": TASKS, "top_layers": 1}, "every head is frozen, so no loss is left"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_key(phase, message):
    with pytest.raises(ConfigError, match=message):
        check_plan([Phase(**phase)], tasks=TASKS, num_layers=6, scored=TASKS)


def test_a_plan_without_phases_is_refused():
    with pytest.raises(ConfigError, match="plan: no phases"):
        check_plan([], tasks=TASKS, num_layers=6, scored=TASKS)


def test_a_frozen_head_over_a_learning_backbone_is_said():
    assert plan_warnings([Phase(frozen_heads=["mood"])]) == []
    assert "the mood head is frozen" in plan_warnings([Phase(frozen_heads=["mood"], top_layers=1)])[0]


def test_the_recipes_are_ordered_by_cost_and_fit_any_backbone():
    assert list(recipes()) == ["features", "heads", "top-layers", "one-head", "full"]
    for name, recipe in recipes().items():
        head = ("mood",) if recipe.needs_frozen_head else None
        phases = resolve_phases(PlanSettings(recipe=name, frozen_heads=head), tasks=TASKS)
        check_plan(phases, tasks=TASKS, num_layers=2, scored=TASKS)


def test_the_recipes_freeze_what_they_say():
    def lines(name, **changes):
        phases = resolve_phases(PlanSettings(recipe=name, **changes), tasks=TASKS)
        return [(p.solver, p.depths(6)[0], p.frozen_heads) for p in phases]

    assert lines("features") == [("probe", 7, ())]
    assert lines("heads") == [("adamw", 7, ())]
    assert lines("top-layers") == [("probe", 7, ()), ("adamw", 5, ())]
    assert lines("top-layers", top_layers=4)[-1] == ("adamw", 3, ())
    assert lines("one-head", frozen_heads=["topic"]) == [("probe", 7, ()), ("adamw", 0, ("topic",))]
    assert lines("full") == [("adamw", 0, ())]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "top-layer"}, r"'top-layer' is no recipe.*Did you mean 'top-layers'"),
        ({"recipe": "one-head"}, r"plan.frozen_heads: recipe 'one-head' needs the head to freeze.*\"topic\""),
        ({"recipe": "features", "epochs": 3}, "recipe 'features' solves its heads; it has no epochs"),
        ({"recipe": "heads", "top_layers": 2}, "recipe 'heads' keeps the backbone frozen"),
    ],
)
def test_a_recipe_that_cannot_be_changed_so_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve_phases(PlanSettings(**settings), tasks=TASKS)


def test_recipe_and_phases_together_are_refused():
    with pytest.raises(ValueError, match="recipe and phases are both given"):
        PlanSettings(recipe="heads", phases=[Phase()])
    with pytest.raises(ValueError, match="epochs: changes a recipe; write it in the phases"):
        PlanSettings(epochs=2, phases=[Phase()])
