import pytest

from frostline.errors import ConfigError
from frostline.plan.alone import phases_alone
from frostline.plan.checks import check_plan, plan_warnings
from frostline.plan.phase import Band, Phase, PlanSettings
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
        ({"thaw": {}}, "thaw moves the line at a plateau; say with until"),
        ({"thaw": {}, "until": {}, "top_layers": "all"}, "nothing is left to wake"),
        ({"thaw": {"to": 2}, "until": {}, "top_layers": 2}, "2 layers are no more than the 2 of the start"),
        ({"thaw": {"layers": 0}, "until": {}}, "greater than or equal to 1"),
        ({"until": {"patience": 0}}, "greater than or equal to 1"),
        ({"solver": "probe", "until": {}}, 'solver = "probe" does not descend, so it has no until'),
        ({"solver": "probe", "epochs": 3}, 'solver = "probe" does not descend, so it has no epochs'),
        ({"temperature": 10}, 'solver = "adamw" solves no head, so it has no temperature'),
        ({"solver": "probe", "temperature": 0.5}, "greater than or equal to 1"),
        ({"backbone_lr": 1e-4}, "no layer learns here, so there is no backbone_lr"),
        ({"top_layers": 1, "layer_lrs": [{"layers": "0-3", "lr": 1}]}, "a range such as '0:8'"),
        (
            {"top_layers": 1, "layer_decay": 0.9, "layer_lrs": [{"layers": ":", "lr": 1}]},
            "there is no layer_decay",
        ),
        ({"head_lrs": {"mood": 0}}, "head_lrs: a rate must be above 0"),
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
        ({"frozen_heads": ["mood"]}, "plan: the head of 'mood' learns in no phase"),
        ({"head_lrs": {"mod": 1e-3}}, r"head_lrs: 'mod' is not a task.*Did you mean 'mood'"),
        ({"until": {"monitor": "men"}}, r"until.monitor: 'men' is not a task.*Did you mean 'mean'"),
        ({"until": {"monitor": {"mood": 1, "tpic": 1}}}, r"until.monitor: 'tpic' is not a task"),
        ({"until": {}, "thaw": {"to": 9}}, r"thaw.to: 9 layers asked, but this backbone has 6"),
        ({"top_layers": 6, "layer_lrs": [{"layers": "0:9", "lr": 1}]}, "'0:9' reaches beyond the last layer"),
        ({"top_layers": 6, "layer_lrs": [{"layers": "3:3", "lr": 1}]}, "'3:3' holds no layer"),
        ({"top_layers": 6, "layer_lrs": [{"layers": "2:6", "lr": 1}]}, "no band for layers that learn: 0, 1"),
        (
            {"top_layers": 2, "layer_lrs": [{"layers": "0:5", "lr": 1}, {"layers": "4:", "lr": 1}]},
            "layer 4 is in '0:5' and in '4:'",
        ),
        ({"top_layers": 1, "protect": "distill"}, r"phases\[0\].protect: no head is frozen in this phase"),
        ({"top_layers": 1, "guard": {}}, r"phases\[0\].guard: no head is frozen in this phase"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_key(phase, message):
    with pytest.raises(ConfigError, match=message):
        check_plan([Phase(**phase)], tasks=TASKS, num_layers=6, labelled=TASKS, scored=TASKS)


def test_a_plan_without_phases_is_refused():
    with pytest.raises(ConfigError, match="plan: no phases"):
        check_plan([], tasks=TASKS, num_layers=6, labelled=TASKS, scored=TASKS)


def test_a_frozen_head_over_a_learning_backbone_is_said():
    assert plan_warnings([Phase(frozen_heads=["mood"])]) == []
    assert "the mood head is frozen" in plan_warnings([Phase(frozen_heads=["mood"], top_layers=1)])[0]
    forked = Phase(frozen_heads=["mood"], top_layers=1, protect="fork")
    assert plan_warnings([forked, Phase(frozen_heads=["mood"], top_layers=1)]) == []
    for protect in ("distill", "fork"):
        assert plan_warnings([Phase(frozen_heads=["mood"], top_layers=1, protect=protect)]) == []


def test_the_recipes_are_ordered_by_cost_and_fit_any_backbone():
    assert list(recipes()) == [
        "features", "heads", "top-layers", "one-head", "full", "gradual", "large", "uniform", "bands",
    ]  # fmt: skip
    for name, recipe in recipes().items():
        head = ("mood",) if recipe.needs_frozen_head else None
        phases = resolve_phases(PlanSettings(recipe=name, frozen_heads=head), tasks=TASKS)
        for num_layers in (12,) if name == "bands" else (2, 6, 12, 24):
            check_plan(phases, tasks=TASKS, num_layers=num_layers, labelled=TASKS, scored=TASKS)


def test_the_recipes_freeze_what_they_say():
    def lines(name, **changes):
        phases = resolve_phases(PlanSettings(recipe=name, **changes), tasks=TASKS)
        return [(p.solver, p.depths(6)[0], p.frozen_heads) for p in phases]

    assert lines("features") == [("probe", 7, ())]
    assert lines("heads") == [("adamw", 7, ())]
    assert lines("top-layers") == [("probe", 7, ()), ("adamw", 5, ())]
    assert lines("top-layers", top_layers=4)[1] == ("adamw", 3, ())
    assert lines("one-head", frozen_heads=["topic"]) == [("probe", 7, ()), ("adamw", 0, ("topic",))]
    assert lines("full") == [("adamw", 0, ())]
    assert lines("gradual") == [("probe", 7, ()), ("adamw", 5, ()), ("probe", 7, ())]


def test_heads_that_a_recipe_solves_again_stay_frozen_where_it_froze_them():
    settings = PlanSettings(recipe="gradual", frozen_heads=("mood",), epochs=2)
    first, thaw, again = resolve_phases(settings, tasks=TASKS)
    assert (first.frozen_heads, thaw.frozen_heads, again.frozen_heads) == ((), ("mood",), ("mood",))
    assert (thaw.epochs, thaw.min_steps) == (2, None)


@pytest.mark.parametrize(("name", "factor"), [("top-layers", 3), ("gradual", 10), ("large", 10)])
def test_heads_of_a_recipe_start_unsure_of_themselves_unless_one_is_frozen(name, factor):
    def temperature(frozen=(), **changes):
        return resolve_phases(PlanSettings(recipe=name, **changes), tasks=TASKS, frozen=frozen)[0].temperature

    assert temperature() == factor
    assert temperature(frozen_heads=("mood",)) == temperature(frozen=("mood",)) == 1
    assert temperature(frozen_heads=("mood",), protect="distill") == 1
    assert temperature(frozen_heads=("mood",), protect="fork") == factor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "top-layer"}, r"'top-layer' is no recipe.*Did you mean 'top-layers'"),
        ({"recipe": "one-head"}, r"plan.frozen_heads: recipe 'one-head' needs the head to freeze.*\"topic\""),
        ({"recipe": "features", "epochs": 3}, "recipe 'features' solves its heads; it has no epochs"),
        ({"recipe": "heads", "protect": "fork"}, "recipe 'heads' keeps the backbone frozen"),
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


