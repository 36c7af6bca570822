"""Every command, as a person and a machine calls it; a mistake ends with one paragraph and code 2."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from conftest import weights
from frostline.cli import main
from frostline.config import Config


@pytest.fixture
def cli(capsys, monkeypatch):
    """Runs a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["frostline", *map(str, arguments)])
        monkeypatch.delenv("FROSTLINE_DEBUG", raising=False)
        code = 0
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def file(content, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def test_train_tells_the_plan_the_progress_the_scores_and_where_things_lie(cli, file, tmp_path):
    code, out, err = cli("train", file, "--output", tmp_path / "run")
    assert (code, err) == (0, "")
    for said in (
        "240 train, 60 validation, 60 test",
        "number format fp32 on cpu (asked for)",
        "layer 3",
        "3.0e-03",
        "phase heads (4 stages frozen)",
        "epoch 6: validation",
        "frozen tensors kept every byte",
        "test scores",
        "macro_f1",
        f"Model: {tmp_path}/run/model",
        "trainability.png",
    ):
        assert said in out, said


def test_train_and_resume_print_the_report_for_machines(cli, file, tmp_path):
    code, out, _ = cli("train", file, "-o", tmp_path / "run", "--set", "plan.phases.0.epochs=1", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "run" / "report.json").read_text())
    assert json.loads(out)["phases"][0]["steps"] == 8
    code, out, _ = cli("resume", tmp_path / "run", "--json")
    assert json.loads(out)["test"] == json.loads((tmp_path / "run" / "report.json").read_text())["test"]


