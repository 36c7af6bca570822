"""Plans that thaw: when the line moves, what wakes, what goes back to its best, and that a stop changes nothing."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

import frostline as fl
from conftest import events, weights


@pytest.fixture
def thawing(content):
    """Heads solved, then a phase whose rate is too small to improve: every evaluation but the first is flat."""
    phase = {
        "name": "thaw", "top_layers": 1, "backbone_lr": 1e-9, "head_lr": 1e-9, "epochs": 6,
        "evaluations_per_epoch": 2, "until": {"patience": 1, "min_delta": 0.002}, "thaw": {},
    }  # fmt: skip
    content["plan"] = {"phases": [{"name": "heads", "solver": "probe"}, phase]}
    return content


def test_the_line_moves_down_a_layer_at_each_plateau_and_the_phase_ends_when_it_has_arrived(
    thawing, tmp_path
):
    run = fl.train(thawing, output=tmp_path / "run")
    said = [
        (e["event"], e["step"], e["frozen_depth"])
        for e in events(run.folder)
        if e["event"] in {"phase", "thaw"}
    ]
    assert said == [("phase", 0, 4), ("phase", 0, 3), ("thaw", 8, 2), ("thaw", 12, 1), ("thaw", 16, 0)]
    phase = run.report["phases"][1]
    assert phase["frozen_depths"] == [3, 2, 1, 0]
    assert phase["steps"] == 20  # of 48: flat again with everything awake


def test_the_line_may_move_sooner_than_the_phase_ends(thawing, tmp_path):
    thawing["plan"]["phases"][1] |= {"until": {"patience": 3}, "thaw": {"patience": 1}}
    run = fl.train(thawing, output=tmp_path / "run")
    moves = [event["step"] for event in events(run.folder) if event["event"] == "thaw"]
    assert moves == [8, 12, 16]
    assert run.report["phases"][1]["steps"] == 28  # three more flat evaluations with everything awake


def test_the_line_may_move_at_every_evaluation(thawing, tmp_path):
    thawing["plan"]["phases"][1] |= {"until": {"patience": 3}, "thaw": {"patience": 0}}
    run = fl.train(thawing, output=tmp_path / "run")
    assert [event["step"] for event in events(run.folder) if event["event"] == "thaw"] == [4, 8, 12]
    assert run.report["phases"][1]["steps"] == 24  # `until` alone says when the phase ends


def test_a_phase_without_a_thaw_ends_at_its_plateau(thawing, tmp_path):
    del thawing["plan"]["phases"][1]["thaw"]
    run = fl.train(thawing, output=tmp_path / "run")
    assert run.report["phases"][1]["steps"] == 8
    assert run.report["phases"][1]["frozen_depths"] == [3]
    assert [event["step"] for event in events(run.folder) if event["event"] == "plateau"] == [8]


def test_the_epochs_bound_a_phase_that_never_gets_flat(thawing, tmp_path):
    thawing["plan"]["phases"][1] |= {"until": {"patience": 99}, "epochs": 2}
    run = fl.train(thawing, output=tmp_path / "run")
    assert run.report["phases"][1]["steps"] == 16
    assert not [event for event in events(run.folder) if event["event"] == "plateau"]


def test_only_what_woke_has_moved(thawing, tiny, tmp_path):
    thawing["plan"]["phases"][1] |= {"backbone_lr": 1e-2, "head_lr": 1e-2, "thaw": {"to": 2}}
    thawing["plan"]["phases"][1]["until"] = {"patience": 1, "min_delta": 1.0}
    thawing["train"]["select"] = "last"
    run = fl.train(thawing, output=tmp_path / "run")
    assert run.report["phases"][1]["frozen_depths"] == [3, 2]
    before, after = (
        load_file(tiny / "model.safetensors"),
        load_file(run.folder / "model" / "model.safetensors"),
    )
    moved = {name.split(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"1", "2"}


def test_the_best_weights_come_back_before_the_line_moves_and_at_the_end(thawing, tiny, tmp_path):
    thawing["plan"]["phases"][1] |= {"backbone_lr": 1.0, "head_lr": 10.0}  # destroys what the heads knew
    run = fl.train(thawing, output=tmp_path / "run")
    scores = [e["score"] for e in events(run.folder) if e["event"] == "evaluation" and e["phase"] == "thaw"]
    phase = run.report["phases"][1]
    assert len(phase["frozen_depths"]) == 4
    assert phase["validation"]["score"] == max(scores)
    loaded = fl.load(run.folder, precision="fp32")
    from pathlib import Path

    from frostline.inference.predict import evaluate_file

    again = evaluate_file(loaded, Path(thawing["data"]["validation"]))
    assert again["score"] == pytest.approx(max(scores), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 5, 8, 9, 13, 17, 19])
def test_a_stop_anywhere_in_a_thawing_phase_changes_nothing(thawing, tmp_path, steps):
    thawing["plan"]["phases"][1] |= {"backbone_lr": 1e-2, "head_lr": 1e-2}
    thawing["plan"]["phases"][1]["until"] = {"patience": 1, "min_delta": 0.5}
    unbroken = fl.train(thawing, output=tmp_path / "unbroken")
    left = [steps]

    def stop(event):
        if event["event"] == "progress":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(fl.Interrupted):
        fl.train(thawing, output=tmp_path / "broken", show=stop)
    resumed = fl.resume(tmp_path / "broken")
    first, second = weights(unbroken.folder), weights(resumed.folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert events(unbroken.folder) == events(resumed.folder)
    assert resumed.report["phases"][1]["frozen_depths"] == unbroken.report["phases"][1]["frozen_depths"]


def test_the_picture_and_the_plan_have_a_column_for_each_depth(thawing, tmp_path):
    from frostline.config import Config
    from frostline.dry_run import dry_run

    found = dry_run(Config.build(thawing), picture=tmp_path / "p.png")
    assert found.table.columns == ("heads", "thaw: top 1", "thaw: top 2", "thaw: top 3", "thaw: all")
    assert [found.table.num_trained(i) for i in range(5)] == sorted(
        found.table.num_trained(i) for i in range(5)
    )


def test_a_monitor_chooses_the_best_weights(thawing, tmp_path):
    phase = thawing["plan"]["phases"][1]
    phase |= {"backbone_lr": 1e-2, "head_lr": 1e-1, "until": {"patience": 99, "monitor": "mood"}}
    run = fl.train(thawing, output=tmp_path / "run")
    moods = [
        e["main"]["mood"] for e in events(run.folder) if e["event"] == "evaluation" and e["phase"] == "thaw"
    ]
    assert run.report["phases"][1]["validation"]["tasks"]["mood"]["macro_f1"] == max(moods)


def test_the_temperature_of_a_phase_reaches_the_heads_that_descend_afterwards(thawing, tmp_path):
    def trained(temperature):
        """The rates are too small to move a weight."""
        thawing["plan"]["phases"][0]["temperature"] = temperature
        thawing["plan"]["phases"][1] = {"name": "one", "head_lr": 1e-12, "frozen_heads": ["mood"]}
        return weights(fl.train(thawing, output=tmp_path / f"at {temperature}").folder)

    sure, unsure = trained(1.0), trained(10.0)
    factors = {"heads/topic": 10.0, "heads/mood": 1.0}  # what nothing teaches any more stays as it was solved
    for place, factor in factors.items():
        names = [name for name in sure if place in name]
        assert names
        for name in names:
            torch.testing.assert_close(unsure[name] * factor, sure[name], atol=1e-6, rtol=1e-4)