def test_a_head_frozen_in_one_phase_may_learn_in_another():
    check_plan(
        [Phase(), Phase(frozen_heads=["mood"])], tasks=TASKS, num_layers=6, labelled=TASKS, scored=TASKS
    )


def test_a_head_with_stages_of_its_own_cannot_learn_later():
    forked = Phase(top_layers=1, frozen_heads=["mood"], protect="fork")
    with pytest.raises(ConfigError, match="gives the head of 'mood' stages of its own for good"):
        check_plan([Phase(), forked, Phase()], tasks=TASKS, num_layers=6, labelled=TASKS, scored=TASKS)
    check_plan([Phase(), forked, forked], tasks=TASKS, num_layers=6, labelled=TASKS, scored=TASKS)


def test_a_head_that_learns_needs_labels_unless_it_is_frozen_and_comes_from_elsewhere():
    frozen = Phase(frozen_heads=["mood"])
    with pytest.raises(ConfigError, match="the head of 'mood' learns, but no training row has a label"):
        check_plan([Phase()], tasks=TASKS, num_layers=6, labelled=("topic",), scored=TASKS, taken=("mood",))
    check_plan([frozen], tasks=TASKS, num_layers=6, labelled=("topic",), scored=TASKS, taken=("mood",))


def test_a_plan_for_one_task_leaves_the_others_out():
    heads = Phase(name="heads", head_lrs={"mood": 1e-2, "topic": 1e-3})
    shared = Phase(
        name="shared", top_layers=1, frozen_heads=["mood"], protect="distill", distill_weight=2, guard={},
        until={"monitor": {"topic": 1, "mood": 2}},
    )  # fmt: skip
    alone = phases_alone([heads, shared], "topic")
    assert alone[0].head_lrs == {"topic": 1e-3}
    assert alone[1] == Phase(name="shared", top_layers=1, until={})
    assert [phase.name for phase in phases_alone([heads, shared], "mood")] == ["heads"]


