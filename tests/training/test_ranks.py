"""Several processes train the model that one would; a death ends them all; the run goes on with another number."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from test_losses import HEADS, parts  # noqa: F401  a fixture

import frostline as fl
from conftest import events, weights
from frostline.errors import ConfigError
from frostline.training.losses import add_gradients
from frostline.training.ranks import Ranks


def launch(number, *arguments, **environment):
    """The command in so many processes, as a person starts it."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}",
        "-m", "frostline", *map(str, arguments),
    ]  # fmt: skip
    variables = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | environment
    return subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def file(content, tmp_path):
    """Heads solved, heads descending, then a phase that thaws, without dropout: what two processes can repeat."""
    thaw = {
        "name": "thaw", "top_layers": 1, "epochs": 3, "backbone_lr": 1e-4, "head_lr": 1e-4,
        "evaluations_per_epoch": 2, "until": {"patience": 1, "min_delta": 0.5}, "thaw": {"to": 3},
        "frozen_heads": ["mood"], "protect": "distill",
    }  # fmt: skip
    content["plan"] = {"phases": [{"solver": "probe"}, {"epochs": 1, "head_lr": 1e-3}, thaw]}
    content["model"]["dropout"] = 0.0
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for path in Path(content["model"]["backbone"]).iterdir():
        (encoder / path.name).write_bytes(path.read_bytes())
    config = json.loads((encoder / "config.json").read_text())
    zero = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(config | zero))
    content["model"]["backbone"] = str(encoder)
    content["train"] |= {"activations": "always", "device": "cpu"}
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def test_two_processes_learn_what_one_learns_to_rounding(file, tmp_path):
    both = launch(2, "train", file, "-o", tmp_path / "two", "--json")
    one = fl.train(file, output=tmp_path / "one")
    out, err = both.communicate(timeout=300)
    assert both.returncode == 0, err
    assert json.loads(out)["phases"][2]["steps"] == one.report["phases"][2]["steps"] > 0
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5
    said = [[e["event"] for e in events(tmp_path / name)] for name in ("one", "two")]
    assert said[0] == said[1]


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def workers(process):
    """Process ids of the launcher's children."""
    return [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_a_process_that_dies_ends_the_run_and_one_process_goes_on(file, tmp_path):
    folder = tmp_path / "run"
    changes = ["--set", "train.save_seconds=0.01", "--set", "plan.phases.1.epochs=400"]
    process = launch(2, "train", file, "-o", folder, *changes)
    wait_for(lambda: any((folder / "checkpoints").glob("step-000000[1-9]*")), process)
    begin = time.monotonic()
    os.kill(workers(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - begin < 60
    assert "SIGKILL" in err or "Signal 9" in err
    said = []

    def stop(event):
        said.append(event)
        if event["event"] == "progress":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(fl.Interrupted):
        fl.resume(folder, show=stop)
    notes = [event["message"] for event in said if event["event"] == "warning"]
    assert any("the number of processes changed" in note for note in notes)


def test_the_shares_of_a_step_make_its_gradient(parts):  # noqa: F811
    model, activations, split = parts
    model.eval()

    def gradients(ranks):
        model.zero_grad(set_to_none=True)
        add_gradients(model, activations, split, [np.arange(7), np.arange(7, 12)], heads=HEADS, ranks=ranks)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    class Silent(Ranks):
        def add_up(self, tensors):
            pass

    whole = gradients(None)
    shares = [gradients(Silent(rank, 3)) for rank in range(3)]
    assert all(share.keys() == whole.keys() for share in shares)
    for name, expected in whole.items():
        assert torch.allclose(sum(share[name] for share in shares), expected, atol=1e-6), name


def test_a_head_without_a_label_in_the_step_gets_no_gradient_in_any_process(parts):  # noqa: F811
    model, activations, split = parts
    split.labels["mood"][:] = np.nan

    class Silent(Ranks):
        def add_up(self, tensors):
            pass

    for rank in range(2):
        model.zero_grad(set_to_none=True)
        add_gradients(model, activations, split, [np.arange(12)], heads=HEADS, ranks=Silent(rank, 2))
        assert model.head("mood").linear.weight.grad is None
        assert model.head("topic").linear.weight.grad is not None


def test_one_process_adds_nothing_and_tells_itself():
    ranks, tensor = Ranks(), torch.ones(2)
    ranks.add_up([tensor])
    ranks.wait()
    assert ranks.tell({"a": 1}) == {"a": 1}
    assert tensor.tolist() == [1, 1]
    assert ranks.is_first
    assert not ranks.is_any(False, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("started", "gpus", "is_refused"), [("2", 1, True), ("2", 2, False), ("1", 1, False)]
)
def test_processes_do_not_share_a_gpu(monkeypatch, started, gpus, is_refused):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", started)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    ranks = Ranks(0, 2)
    ranks.check_device(torch.device("cpu"))
    if is_refused:
        with pytest.raises(ConfigError, match=r"2 processes .* 1 GPU.*device = 'cpu'"):
            ranks.check_device(torch.device("cuda"))
    else:
        ranks.check_device(torch.device("cuda"))


def test_a_gpu_for_all_is_refused_before_a_run_is_replaced(content, tmp_path, monkeypatch):
    run = fl.train(content, output=tmp_path / "run")
    report = (run.folder / "report.json").read_bytes()
    monkeypatch.setattr("frostline.run.joined", lambda: nullcontext(Ranks(0, 2)))
    monkeypatch.setattr("frostline.run.choose_device", lambda asked: torch.device("cuda:0"))
    with pytest.raises(ConfigError, match="cuda:0 is one GPU for all 2 processes"):
        fl.train(content, output=run.folder, overwrite=True)
    assert (run.folder / "report.json").read_bytes() == report
