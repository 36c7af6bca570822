"""A run's folder takes nothing that is not a run's, and gives nothing away."""

import shutil

import pytest

import frostline as fl
from frostline.errors import CheckpointError, Interrupted, RunError
from frostline.folder import locked


def test_files_that_are_no_runs_are_kept_whatever_is_asked(content, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("mine")
    (tmp_path / ".env.local").write_text("mine too")
    for overwrite in (False, True):
        with pytest.raises(
            RunError, match=r"holds files that do not belong to a run \(model\). Give a new or an empty"
        ):
            fl.train(content, output=tmp_path, overwrite=overwrite)
    assert (tmp_path / "model" / "weights.txt").read_text() == "mine"
    assert (tmp_path / ".env.local").read_text() == "mine too"


def test_notes_beside_a_run_keep_it_from_being_replaced(content, tmp_path):
    run = fl.train(content, output=tmp_path / "run")
    (run.folder / "notes.md").write_text("do not lose this")
    with pytest.raises(RunError, match=r"belong to a run \(notes.md\)"):
        fl.train(content, output=run.folder, overwrite=True)


def test_what_a_kill_left_half_written_is_cleared_and_hidden_files_stay(content, tmp_path):
    run = fl.train(content, output=tmp_path / "run")
    half = [run.folder / ".report.json.x1", run.folder / "checkpoints" / ".step-00000001-phase-00.x2"]
    (run.folder / "report.json").unlink()
    half[0].write_text("{")
    half[1].mkdir()
    (run.folder / ".gitignore").write_text("*")
    fl.resume(run.folder)
    assert not any(path.exists() for path in half)
    assert (run.folder / ".gitignore").exists()


def test_a_folder_that_is_removed_under_a_run_does_not_hide_how_it_ended(tmp_path):
    def run():
        with locked(tmp_path / "run"):
            shutil.rmtree(tmp_path / "run")
            raise Interrupted

    with pytest.raises(Interrupted):
        run()


def test_a_file_in_the_way_is_refused(content, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="cannot be the folder of a run"):
        fl.train(content, output=tmp_path / "run")


def test_a_log_that_was_cut_is_refused_at_resume(content, tmp_path):
    run = fl.train(content, output=tmp_path / "run")
    (run.folder / "report.json").unlink()
    (run.folder / "events.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="events.jsonl: is shorter than when the checkpoint was taken"):
        fl.resume(run.folder)


def test_other_pretrained_weights_are_refused_at_resume(content, tmp_path):
    import shutil

    from conftest import CONFIGS, save_encoder

    folder = tmp_path / "encoder"
    shutil.copytree(content["model"]["backbone"], folder)
    content["model"]["backbone"] = str(folder)
    run = fl.train(content, output=tmp_path / "run")
    (run.folder / "report.json").unlink()
    save_encoder(folder, CONFIGS["bert"], seed=1)
    with pytest.raises(CheckpointError, match="the pretrained weights changed since"):
        fl.resume(run.folder)


def test_a_run_may_be_moved_and_resumed_from_anywhere(content, tmp_path, monkeypatch):
    run = fl.train(content, output=tmp_path / "run")
    (run.folder / "report.json").unlink()
    run.folder.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    assert fl.resume(tmp_path / "moved").report["test"] == run.report["test"]
