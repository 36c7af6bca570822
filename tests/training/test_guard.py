"""Frozen heads over layers that learn: what is measured, what the guard does, what protection keeps."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from test_loop import same

import frostline as fl
from conftest import events, stop_after, weights
from frostline.data.labels import Task
from frostline.model.heads import Head
from frostline.training.checkpoint import load_newest

HEADS = {"name": "heads", "epochs": 6, "head_lr": 1e-1}
SHAKE = {"name": "shake", "top_layers": 2, "frozen_heads": ["mood"], "epochs": 2, "backbone_lr": 3e-2}


@pytest.fixture
def shaken(content):
    """Heads trained, then two layers learn so fast that the frozen head's answers move."""
    content["plan"] = {"phases": [HEADS, SHAKE]}
    return content


def leak_of(run):
    assert run.report["leak"] == run.report["phases"][-1]["leak"]
    return run.report["leak"]["mood"]


def with_(content, **changes):
    return content | {"plan": {"phases": [HEADS, SHAKE | changes]}}


def test_the_leak_of_a_frozen_head_is_measured(shaken, tmp_path):
    run = fl.train(shaken, output=tmp_path / "run")
    leak = leak_of(run)
    assert leak["protect"] == "none"
    assert leak["score_before"] == run.report["phases"][0]["validation"]["tasks"]["mood"]["macro_f1"]
    assert leak["score_after"] == run.report["phases"][1]["validation"]["tasks"]["mood"]["macro_f1"]
    assert leak["change"] == pytest.approx(leak["score_after"] - leak["score_before"])
    assert leak["interval"][0] <= leak["change"] <= leak["interval"][1]
    assert leak["mean_kl"] > 0.01
    assert -1 < leak["probe_gap"] <= 1
    assert run.report["phases"][0]["leak"] == {}


def test_a_frozen_head_of_several_labels_is_scored_by_the_same_thresholds_throughout(content, toy, tmp_path):
    """Those of its answers before the phase; so layers that hardly move leave it no leak and no gap."""
    for name in ("train", "validation"):
        rows = [json.loads(line) for line in (toy / f"{name}.jsonl").read_text().splitlines()]
        for i, row in enumerate(rows):
            row["tags"] = [row["mood"]] * (i % 3 == 0) + [row["topic"]] * (i % 5 == 0)
        content["data"][name] = rows
    content["data"].pop("test")
    content["tasks"] |= {"tags": {"kind": "multilabel"}}
    still = SHAKE | {"frozen_heads": ["tags"], "backbone_lr": 1e-9, "guard": {"tolerance": 0.01}}
    content["plan"] = {"phases": [{"solver": "probe"}, still]}
    report = fl.train(content, output=tmp_path / "run").report
    (solved, after), leak = report["phases"], report["leak"]["tags"]
    assert leak["score_before"] == solved["validation"]["tasks"]["tags"]["macro_f1"]
    assert leak["score_after"] == after["validation"]["tasks"]["tags"]["macro_f1"]
    assert leak["change"] == pytest.approx(0, abs=0.01) and not after["breaches"]
    at_half = report["validation"]["tasks"]["tags"]["num_labelled"]
    assert at_half == 60 and abs(leak["probe_gap"]) < 0.05


def test_a_head_with_too_few_labels_to_solve_has_no_probe_gap(shaken, toy, tmp_path):
    first = fl.train(shaken, output=tmp_path / "first")
    rows = [json.loads(line) for line in (toy / "train.jsonl").read_text().splitlines()]
    for row in rows[1:]:
        del row["mood"]
    again = with_(shaken)
    again["data"] = shaken["data"] | {"train": rows}
    again["plan"] = {"phases": [SHAKE]}
    again["tasks"] = {"topic": {}, "mood": {"head_from": str(first.folder), "frozen": True}}
    assert "probe_gap" not in fl.train(again, output=tmp_path / "run").report["leak"]["mood"]