def test_plan_shows_what_will_learn_and_trains_nothing(cli, file, tmp_path):
    code, out, err = cli("plan", file)
    assert (code, err) == (0, "")
    assert "layer 3" in out
    assert "phase heads: about" in out
    assert re.search(r"in all about \d+ s in ", out), "less than a minute is no part of one"
    assert (tmp_path / "run.plan.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = cli("plan", file, "--json", "--picture", tmp_path / "p.png", "--set", "plan.recipe=full")
    found = json.loads(out)
    (phase,), (column,) = found["phases"], found["columns"]
    assert column["rates"]["embeddings"] == pytest.approx(1e-4 * 0.9**4)
    assert column["parameters_trained"] == sum(found["parameters"].values())
    assert phase["estimated_seconds"] > 0 and phase["temperature"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run.toml", "run.plan.png", "p.png"}


def test_plan_says_the_temperature_of_solved_heads_and_what_a_busy_processor_does(cli, file, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "frostline.prepare.product_seconds", lambda *about: asked.append(about) or {1: 1, 2: 2}
    )
    out = cli("plan", file, "--set", "plan.recipe=top-layers")[1]
    assert "phase heads (temperature 3): about" in out and "OMP_NUM_THREADS=1" in out
    out = cli("plan", file, "--set", "plan.recipe=features")[1]
    assert "OMP_NUM_THREADS" not in out and len(asked) == 1, "no layer learns"
    out = cli("plan", file, "--set", "plan.recipe=features", "--set", "tasks.topic.weight=2")[1]
    assert "heads are only solved here, without weight" in " ".join(out.split())


def test_recipes_are_listed_with_reason_cost_and_use(cli):
    code, out, _ = cli("recipes")
    assert code == 0
    recipes = json.loads(cli("recipes", "--json")[1])
    for name in recipes:
        assert f"{name}\n  learns" in out
    assert out.count("  when") == out.count("  why") == out.count("  cost") == len(recipes)
    assert recipes["full"]["phases"][0]["top_layers"] == "all"


def test_init_writes_a_file_and_never_over_another(cli, toy, tmp_path):
    code, _, _ = cli("init", toy, "-o", tmp_path / "new.toml")
    assert code == 0
    assert set(Config.load(tmp_path / "new.toml").tasks) == {"topic", "mood", "stars"}
    code, _, err = cli("init", toy, "-o", tmp_path / "new.toml")
    assert code == 2
    assert "new.toml: exists. Give another --output, or --overwrite." in err
    assert json.loads(cli("init", toy, "-o", tmp_path / "new.toml", "--overwrite", "--json")[1]) == {
        "config": str(tmp_path / "new.toml")
    }


def test_show_says_what_a_model_is(cli, trained):
    code, out, _ = cli("show", trained)
    assert code == 0
    assert "topic: classification food, money, sport (macro_f1" in out
    assert "heads → top" in out
    found = json.loads(cli("show", trained / "model", "--json")[1])
    assert found["tasks"]["mood"] == {"kind": "classification", "labels": ["bad", "good"]}
    assert (found["layers"], found["width"]) == (3, 32)


def test_evaluate_prints_a_table_or_the_scores(cli, trained, tmp_path):
    data = trained.parent / "test.jsonl"
    code, out, _ = cli("evaluate", trained, data, "--precision", "fp32")
    assert code == 0
    assert "macro_f1" in out
    found = json.loads(cli("evaluate", trained, data, "--json", "--precision", "fp32")[1])
    assert found == json.loads((trained / "report.json").read_text())["test"]
    assert set(found["tasks"]["topic"]) == {"macro_f1", "accuracy", "ece", "num_labelled", "intervals"}
    (tmp_path / "topics.jsonl").write_text('{"text": "the goal", "topic": "sport"}\n')
    code, out, _ = cli("evaluate", trained, tmp_path / "topics.jsonl")
    assert code == 0
    assert "no row has a label of 'mood' (column 'mood')" in out
    low, high = found["tasks"]["topic"]["intervals"]["macro_f1"]
    assert low <= found["tasks"]["topic"]["macro_f1"] <= high


def test_predict_and_embed_write_files(cli, trained, tmp_path):
    data = trained.parent / "test.jsonl"
    code, out, _ = cli("predict", trained, data, "-o", tmp_path / "out.csv")
    assert code == 0
    assert f"60 rows written to {tmp_path}/out.csv (" in out
    found = json.loads(
        cli("predict", trained, data, "-o", tmp_path / "o.jsonl", "--precision", "bf16", "--json")[1]
    )
    assert found == {
        "output": str(tmp_path / "o.jsonl"), "rows": 60, "rows_without_text": 0, "precision": "bf16",
    }  # fmt: skip
    assert cli("embed", trained, data, "-o", tmp_path / "e.npy", "--precision", "fp32")[0] == 0
    assert np.load(tmp_path / "e.npy").shape == (60, 32)


def test_a_command_that_breaks_off_says_what_is_kept(cli, trained, tmp_path, monkeypatch):
    rows = '{"text": "soup"}\n' * 5000
    (tmp_path / "in.jsonl").write_text(rows + "{broken\n")
    code, _, err = cli("predict", trained, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert code == 2 and "in.jsonl:5001: not a JSON object" in err
    assert "What was done is kept: the same command goes on from there." in err

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("frostline.inference.predict.predict_file", stop)
    code, _, err = cli("predict", trained, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert code == 130 and "stopped. What was done is kept" in err
    code, _, err = cli("predict", trained, tmp_path / "in.jsonl", "-o", tmp_path / "new.jsonl")
    assert code == 130 and "stopped. Nothing was written." in err


def test_rows_without_text_are_counted_and_named(cli, trained, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "soup"}\n{"text": ""}\n')
    code, out, err = cli("predict", trained, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert code == 0
    assert "2 rows written" in out
    assert f"1 row has no text and no answer: {tmp_path}/in.jsonl:2" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.train=nothing.jsonl", "nothing.jsonl: no such file."),
        ("tasks.topic.column=topik", "no column 'topik' (tasks.topic.column). Columns: text, topic, mood, stars. Did you mean 'topic'?"),
        ('tasks.topic.labels=["sport", "food"]', "label 'money' is not a label of task 'topic' (sport, food)."),
        ("tasks.mood.column=text", "tasks.mood.column: 'text' is read by data.text already"),
        ("plan.phases.1.top_layers=9", "plan.phases[1].top_layers: 9 layers asked, but this backbone has 3."),
        ('plan.phases.0.frozen_heads=["moood"]', "plan.phases[0].frozen_heads: 'moood' is not a task (topic, mood). Did you mean 'mood'?"),
        ('plan.phases.0.frozen_heads=["topic", "mood"]', "plan.phases[0]: nothing trains"),
        ("plan.phases.0.head_lr=-1", "plan.phases[0].head_lr: should be greater than 0, -1 arrived."),
        ("plan.phases.0.speed=1", "plan.phases[0].speed: unknown key."),
        ("plan.recipe=gradul", "plan.recipe: 'gradul' is no recipe"),
        ("plan.frozen_heads=mood", 'plan.frozen_heads: a list is needed, such as ["mood"].'),
        ("plan.recipe=one-head", "plan.frozen_heads: recipe 'one-head' needs the head to freeze"),
        ("model.backbone=finance", "model.backbone: no weights for 'finance' (ProsusAI/finbert) here"),
        ("model.backbone=generl", "Did you mean 'general'?"),
        ("model.max_length=500", "model.max_length: 500 tokens asked, but this backbone has 64 positions."),
        ("train.device=tpu7", "device: 'tpu7' cannot be used here"),
        ("train", "--set train: key=value is needed"),
    ],
)  # fmt: skip
def test_a_mistake_ends_with_one_paragraph_and_code_2(cli, file, tmp_path, change, message):
    code, out, err = cli("train", file, "-o", tmp_path / "run", "--set", change)
    assert (code, out) == (2, "")
    assert err.startswith("frostline: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def data_mistakes():
    good = [
        {"text": "soup", "topic": "food", "mood": "bad"},
        {"text": "goal", "topic": "sport", "mood": "good"},
    ] * 30
    yield (
        "null text",
        [*good, {"text": None, "topic": "food"}],
        "column 'text' is null or empty in 1 of 61 rows: {file}:61",
    )
    yield (
        "empty text",
        [*good, {"text": " ", "topic": "food"}],
        "column 'text' is null or empty in 1 of 61 rows: {file}:61",
    )
    yield (
        "one class",
        [row | {"mood": "bad"} for row in good],
        "tasks.mood: column 'mood' has 1 label (bad) in 60 labelled rows",
    )
    yield (
        "no labels",
        [row | {"mood": None} for row in good],
        "tasks.mood: column 'mood' has no label in any of 60 training rows",
    )
    yield (
        "changed type",
        [*good, {"text": "a", "topic": 7}],
        "{file}:61: column 'topic': changes type: text before, numbers here (7)",
    )
    yield (
        "a list as label",
        [*good, {"text": "a", "topic": ["x"]}],
        "{file}:61: column 'topic': a label is needed, list arrived",
    )


@pytest.mark.parametrize(
    ("rows", "message"), [m[1:] for m in data_mistakes()], ids=[m[0] for m in data_mistakes()]
)
def test_unusable_data_is_refused_with_its_rows(cli, file, tmp_path, rows, message):
    data = tmp_path / "bad.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = cli("train", file, "-o", tmp_path / "run", "--set", f"data.train={data}")
    assert code == 2
    assert message.format(file=data) in err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a", "topic": "\xff"}\n', ":1: byte 0xff is not UTF-8"),
        (b'{"text": "a"\n', ":1: not a JSON object"),
    ],
)
def test_unreadable_data_is_refused_with_its_line(cli, file, tmp_path, data, message):
    (tmp_path / "bad.jsonl").write_bytes(data)
    code, _, err = cli("train", file, "-o", tmp_path / "run", "--set", f"data.train={tmp_path}/bad.jsonl")
    assert code == 2
    assert f"{tmp_path}/bad.jsonl{message}" in err


def test_a_label_that_training_never_saw_is_named_with_its_row(cli, file, toy, tmp_path):
    data = tmp_path / "validation.jsonl"
    data.write_text(
        (toy / "validation.jsonl").read_text() + '{"text": "a", "topic": "sports", "mood": "bad"}\n'
    )
    code, _, err = cli("train", file, "-o", tmp_path / "run", "--set", f"data.validation={data}")
    assert code == 2
    assert (
        f"{data}:61: label 'sports' is not a label of task 'topic' (food, money, sport). Did you mean 'sport'?"
        in err
    )


def test_a_lone_surrogate_in_the_data_is_replaced(cli, file, toy, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text(
        (toy / "train.jsonl").read_text() + '{"text": "a \\ud800 b", "topic": "food", "mood": "bad"}\n'
    )
    assert cli("train", file, "-o", tmp_path / "run", "--set", f"data.train={data}")[0] == 0


def test_a_run_in_the_way_is_kept(cli, file, tmp_path):
    assert cli("train", file, "-o", tmp_path / "run")[0] == 0
    before = (tmp_path / "run" / "report.json").read_bytes()
    code, _, err = cli("train", file, "-o", tmp_path / "run")
    assert code == 2
    assert "holds a run already" in err
    assert (tmp_path / "run" / "report.json").read_bytes() == before
    assert cli("train", file, "-o", tmp_path / "run", "--overwrite")[0] == 0


def test_debug_shows_the_traceback(file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "frostline",
        "--debug",
        "train",
        file,
        "-o",
        tmp_path / "r",
        "--set",
        "a=1",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_the_version_is_printed(cli):
    from importlib.metadata import version

    assert cli("--version")[:2] == (0, f"frostline {version('frostline')}\n")


def test_help_is_quick_and_names_every_command():
    command = [sys.executable, "-m", "frostline", "--help"]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    for name in ("init", "recipes", "plan", "train", "resume", "evaluate", "predict", "embed", "show"):
        assert name in done.stdout
    assert min(seconds) < 0.6, seconds  # 0.2 s on a quiet machine; tests share theirs


def start(file, folder):
    command = [sys.executable, "-m", "frostline", "train", str(file), "-o", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(folder, pattern, process, *, seconds=120):
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.02)


@pytest.fixture
def long_file(content, tmp_path):
    content["plan"]["phases"][1]["epochs"] = 20
    content["train"]["save_seconds"] = 0.05
    path = tmp_path / "long.toml"
    path.write_text(tomli_w.dumps(content))
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_killed_or_stopped_process_goes_on_to_the_same_weights(cli, long_file, tmp_path, number):
    assert cli("train", long_file, "-o", tmp_path / "unbroken")[0] == 0
    process = start(long_file, tmp_path / "run")
    wait_for(tmp_path / "run", "checkpoints/step-*-phase-01", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + number
        assert f"frostline resume {tmp_path / 'run'}" in out + err
        assert "Traceback" not in err
    assert not (tmp_path / "run" / "model").exists()
    assert cli("resume", tmp_path / "run")[0] == 0
    first, second = weights(tmp_path / "unbroken"), weights(tmp_path / "run")
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    leftovers = [path for path in Path(tmp_path / "run").rglob(".*") if path.name != ".lock"]
    assert leftovers == []


def test_a_second_process_on_the_same_run_is_refused_at_once(cli, long_file, tmp_path):
    process = start(long_file, tmp_path / "run")
    try:
        wait_for(tmp_path / "run", "checkpoints/step-*", process)
        begin = time.monotonic()
        code, _, err = cli("resume", tmp_path / "run")
        assert time.monotonic() - begin < 1
        assert code == 2
        assert "another process is using this run" in err
    finally:
        process.kill()
        process.communicate()


def test_a_full_disk_ends_with_one_line_and_keeps_the_checkpoints(cli, file, tmp_path, monkeypatch):
    """`os.fsync` fails as on a full disk, from the second checkpoint on."""
    import errno
    import os

    real, committed = os.fsync, tmp_path / "run" / "checkpoints"

    def fsync(handle):
        if len(list(committed.glob("step-*"))) >= 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    code, _, err = cli("train", file, "-o", tmp_path / "run")
    assert code == 2
    assert "the disk is full; nothing was changed. Free some space." in err
    assert len(err.strip().splitlines()) == 1
    monkeypatch.setattr(os, "fsync", real)
    assert cli("resume", tmp_path / "run")[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("plan.recipe=3", "plan.recipe"),
        ("plan.recipe=larg", "'larg' is no recipe"),
        ('data.validation="nowhere.jsonl"', "nowhere.jsonl: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan", "compare", "advise"])
def test_a_mistake_in_the_file_is_told_before_anything_heavy_is_loaded(file, tmp_path, command, change, said):
    output = [] if command == "plan" else ["--output", tmp_path / "out"]
    _told_at_once([command, file, "--set", change, *output], said)


def _told_at_once(command, said):
    script = (
        "import sys\nfrom frostline.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script, *command], text=True, capture_output=True)
    assert told.returncode == 2
    assert said in told.stderr
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("command", ["show", "evaluate", "predict", "embed", "resume"])
def test_a_model_that_is_not_there_is_told_before_anything_heavy_is_loaded(file, tmp_path, command):
    more = {"evaluate": [file], "predict": [file, "-o", "x"], "embed": [file, "-o", "x"]}.get(command, [])
    _told_at_once([command, tmp_path / "nowhere", *more], "nowhere: no such folder")


def test_a_folder_without_a_run_is_told_before_anything_heavy_is_loaded(tmp_path):
    _told_at_once(["resume", tmp_path], "holds no config.toml, so there is no run to go on with")


def test_a_file_that_is_not_there_is_told_before_anything_heavy_is_loaded(trained):
    _told_at_once(["predict", trained, "nowhere.csv", "-o", "x.csv"], "nowhere.csv: no such file")


@pytest.mark.parametrize(
    ("command", "output", "said"),
    [
        ("predict", "out.txt", "out.txt: cannot tell the format from the name"),
        ("embed", "out.npz", "out.npz: not a format of embeddings"),
        ("embed", "out.txt", "Or .npy: one matrix of float32"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_anything_heavy_is_loaded(
    trained, toy, command, output, said
):
    _told_at_once([command, trained, toy / "train.jsonl", "-o", output], said)
