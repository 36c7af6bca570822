"""Runs on the toy data with a tiny random encoder: what learns, what stays, what a kill does not change."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import frostline as fl
from conftest import events, stop_after, weights, write_jsonl
from frostline.config import Config
from frostline.errors import CheckpointError, DataError, RunError, TrainingError
from frostline.training.checkpoint import load_newest


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_leaves_its_folder_and_learns(content, tmp_path):
    content["train"]["save_seconds"] = 0.01
    run = fl.train(content, output=tmp_path / "run")
    assert {path.name for path in run.folder.iterdir()} == {
        ".lock", "config.toml", "events.jsonl", "checkpoints",
        "trainability.png", "curves.png", "report.json", "model",
        "answers.safetensors",
    }  # fmt: skip
    report = json.loads((run.folder / "report.json").read_text())
    assert report == run.report
    assert report["test"]["score"] > 0.9
    assert report["validation"]["score"] > 0.9
    assert [phase["name"] for phase in report["phases"]] == ["heads", "top"]
    assert report["phases"][0]["parameters_trained"] == 5 * 33
    assert report["peak_memory_bytes"] > 2**20
    assert len(list((run.folder / "checkpoints").iterdir())) == 2
    for picture in ("trainability.png", "curves.png"):
        assert (run.folder / picture).read_bytes().startswith(b"\x89PNG")


def test_what_nothing_will_read_is_not_committed(content, tmp_path):
    run = fl.train(content, output=tmp_path / "run")
    assert not load_newest(run.folder / "checkpoints")[0].moments


def test_the_frozen_stages_of_the_bundle_are_those_of_the_pretrained_model(content, tiny, tmp_path):
    run = fl.train(content, output=tmp_path / "run")
    before = load_file(tiny / "model.safetensors")
    after = load_file(run.folder / "model" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("encoder.layer.2.")}


def test_the_resolved_file_reruns_the_run_bit_for_bit(content, tmp_path):
    first = fl.train(content, output=tmp_path / "first")
    again = fl.train(first.folder / "config.toml", output=tmp_path / "again")
    assert same(weights(first.folder), weights(again.folder))
    assert events(first.folder) == events(again.folder)
    other = fl.train(
        Config.load(first.folder / "config.toml", changes={"train.seed": 1}), output=tmp_path / "other"
    )
    assert not same(weights(first.folder), weights(other.folder))


@pytest.mark.parametrize(
    ("steps", "kind"),
    [(1, "progress"), (20, "progress"), (48, "progress"), (49, "progress"), (60, "progress")]
    + [(1, "embedding"), (1, "evaluation"), (7, "evaluation")],
)
def test_a_stopped_run_that_goes_on_is_the_unbroken_run(content, tmp_path, keeps_moments, steps, kind):
    unbroken = fl.train(content, output=tmp_path / "unbroken")
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "broken", show=stop_after(steps, kind))
    assert not (tmp_path / "broken" / "model").exists()
    resumed = fl.resume(tmp_path / "broken")
    assert same(weights(unbroken.folder), weights(resumed.folder))
    assert events(unbroken.folder) == events(resumed.folder)
    last = [load_newest(run.folder / "checkpoints")[0] for run in (unbroken, resumed)]
    assert last[0].moments and same(last[0].moments, last[1].moments)
    assert resumed.report["test"] == unbroken.report["test"]


def test_a_phase_that_freezes_what_learned_before_can_be_resumed_at_its_start(content, tmp_path):
    content["plan"]["phases"].reverse()
    unbroken = fl.train(content, output=tmp_path / "unbroken")
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "broken", show=stop_after(1, "embedding"))
    resumed = fl.resume(tmp_path / "broken")
    assert same(weights(unbroken.folder), weights(resumed.folder))


def test_a_finished_run_resumes_to_the_same_model(content, tmp_path):
    run = fl.train(content, output=tmp_path / "run")
    before = weights(run.folder)
    said = []
    assert fl.resume(run.folder, show=said.append).report == run.report
    assert "has ended already" in said[0]["message"]
    (run.folder / "report.json").unlink()  # as if it had been killed while writing its results
    again = fl.resume(run.folder)
    assert same(before, weights(run.folder))
    assert again.report["phases"] == run.report["phases"]


def test_labels_that_validation_lacks_are_said(content, toy, tmp_path):
    rows = [json.loads(line) for line in (toy / "validation.jsonl").read_text().splitlines()]
    content["data"]["validation"] = [row for row in rows if row["topic"] != "food"]
    content["plan"] = {"recipe": "features"}
    warnings = fl.train(content, output=tmp_path / "run").report["warnings"]
    assert (
        "no validation row has these labels of 'topic', so its score says nothing of them: food." in warnings
    )


def test_a_flipped_byte_in_the_newest_checkpoint_falls_back_to_the_one_before(content, tmp_path):
    unbroken = fl.train(content, output=tmp_path / "unbroken")
    content["train"]["save_seconds"] = 0.001
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "broken", show=stop_after(25))
    newest = max((tmp_path / "broken" / "checkpoints").iterdir())
    data = bytearray((newest / "weights.safetensors").read_bytes())
    data[-7] ^= 1
    (newest / "weights.safetensors").write_bytes(data)
    said = []
    resumed = fl.resume(
        tmp_path / "broken", show=lambda e: said.append(e) if e["event"] == "warning" else None
    )
    assert (
        "'weights.safetensors' is damaged (its hash differs). Going on from the one before."
        in said[0]["message"]
    )
    assert same(weights(unbroken.folder), weights(resumed.folder))


def test_no_checkpoint_that_can_be_trusted_is_refused(content, tmp_path):
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "run", show=stop_after(5))
    for manifest in (tmp_path / "run" / "checkpoints").rglob("manifest.json"):
        manifest.write_text("{")
    with pytest.raises(CheckpointError, match="no checkpoint can be trusted"):
        fl.resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"train.batch_size": 16}, "training settings"),
        ({"plan.phases.0.epochs": 5}, "plan"),
        ({"model.dropout": 0.0}, "model"),
        ({"tasks.mood.weight": 2.0}, "tasks"),
    ],
)
def test_a_changed_file_is_refused_at_resume_and_named(content, tmp_path, change, what):
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "run", show=stop_after(5))
    file = tmp_path / "run" / "config.toml"
    file.write_text(Config.load(file, changes=change).to_toml())
    with pytest.raises(CheckpointError, match=f"the {what} changed since the checkpoint was taken"):
        fl.resume(tmp_path / "run")


def test_changed_data_is_refused_at_resume(content, toy, tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text((toy / "train.jsonl").read_text())
    content["data"]["train"] = str(train)
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "run", show=stop_after(5))
    lines = train.read_text().splitlines(keepends=True)
    train.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(CheckpointError, match="the data changed"):
        fl.resume(tmp_path / "run")


def test_gradients_of_small_batches_add_up_to_those_of_a_large_one(content, tmp_path):
    content["model"]["dropout"] = 0.0
    content["plan"] = {"phases": [{"epochs": 1, "warmup_steps": 0}]}
    results = []
    for size, steps in ((32, 1), (8, 4)):
        content["train"] = {
            "precision": "fp32",
            "batch_size": size,
            "gradient_accumulation_steps": steps,
            "batch_tokens": 10**6,
        }
        run = fl.train(content, output=tmp_path / str(size))
        results.append(sum(e["event"] == "steps" for e in events(run.folder)))
        assert run.report["phases"][0]["steps"] == 8
    assert results[0] == results[1]


def test_missing_labels_train_on_what_is_there(content, toy, tmp_path):
    rows = [json.loads(line) for line in (toy / "train.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        row["topic" if index % 2 else "mood"] = None
    content["data"]["train"] = rows
    run = fl.train(content, output=tmp_path / "run")
    assert run.report["test"]["score"] > 0.8
    assert (tmp_path / "run" / "data" / "train.jsonl").is_file()
    assert same(
        weights(run.folder), weights(fl.train(run.folder / "config.toml", output=tmp_path / "again").folder)
    )


def test_all_kinds_of_tasks_train_together(content, toy, tmp_path):
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (toy / f"{name}.jsonl").read_text().splitlines()]
        content["data"][name] = [row | {"tags": [row["topic"], row["mood"]]} for row in rows]
    content["tasks"] |= {
        "stars": {"kind": "regression"},
        "tags": {"kind": "multilabel", "class_weights": "balanced"},
    }
    everything = {"top_layers": "all", "backbone_lr": 3e-3, "head_lr": 1e-1, "epochs": 8}
    for name, plan in {"features": {"recipe": "features"}, "full": {"phases": [everything]}}.items():
        content["plan"] = plan
        report = fl.train(content, output=tmp_path / name).report
        scores = report["test"]["tasks"]
        assert scores["tags"]["micro_f1"] > 0.8, name
        # Within a phase several labels are scored with the thresholds that the head would be given.
        during = report["phases"][-1]["validation"]["tasks"]["tags"]["macro_f1"]
        assert during == pytest.approx(report["validation"]["tasks"]["tags"]["macro_f1"], abs=0.02), name
        assert scores["stars"]["pearson"] > 0.8, name
        assert scores["topic"]["macro_f1"] > 0.8, name


def test_one_frozen_head_stays_while_everything_else_learns(content, tmp_path):
    content["plan"] = {"recipe": "one-head", "frozen_heads": ["mood"], "epochs": 1}
    run = fl.train(content, output=tmp_path / "run")
    assert any("the mood head is frozen" in warning for warning in run.report["warnings"])
    content["plan"] = {"recipe": "features"}
    solved = fl.train(content, output=tmp_path / "solved")
    ours, theirs = weights(run.folder), weights(solved.folder)
    moved = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert not any("heads/mood" in name for name in moved)
    assert any("heads/topic" in name for name in moved)
    assert any("word_embeddings" in name for name in moved)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(content, tmp_path):
    content["plan"]["phases"][1] |= {"backbone_lr": 1e38, "head_lr": 1e38, "epochs": 20, "warmup_steps": 0}
    with pytest.raises(
        TrainingError,
        match=r"step \d+: the loss or its gradient is not finite. Its rows: \S+train.jsonl:\d+, ",
    ):
        fl.train(content, output=tmp_path / "run")
    checkpoint, damaged = load_newest(tmp_path / "run" / "checkpoints")
    assert not damaged
    assert all(torch.isfinite(value).all() for value in checkpoint.weights.values())


def test_no_validation_label_of_any_task_is_refused_and_of_one_task_is_said(content, toy, tmp_path):
    rows = [json.loads(line) for line in (toy / "validation.jsonl").read_text().splitlines()]
    content["data"]["validation"] = [{"text": row["text"]} for row in rows]
    with pytest.raises(
        fl.FrostlineError, match="data.validation: no row has a label of any task.*topic, mood"
    ):
        fl.train(content, output=tmp_path / "run")
    content["data"]["validation"] = [{"text": row["text"], "topic": row["topic"]} for row in rows]
    content["plan"] = {"recipe": "features"}
    run = fl.train(content, output=tmp_path / "run")
    assert any("no validation row has a label of 'mood'" in said for said in run.report["warnings"])
    assert run.report["test"]["tasks"]["mood"]["macro_f1"] > 0.8
    solved = [e for e in events(run.folder) if e["event"] == "solved"]
    assert ["score" in e for e in solved] == [True, False]


def test_a_backbone_with_a_projection_after_the_pooling_trains_in_both_formats(content, tiny, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    torch.manual_seed(0)
    transformer = Transformer(str(tiny), max_seq_length=32)
    dense = Dense(in_features=32, out_features=16)
    SentenceTransformer(modules=[transformer, Pooling(32), dense]).save(str(tmp_path / "projected"))
    content["model"]["backbone"] = str(tmp_path / "projected")
    for precision in ("fp32", "bf16"):
        content["train"] |= {
            "precision": precision,
            "activations": {"store": "always", "folder": str(tmp_path)},
        }
        run = fl.train(content, output=tmp_path / precision)
        assert run.report["test"]["score"] > 0.7  # .74 to .87 by the seed
        assert fl.load(run.folder, precision=precision).encode(["the soup"]).shape == (1, 16)


def test_rows_of_a_generator_are_kept_for_a_resume(content, toy, tmp_path):
    lines = (toy / "train.jsonl").read_text().splitlines()
    content["data"]["train"] = (json.loads(line) for line in lines)
    run = fl.train(content, output=tmp_path / "run")
    assert len((run.folder / "data" / "train.jsonl").read_text().splitlines()) == len(lines)
    (run.folder / "report.json").unlink()
    fl.resume(run.folder)


def test_a_folder_that_holds_a_run_is_refused_unless_it_may_be_replaced(content, tmp_path):
    fl.train(content, output=tmp_path / "run")
    with pytest.raises(RunError, match=r"holds a run already.*frostline resume.*--overwrite"):
        fl.train(content, output=tmp_path / "run")
    fl.train(content, output=tmp_path / "run", overwrite=True)


def test_a_folder_in_use_is_refused(content, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(RunError, match="another process is using this run"),
    ):
        fl.train(content, output=tmp_path / "run")
    fl.train(content, output=tmp_path / "run")


def test_a_refused_run_leaves_nothing_behind(content, tmp_path):
    content["tasks"]["weather"] = {}
    with pytest.raises(fl.FrostlineError, match="no column 'weather'"):
        fl.train(content, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_last_weights_can_be_kept_instead_of_the_best(content, tmp_path):
    content["train"]["select"] = "last"
    run = fl.train(content, output=tmp_path / "run")
    evaluations = [e for e in events(run.folder) if e["event"] == "evaluation"]
    assert run.report["phases"][-1]["validation"] == {k: evaluations[-1][k] for k in ("score", "tasks")}


def test_stored_embeddings_are_computed_once(content, monkeypatch, tmp_path):
    from frostline.training import activations

    calls = []
    original = activations.embed
    monkeypatch.setattr(
        activations, "embed", lambda b, tokens, **k: calls.append(len(tokens)) or original(b, tokens, **k)
    )
    content["plan"] = {
        "phases": [{"epochs": 3}, {"solver": "probe"}, {"epochs": 2, "frozen_heads": ["mood"]}]
    }
    fl.train(content, output=tmp_path / "run")
    assert sorted(calls) == [60, 240]


def test_bf16_trains_too(content, tmp_path):
    content["train"]["precision"] = "bf16"
    assert fl.train(content, output=tmp_path / "run").report["test"]["score"] > 0.9


def test_the_embeddings_of_the_bundle_are_those_of_sentence_transformers(content, tmp_path):
    from sentence_transformers import SentenceTransformer

    run = fl.train(content, output=tmp_path / "run")
    texts = ["the goal was great", "soup", "a very sad bank and one awful price of it all"]
    ours = fl.load(run.folder, precision="fp32").encode(texts)
    np.testing.assert_allclose(ours, SentenceTransformer(str(run.folder / "model")).encode(texts), atol=1e-5)


def test_layers_computed_again_in_the_backward_pass_learn_the_same_bits(content, tmp_path):
    content["plan"]["phases"][-1]["top_layers"] = "all"
    kept = fl.train(content, output=tmp_path / "kept")
    content["train"]["gradient_checkpointing"] = True
    again = fl.train(content, output=tmp_path / "again")
    assert same(weights(kept.folder), weights(again.folder))


@pytest.mark.parametrize("offset", [0.0, 1.7e9, 1e12])
def test_targets_far_from_zero_are_learned_like_others(content, tmp_path, toy, offset):
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (toy / f"{name}.jsonl").read_text().splitlines()]
        rows = [{"text": row["text"], "stars": offset + 3 * row["stars"]} for row in rows]
        content["data"][name] = str(write_jsonl(tmp_path / f"{name}.jsonl", rows))
    content["tasks"] = {"stars": {"kind": "regression"}}
    run = fl.train(content, output=tmp_path / "run")
    assert run.report["test"]["tasks"]["stars"]["pearson"] > 0.9
    low, high = run.load().predict(["the match was awful", "the match was great"])["stars"]
    assert 3 < high - low < 12 and low < offset < high


def test_targets_too_large_to_be_measured_are_refused(content, tmp_path):
    rows = [{"text": f"text {i}", "stars": 1e300 * (-1) ** i} for i in range(40)]
    content["data"] = {"train": str(write_jsonl(tmp_path / "train.jsonl", rows))}
    content["tasks"] = {"stars": {"kind": "regression"}}
    with pytest.raises(DataError, match="tasks.stars: the training targets are too large, such as 1e"):
        fl.train(content, output=tmp_path / "run")


def test_outputs_that_are_not_numbers_end_the_run_in_words(content, tmp_path, monkeypatch):
    content["plan"]["phases"] = [{"name": "heads", "epochs": 1, "head_lr": 1e38}]
    content["train"]["batch_size"] = 240  # one step, whose own loss is fine
    with pytest.raises(
        TrainingError, match="step 1: the outputs of topic, mood are not finite.*smaller rate"
    ):
        fl.train(content, output=tmp_path / "run")


def test_a_run_stopped_before_its_first_checkpoint_begins_again_with_the_same_data(content, tmp_path):
    with pytest.raises(fl.Interrupted):
        fl.train(content, output=tmp_path / "run", show=stop_after(1, "embedding"))
    said = []
    changed = tmp_path / "train.jsonl"
    lines = Path(content["data"]["train"]).read_text().splitlines()
    changed.write_text("\n".join(lines[1:]))
    file = tmp_path / "run" / "config.toml"
    kept = file.read_text()
    file.write_text(kept.replace(content["data"]["train"], str(changed)))
    with pytest.raises(CheckpointError, match="the data changed since"):
        fl.resume(tmp_path / "run")
    file.write_text(kept)
    fl.resume(tmp_path / "run", show=said.append)
    assert any("before its first checkpoint" in event.get("message", "") for event in said)
