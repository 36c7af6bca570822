"""Each task by itself: the same rows and plan, one head, compared on the same texts; survives a stop."""

import json

import pytest

import frostline as fl
from conftest import stop_after, weights
from frostline.errors import ConfigError
from test_cli import cli, file  # noqa: F401  fixtures
from training.test_loop import same


@pytest.fixture
def alone(content):
    content["train"]["each_task_alone"] = True
    content["plan"]["phases"] = [
        {"name": "heads", "epochs": 6, "head_lr": 1e-1},
        {"name": "top", "top_layers": 1, "epochs": 1, "frozen_heads": ["mood"]},
    ]
    return content


def test_each_task_is_trained_by_itself_and_compared(alone, tmp_path):
    run = fl.train(alone, output=tmp_path / "run")
    assert set(run.report["alone"]) == {"topic", "mood"}
    for name, found in run.report["alone"].items():
        single = json.loads((run.folder / "alone" / name / "report.json").read_text())
        assert found["alone"] == single["test"]["tasks"][name]["macro_f1"]
        assert found["together"] == run.report["test"]["tasks"][name]["macro_f1"]
        assert found["interval"][0] <= found["change"] <= found["interval"][1]
        assert set(single["test"]["tasks"]) == {name}
    steps = {
        name: [
            p["name"] for p in json.loads((run.folder / "alone" / name / "report.json").read_text())["phases"]
        ]
        for name in ("topic", "mood")
    }
    assert steps == {"topic": ["heads", "top"], "mood": ["heads"]}


def test_a_held_out_split_is_the_same_for_each(alone, tmp_path):
    del alone["data"]["validation"]
    run = fl.train(alone, output=tmp_path / "run")
    for name in ("topic", "mood"):
        single = json.loads((run.folder / "alone" / name / "report.json").read_text())
        assert single["rows"] == run.report["rows"]


def test_a_run_stopped_in_a_task_by_itself_goes_on(alone, tmp_path):
    unbroken = fl.train(alone, output=tmp_path / "unbroken")
    joint = 8 * 6 + 8
    with pytest.raises(fl.Interrupted):
        fl.train(alone, output=tmp_path / "broken", show=stop_after(joint + 20))
    assert not (tmp_path / "broken" / "report.json").exists()
    resumed = fl.resume(tmp_path / "broken")
    assert resumed.report["alone"] == unbroken.report["alone"]
    for name in ("topic", "mood"):
        assert same(*(weights(run.folder / "alone" / name) for run in (unbroken, resumed)))


def test_one_task_is_alone_already(alone, tmp_path):
    del alone["tasks"]["mood"], alone["plan"]["phases"][1]
    with pytest.raises(ConfigError, match="each_task_alone: there is one task"):
        fl.train(alone, output=tmp_path / "run")


def test_a_profile_says_where_the_time_went(cli, file, tmp_path):  # noqa: F811
    code, out, _ = cli("train", file, "-o", tmp_path / "run", "--profile")
    assert code == 0
    assert " optimizer " in out
    profile = json.loads((tmp_path / "run" / "report.json").read_text())["profile"]
    assert {"frozen stages", "learning stages", "heads", "backward", "optimizer", "evaluation"} <= set(
        profile
    )
    assert 0 < sum(profile.values()) < json.loads((tmp_path / "run" / "report.json").read_text())["seconds"]


def test_the_flag_prints_the_comparison(cli, file, tmp_path):  # noqa: F811
    code, out, _ = cli("train", file, "-o", tmp_path / "run", "--each-task-alone")
    assert code == 0
    assert "topic by itself" in out
    assert " by itself, " in out