def test_a_watched_task_needs_validation_labels():
    phase = Phase(until={"monitor": "mood"})
    with pytest.raises(ConfigError, match="no validation row has a label of 'mood' to watch"):
        check_plan([phase], tasks=TASKS, num_layers=6, labelled=TASKS, scored=("topic",))


@pytest.mark.parametrize(
    ("start", "thaw", "depths"),
    [
        (0, {}, (7, 6, 5, 4, 3, 2, 1, 0)),
        (2, {}, (5, 4, 3, 2, 1, 0)),
        (2, {"to": 4}, (5, 4, 3)),
        (2, {"layers": 2}, (5, 3, 1, 0)),
        (1, {"layers": 2, "to": 4}, (6, 4, 3)),
        (5, {"layers": 9}, (2, 1, 0)),
        (6, {}, (1, 0)),
    ],
)
def test_the_line_moves_from_the_top_downward_and_wakes_the_embeddings_last(start, thaw, depths):
    assert Phase(top_layers=start, until={}, thaw=thaw).depths(6) == depths


def test_bands_are_counted_in_layers_or_in_shares_of_the_depth():
    def members(layers):
        return list(Band(layers=layers, lr=1).members(6))

    assert members("0:2") == [0, 1]
    assert members("4:") == [4, 5]
    assert members(":") == [0, 1, 2, 3, 4, 5]
    assert members("50%:") == [3, 4, 5]
    assert members("0%:67%") == [0, 1, 2, 3]


def test_few_rows_are_given_epochs_until_there_are_enough_steps():
    phase = Phase(epochs=3, min_steps=128)
    assert [phase.with_epochs_for(steps).epochs for steps in (1, 4, 16, 43, 500)] == [100, 32, 8, 3, 3]
    assert phase.with_epochs_for(16).min_steps is None
    often = Phase(epochs=3, min_steps=128, evaluations_per_epoch=4)
    evaluations = [often.with_epochs_for(steps).evaluations_per_epoch for steps in (1, 16, 43)]
    assert evaluations == [1, 2, 4], "about twelve in all, and one an epoch at least"
    assert Phase(epochs=3).with_epochs_for(1).epochs == 3
    assert Phase(evaluations_per_epoch=8).with_epochs_for(6).evaluations_per_epoch == 6


def test_a_phase_that_solves_has_no_steps_to_ask_for():
    with pytest.raises(ValueError, match="min_steps"):
        Phase(solver="probe", min_steps=5)


def test_a_number_of_epochs_that_is_asked_for_is_taken():
    asked = PlanSettings(recipe="full", epochs=1)
    phases = resolve_phases(asked, tasks=["a", "b"])
    assert phases[-1].epochs == 1 and phases[-1].min_steps is None
    assert resolve_phases(PlanSettings(recipe="full"), tasks=["a", "b"])[-1].min_steps == 128


@pytest.mark.parametrize("later", [[], [Phase(solver="probe")]])
def test_a_temperature_that_no_descent_would_read_is_refused(later):
    phases = [Phase(solver="probe", temperature=3.0), *later]
    about = {"tasks": TASKS, "num_layers": 6, "labelled": TASKS, "scored": TASKS}
    with pytest.raises(ConfigError, match=r"plan.phases\[0\].temperature: no head descends in a later phase"):
        check_plan(phases, **about)
    check_plan([*phases, Phase(epochs=1)], **about)


def test_one_frozen_head_and_several_are_warned_of():
    one, several = (
        plan_warnings([Phase(top_layers=2, frozen_heads=names)])[0]
        for names in (("mood",), ("mood", "topic"))
    )
    assert "the mood head is frozen, but layers under it learn: its results" in one
    assert "the mood, topic heads are frozen, but layers under them learn: their results" in several
