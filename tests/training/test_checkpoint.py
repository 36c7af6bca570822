"""The writer of checkpoints under a full disk, a read-only folder, and a death at every one of its steps."""

import errno
import os
import random
import shutil

import pytest
import torch

from frostline import atomic
from frostline.errors import CheckpointError, RunError
from frostline.training import commits
from frostline.training.checkpoint import Checkpoint, load_newest, restore_weights, save_checkpoint
from frostline.training.settings import TrainSettings


def checkpoint(value):
    return Checkpoint(
        {"step": value}, {"w": torch.full((40,), float(value))}, {"w|step": torch.tensor(value)}
    )


def save(folder, value):
    save_checkpoint(folder / f"step-{value:08d}", checkpoint(value), keep_last=2)


def step_of(folder):
    newest, _ = load_newest(folder)
    assert torch.equal(newest.weights["w"], torch.full((40,), float(newest.state["step"])))
    return newest.state["step"]


def test_what_was_saved_is_loaded_and_old_ones_go(tmp_path):
    for value in (1, 2, 3):
        save(tmp_path, value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert step_of(tmp_path) == 3
    assert load_newest(tmp_path / "none") == (None, {})


class Death(BaseException):
    pass


def dying(monkeypatch, moment, how):
    """Lets the writer's `moment`-th flush or rename fail; returns a counter of those that happened."""
    count = [0]
    for name in ("fsync", "rename", "replace"):
        original = getattr(os, name)

        def step(*arguments, original=original):
            count[0] += 1
            if count[0] == moment:
                raise how
            return original(*arguments)

        monkeypatch.setattr(atomic.os, name, step)
    return count


def test_a_death_at_every_flush_and_rename_leaves_the_newest_or_the_one_before(monkeypatch, tmp_path):
    save(tmp_path / "plain", 1)
    with monkeypatch.context() as patch:
        points = dying(patch, -1, None)
        save(tmp_path / "plain", 2)
    assert points[0] > 8
    for moment in range(1, points[0] + 1):
        folder = tmp_path / f"at-{moment}"
        save(folder, 1)
        with monkeypatch.context() as patch:
            dying(patch, moment, Death())
            with pytest.raises(Death):
                save(folder, 2)
        assert step_of(folder) in {1, 2}
        save(folder, 3)
        assert step_of(folder) == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_old_checkpoint_and_says_so(monkeypatch, tmp_path, number):
    save(tmp_path, 1)
    for moment in range(1, 9):
        with monkeypatch.context() as patch:
            dying(patch, moment, OSError(number, "full"))
            with pytest.raises(RunError, match="the disk is full; nothing was changed"):
                save(tmp_path, 2)
        assert step_of(tmp_path) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_that_is_really_full_is_said(tmp_path):
    """Tensors larger than the file size limit: the kernel refuses the write itself."""
    import resource
    import signal

    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        big = Checkpoint({"step": 2}, {"w": torch.zeros(2**20)})
        with pytest.raises(RunError, match="the disk is full"):
            save_checkpoint(tmp_path / "step-00000002", big, keep_last=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert step_of(tmp_path) == 1


@pytest.mark.filterwarnings("ignore:This process")  # a fork beside torch's threads: the child only writes
def test_a_kill_in_the_middle_of_any_write_leaves_the_one_before(tmp_path):
    """The kernel kills the process at the byte at which a file grows beyond a limit."""
    import resource
    import signal

    def big(value):
        return Checkpoint(
            {"step": value, "note": "x" * 3000}, {"w": torch.full((40,), float(value)), "b": torch.zeros(9000)},
            {"m": torch.zeros(5000)}, {"w": torch.zeros(2000)}, {"r": torch.zeros(1000)},
        )  # fmt: skip

    save_checkpoint(tmp_path / "step-00000001", big(1), keep_last=2)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "step-00000001").iterdir())
    limits = sorted({size * part // 5 for size in sizes for part in range(5)})
    assert len(limits) > 20
    for limit in limits:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                save_checkpoint(tmp_path / "step-00000002", big(2), keep_last=2)
            finally:
                os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), limit
        assert step_of(tmp_path) == 1
    save_checkpoint(tmp_path / "step-00000002", big(2), keep_last=2)
    assert step_of(tmp_path) == 2


def test_checkpoints_are_spaced_by_time_and_by_what_they_cost(monkeypatch, tmp_path):
    clock = [0.0]
    monkeypatch.setattr(commits.time, "monotonic", lambda: clock[0])
    kept = commits.Commits(tmp_path, settings=TrainSettings(), fingerprint={})
    asked = commits.Commits(tmp_path, settings=TrainSettings(save_seconds=5), fingerprint={})
    for seconds, is_due in ((5, False), (119, False), (121, True)):
        clock[0] = seconds
        assert kept.is_due == is_due
        assert asked.is_due == (seconds > 5)
    kept._last_seconds = 9.0  # of a large model: 3 % of 300 s
    clock[0] = 299
    assert not kept.is_due
    clock[0] = 301
    assert kept.is_due


def test_every_flipped_or_cut_byte_is_detected(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = tmp_path / "step-00000002"
    generator = random.Random(0)
    whole = {path.name: path.read_bytes() for path in newest.iterdir()}
    for _ in range(1000):
        name = generator.choice(sorted(whole))
        data = bytearray(whole[name])
        place = generator.randrange(len(data))
        if generator.random() < 0.3:
            del data[place:]
        else:
            data[place] ^= 1 << generator.randrange(8)
        (newest / name).write_bytes(data)
        found, damaged = load_newest(tmp_path)
        changed_value = found.state["step"] == 2
        assert not changed_value or not damaged
        assert torch.equal(found.weights["w"], torch.full((40,), float(found.state["step"])))
        if name != "manifest.json":
            assert not changed_value
            assert "is damaged" in damaged[newest]
        (newest / name).write_bytes(whole[name])


def test_a_missing_file_is_detected(tmp_path):
    for value in (1, 2):
        save(tmp_path, value)
    (tmp_path / "step-00000002" / "optimizer.safetensors").unlink()
    assert step_of(tmp_path) == 1
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(CheckpointError, match="no checkpoint can be trusted"):
        load_newest(tmp_path)


def test_weights_of_another_model_are_refused():
    with pytest.raises(CheckpointError, match="'weight' does not fit this model"):
        restore_weights(torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match="'ghost' does not fit"):
        restore_weights(torch.nn.Linear(2, 2), {"ghost": torch.zeros(1)})
