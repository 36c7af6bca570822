"""A study from its config to its report, with real worker processes."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tomli_w
from filelock import FileLock

import frostline as fl
from conftest import build_content, toy_rows, write_jsonl
from frostline.errors import ConfigError, RunError
from frostline.study import worker
from frostline.study.compare import load_comparison
from frostline.study.place import Place

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<script>document.title='owned'</script>"
PLAN = """
[[phases]]
name = "heads"
solver = "probe"
[[phases]]
name = "top"
top_layers = 1
epochs = 1
backbone_lr = 1e-3
frozen_heads = ["mood"]
"""


@pytest.fixture(scope="module")
def study(tiny, toy, tmp_path_factory):
    """A study of two scenarios, two seeds; a label and a text that would like to be code."""
    folder = tmp_path_factory.mktemp("study")
    content = build_content(tiny, toy)
    for seed, (name, number) in enumerate({"train": 240, "validation": 60, "test": 60}.items()):
        rows = [row | {"mood": row["mood"].replace("bad", EVIL)} for row in toy_rows(number, seed=seed)]
        rows[0]["text"] = f"{EVIL} {rows[0]['text']}"
        content["data"][name] = str(write_jsonl(folder / f"{name}.jsonl", rows))
    (folder / "short.toml").write_text(PLAN)
    shown = []
    found = fl.compare(
        content,
        output=folder / "out",
        scenarios=["features", str(folder / "short.toml")],
        seeds=2,
        show=shown.append,
    )
    return content, folder, found, shown


def test_every_scenario_is_there_with_its_seeds(study):
    _, _, found, shown = study
    seeds = {one["name"]: one["seeds"] for one in found.content["scenarios"]}
    assert seeds == {"features": [0], "short": [0, 1]}
    assert sum(event["event"] == "scenario" for event in shown) == 3
    assert found.content["split"] == "test" and not found.content["failures"]


def test_scores_are_those_of_the_runs(study):
    _, folder, found, _ = study
    for one in found.content["scenarios"]:
        place = folder / "out" / "scenarios" / one["name"].replace(":", "-")
        scores = [
            json.loads((place / f"seed-{s}/report.json").read_text())["test"]["score"] for s in one["seeds"]
        ]
        assert one["each"] == scores
        assert one["interval"][0] <= one["score"] <= one["interval"][1]


def test_the_yardstick_differs_from_itself_by_nothing(study):
    content = study[2].content
    own = next(one for one in content["scenarios"] if one["name"] == content["yardstick"])
    assert own["change"] == 0 and own["change_interval"] == [0, 0]


def test_seeds_share_their_rows(study):
    _, folder, _, _ = study
    base = (folder / "out" / "base.toml").read_text()
    assert "split_seed = 0" in base


def test_drift_and_leak_are_measured(study):
    by_name = {one["name"]: one for one in study[2].content["scenarios"]}
    assert by_name["features"]["drift"]["is_identical"]
    assert not by_name["short"]["drift"]["is_identical"]
    assert by_name["short"]["leak"].keys() == {"mood"} and not by_name["features"]["leak"]


def test_the_recommendation_names_a_scenario(study):
    _, _, found, _ = study
    assert found.recommendation in {one["name"] for one in found.content["scenarios"]}
    assert "240" not in found.content["recommendation"]["uncertainty"]
    assert "60 validation rows" in found.content["recommendation"]["uncertainty"]


def test_the_command_of_a_row_makes_the_same_run(study, tmp_path):
    _, _, found, _ = study
    one = next(one for one in found.content["scenarios"] if one["name"] == "short")
    file = one["command"].split()[2]
    run = fl.train(file, output=tmp_path / "again")
    assert run.report["test"]["score"] == one["each"][0]


def test_the_report_needs_nothing_and_runs_nothing(study):
    _, folder, _, _ = study
    page = (folder / "out" / "report.html").read_text()
    assert len(page) < 5_000_000
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href)\s*=", page) and "http://" not in page and "https://" not in page
    assert "default-src 'none'" in page and "style=" not in page
    assert page.count("<svg") > 10


@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
def test_the_report_opens_in_a_browser_and_fetches_nothing(study, tmp_path):
    page, log = study[1] / "out" / "report.html", tmp_path / "net.json"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    command += [f"--log-net-log={log}", "--net-log-capture-mode=Everything", "--dump-dom", page.as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<title>Which plan: " in seen.stdout, "a script in a label changed the title"
    assert "Refused to apply" not in seen.stderr
    assert seen.stdout.count("<svg") > 10 and seen.stdout.count("<circle") > 10
    askers = set(re.findall(r'"initiator":"([^"]*)"', log.read_text(errors="replace")))
    assert askers <= {"not an origin"}, (
        "the page asked for something; the browser's own requests have no origin"
    )


def test_a_finished_study_is_only_put_together_again(study):
    content, folder, _, _ = study
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "scenarios").rglob("report.json")}
    again = fl.compare(
        content, output=folder / "out", scenarios=["features", str(folder / "short.toml")], seeds=2
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {one["name"] for one in again.content["scenarios"]} == {"features", "short"}
    assert load_comparison(folder / "out").content == again.content


def test_another_config_or_other_data_is_refused(study):
    content, folder, _, _ = study
    other = json.loads(json.dumps(content))
    other["train"]["batch_size"] = 16
    with pytest.raises(RunError, match="differs in training settings"):
        fl.compare(other, output=folder / "out", scenarios=["features"])
    other = json.loads(json.dumps(content))
    other["data"]["train"] = str(write_jsonl(folder / "less.jsonl", toy_rows(100, seed=9)))
    other["data"]["validation"] = other["data"]["test"] = other["data"]["train"]
    with pytest.raises(RunError, match="differs in data"):
        fl.compare(other, output=folder / "out", scenarios=["features"])


def test_a_plan_of_the_same_name_is_refused(study):
    content, folder, _, _ = study
    changed = folder / "other" / "short.toml"
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(PLAN.replace("1e-3", "1e-4"))
    with pytest.raises(RunError, match="with another plan"):
        fl.compare(content, output=folder / "out", scenarios=[str(changed)])


def test_strangers_in_the_folder_are_left_alone(content, tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(RunError, match="no study's"):
        fl.compare(content, output=tmp_path, scenarios=["features"], overwrite=True)
    assert (tmp_path / "thesis.doc").read_text() == "years of work"


def test_a_mistake_leaves_an_earlier_study_where_it_is(study, tmp_path):
    content, folder, _, _ = study
    with pytest.raises(ConfigError, match="is no recipe"):
        fl.compare(content, output=folder / "out", scenarios=["nothing"], overwrite=True)
    assert (folder / "out" / "compare.json").is_file()


def test_a_model_that_the_study_starts_from_is_not_written_over(study):
    content, folder, _, _ = study
    inside = folder / "out" / "scenarios" / "features" / "seed-0" / "model"
    with pytest.raises(RunError, match="which lies in it"):
        fl.compare(
            content | {"model": {"backbone": str(inside)}},
            output=folder / "out",
            scenarios=["features"],
            overwrite=True,
        )
    assert inside.is_dir()


def test_a_study_that_was_killed_at_its_start_begins_again(content, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    for overwrite in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr("frostline.study.place.thinned", killed)
            with pytest.raises(KeyboardInterrupt):
                fl.compare(content, output=out, scenarios=["features"], overwrite=overwrite)
        assert (out / "base.toml").is_file() and not (out / "probe.json").is_file()
        assert fl.compare(content, output=out, scenarios=["features"]).recommendation == "features"


def test_few_validation_texts_are_topped_up_for_the_drift(content, tmp_path):
    content["data"]["validation"] = str(write_jsonl(tmp_path / "few.jsonl", toy_rows(12, seed=5)))
    found = fl.compare(content, output=tmp_path / "out", scenarios=["features"])
    assert found.content["scenarios"][0]["drift"]["num_texts"] == 252


def test_a_test_file_without_labels_leaves_the_comparison_to_validation(content, tmp_path):
    rows = [{"text": row["text"]} for row in toy_rows(30, seed=5)]
    content["data"]["test"] = str(write_jsonl(tmp_path / "unlabelled.jsonl", rows))
    found = fl.compare(content, output=tmp_path / "out", scenarios=["features"])
    assert found.content["split"] == "validation" and found.content["scenarios"][0]["score"] > 0.5


def test_modules_in_the_working_directory_are_not_imported(content, tmp_path, monkeypatch):
    """A data folder may hold a json.py; `python -m` would import it."""
    (tmp_path / "json.py").write_text("raise SystemExit('code of a stranger ran')")
    monkeypatch.chdir(tmp_path)
    found = fl.compare(content, output=tmp_path / "out", scenarios=["features"])
    assert not found.content["failures"]


def test_changes_of_a_plan_that_is_not_looked_at_are_said(content, tmp_path):
    shown = []
    content["plan"] = {"recipe": "heads", "epochs": 2}
    fl.compare(content, output=tmp_path / "out", scenarios=["features"], show=shown.append)
    said = [event["message"] for event in shown if event["event"] == "warning"]
    assert any(message.startswith("plan.epochs: not looked at") for message in said)


def test_a_worker_whose_parent_is_gone_goes_on_to_its_commit(monkeypatch):
    class Gone:
        def write(self, _):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    worker._Teller()({"event": "progress", "done": 1})


def test_torchrun_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        fl.compare(content, output=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 0}, "--seeds"),
        ({"scenarios": ["features"], "yardstick": "feature"}, "--yardstick feature.*Did you mean 'features'"),
        ({"scenarios": ["nothing"]}, "is no recipe"),
    ],
)
def test_bad_options_are_refused_before_training(content, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        fl.compare(content, output=tmp_path / "out", **options)
    assert not list((tmp_path).rglob("report.json"))


def test_a_plan_that_does_not_fit_is_refused_before_training(content, tmp_path):
    (tmp_path / "deep.toml").write_text("[[phases]]\ntop_layers = 9\nepochs = 1\n")
    with pytest.raises(ConfigError, match="scenario deep: plan.phases"):
        fl.compare(content, output=tmp_path / "out", scenarios=["features", str(tmp_path / "deep.toml")])


def test_a_failed_scenario_ends_no_other(content, tmp_path, monkeypatch):
    """A file lies where the folder of a run should be."""
    in_the_way = tmp_path / "out" / "scenarios" / "heads" / "seed-0"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no folder")
    monkeypatch.setattr(Place, "check_free", lambda self: None)
    found = fl.compare(content, output=tmp_path / "out", scenarios=["features", "heads"])
    assert [one["name"] for one in found.content["scenarios"]] == ["features"]
    assert "cannot be the folder of a run" in found.content["failures"]["heads"]
    assert "heads failed" in (tmp_path / "out" / "report.html").read_text()


def test_a_killed_study_goes_on_without_repeating(content, tmp_path):
    """The parent is killed: its worker stops by itself, and the finished run stays."""
    config = tmp_path / "study.toml"
    content["plan"] = {"phases": [{"name": "long", "top_layers": 1, "epochs": 4000, "backbone_lr": 1e-4}]}
    config.write_text(tomli_w.dumps(content))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "frostline", "compare", str(config), "-o", str(out)]
    command += ["-s", "features", "-s", "own"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = out / "scenarios" / "own" / "seed-0" / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and '"steps"' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = out / "scenarios" / "features" / "seed-0" / "report.json"
    finished_at = done.stat().st_mtime_ns
    with FileLock(log.parent / ".lock", timeout=60):  # free once the worker has stopped by itself
        assert list((log.parent / "checkpoints").glob("step-*")), "the stop was committed"
    ends = subprocess.run(command[:-4] + ["-s", "features"], capture_output=True, text=True, timeout=120)
    assert ends.returncode == 0, ends.stderr
    assert done.stat().st_mtime_ns == finished_at