def test_distillation_keeps_the_answers(shaken, tmp_path):
    sums = {"none": Counter(), "distill": Counter()}
    for seed in range(3):  # one in ten keeps less than half
        shaken["train"]["seed"] = seed
        for protect, found in sums.items():
            run = fl.train(with_(shaken, protect=protect), output=tmp_path / f"{protect}{seed}")
            found.update({name: leak_of(run)[name] for name in ("mean_kl", "flip_rate")})
    assert all(kept < sums["none"][name] / 2 for name, kept in sums["distill"].items())


def test_distillation_needs_no_label_of_the_frozen_head(shaken, toy, tmp_path):
    """Labels of the frozen head on half of the texts, those of the other on the other half."""
    first = fl.train(shaken, output=tmp_path / "first")
    rows = [json.loads(line) for line in (toy / "train.jsonl").read_text().splitlines()]
    for row in rows:
        del row["mood"]
    again = with_(shaken, protect="distill")
    again["data"] = shaken["data"] | {"train": rows}
    again["plan"] = {"phases": [SHAKE | {"protect": "distill"}]}
    again["tasks"] = {"topic": {}, "mood": {"head_from": str(first.folder), "frozen": True}}
    run = fl.train(again, output=tmp_path / "run")
    assert run.report["leak"]["mood"]["protect"] == "distill"
    assert all("mood" in e["loss"] for e in events(run.folder) if e["event"] == "steps")


def test_a_fork_leaves_no_leak_at_all(shaken, tmp_path):
    run = fl.train(with_(shaken, protect="fork"), output=tmp_path / "run")
    leak = leak_of(run)
    assert (leak["change"], leak["flip_rate"], leak["mean_kl"]) == (0, 0, 0)
    assert leak["interval"] == [0, 0]
    assert "private copy of 2 of 3 layers for mood" in run.report["warnings"][0]
    assert "67% slower" in run.report["warnings"][0]


def test_a_forked_head_answers_from_its_own_stages_in_the_loaded_bundle(shaken, toy, tmp_path):
    heads = fl.train(with_(shaken) | {"plan": {"phases": [HEADS]}}, output=tmp_path / "heads")
    forked = fl.train(with_(shaken, protect="fork"), output=tmp_path / "forked")
    heads, forked = (fl.load(run.folder, precision="fp32") for run in (heads, forked))
    texts = [json.loads(line)["text"] for line in (toy / "test.jsonl").read_text().splitlines()]
    before, after = heads.logits(texts), forked.logits(texts)
    assert np.allclose(before["mood"], after["mood"], atol=1e-5)
    assert not np.allclose(before["topic"], after["topic"], atol=1e-2)
    assert not np.allclose(heads.encode(texts), forked.encode(texts), atol=1e-2)
    assert list(forked.classify(forked.encode(texts))) == ["topic"]
    assert np.array_equal(forked.predict_proba(texts)["mood"].argmax(1), after["mood"].argmax(1))


def test_a_fork_grows_before_the_line_moves_down(shaken, tmp_path):
    thaw = {
        "top_layers": 1, "epochs": 4, "protect": "fork", "thaw": {"to": "all"},
        "until": {"patience": 1, "min_delta": 0.9},
    }  # fmt: skip
    run = fl.train(with_(shaken, **thaw), output=tmp_path / "run")
    assert run.report["phases"][1]["frozen_depths"] == [3, 2, 1, 0]
    assert (leak_of(run)["flip_rate"], leak_of(run)["change"]) == (0, 0)
    assert leak_of(run)["mean_kl"] < 1e-9
    described = json.loads((run.folder / "model" / "heads" / "mood" / "head.json").read_text())
    assert described["fork_depth"] == 0


@pytest.mark.parametrize(("action", "steps"), [("stop", 8), ("rollback", 8), ("warn", 16)])
def test_a_guard_ends_the_phase_or_says_so(shaken, tmp_path, action, steps):
    guard = {"tolerance": 0.0, "action": action}
    run = fl.train(with_(shaken, guard=guard, backbone_lr=0.3), output=tmp_path / "run")
    phase = run.report["phases"][1]
    assert phase["steps"] == steps
    assert phase["breaches"][0]["task"] == "mood"
    assert phase["breaches"][0]["lost"] > 0
    said = [event for event in events(run.folder) if event["event"] == "guard"]
    assert said[0]["action"] == action
    if action == "rollback":  # to the start of the phase, since no evaluation kept the tolerance
        assert leak_of(run)["mean_kl"] == 0
        assert phase["validation"] == run.report["phases"][0]["validation"]


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_guard_that_is_kept_changes_nothing(shaken, tmp_path, select):
    shaken["train"]["select"] = select
    plain = fl.train(with_(shaken), output=tmp_path / "plain")
    for action in ("stop", "warn"):
        guard = {"tolerance": 1.0, "action": action}
        guarded = fl.train(with_(shaken, guard=guard), output=tmp_path / action)
        assert same(weights(plain.folder), weights(guarded.folder))
        assert guarded.report["phases"][1]["breaches"] == []


def test_a_guard_that_may_roll_back_ends_with_the_last_weights_where_these_are_asked(shaken, tmp_path):
    shaken["train"]["select"] = "last"
    plain = fl.train(with_(shaken), output=tmp_path / "plain")
    guard = {"tolerance": 1.0, "action": "rollback"}
    guarded = fl.train(with_(shaken, guard=guard), output=tmp_path / "guarded")
    assert same(weights(plain.folder), weights(guarded.folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"protect": "distill"},
        {"protect": "fork"},
        {"guard": {"tolerance": 1.0, "action": "rollback"}},
        {
            "top_layers": 1, "epochs": 2, "protect": "fork", "thaw": {"to": 3}, "evaluations_per_epoch": 2,
            "until": {"patience": 1, "min_delta": 0.9},
        },
    ],
)  # fmt: skip
@pytest.mark.parametrize("steps", [48, 49, 56, 61])
def test_a_protected_run_that_goes_on_is_the_unbroken_run(shaken, tmp_path, keeps_moments, changes, steps):
    content = with_(shaken, **changes)
    unbroken = fl.train(content, output=tmp_path / "unbroken")
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "broken", show=stop_after(steps))
    resumed = fl.resume(tmp_path / "broken")
    assert same(weights(unbroken.folder), weights(resumed.folder))
    assert events(unbroken.folder) == events(resumed.folder)
    last = [load_newest(run.folder / "checkpoints")[0] for run in (unbroken, resumed)]
    assert last[0].moments and same(last[0].moments, last[1].moments)
    assert same(last[0].references, last[1].references)
    assert resumed.report["leak"] == unbroken.report["leak"]


def test_what_a_head_was_is_forgotten_when_it_learns_again(shaken, tmp_path):
    shaken["plan"] = {"phases": [HEADS, SHAKE, HEADS | {"epochs": 1}, SHAKE | {"name": "again"}]}
    phases = fl.train(shaken, output=tmp_path / "run").report["phases"]
    assert phases[3]["leak"]["mood"]["score_before"] == phases[2]["validation"]["tasks"]["mood"]["macro_f1"]


def test_a_leak_over_two_phases_is_counted_from_the_first(shaken, tmp_path):
    shaken["plan"] = {"phases": [HEADS, SHAKE, SHAKE | {"name": "again"}]}
    phases = fl.train(shaken, output=tmp_path / "run").report["phases"]
    before = phases[0]["validation"]["tasks"]["mood"]["macro_f1"]
    assert [phase["leak"]["mood"]["score_before"] for phase in phases[1:]] == [before, before]


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_a_divergence_is_nothing_at_the_same_outputs_and_pulls_towards_them(kind):
    labels = () if kind == "regression" else ("a", "b", "c")
    head = Head(Task(name="t", column="t", kind=kind, labels=labels), width=8)
    generator = torch.Generator().manual_seed(0)
    shape = (5, head.task.num_outputs)
    target, now = (torch.randn(shape, generator=generator) for _ in range(2))
    assert head.divergence_sum(target, target).item() == pytest.approx(0, abs=1e-6)
    now.requires_grad_()
    first = head.divergence_sum(now, target)
    first.backward()
    assert first.item() > 0
    assert head.divergence_sum(now.detach() - 0.01 * now.grad, target) < first
