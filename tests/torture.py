"""Kill a real run with SIGKILL at random moments, go on, and compare with the run that was never killed.

    python tests/torture.py --kills 300 --seed 1

The command runs in a child of this process, which has imported everything already, so that a kill costs a
second and not ten. Exits 1 at the first difference.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import tomli_w
import torch

from conftest import CONFIGS, build_content, events, save_encoder, weights, write_toy
from frostline.cli import main
from frostline.training import tables
from frostline.training.checkpoint import load_newest
from frostline.training.updates import Updates

torch.set_num_threads(1)
tables._FEWEST_NUMBERS = 1  # the tables of the tiny encoder too


def start(*arguments) -> int:
    """Process id of a child that runs the command."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.argv = ["frostline", *map(str, arguments)]
        main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        os._exit(code)


def build_file(folder: Path) -> Path:
    """A run's file: heads solved, heads descending with one frozen, a phase that thaws twice with a frozen head
    distilled, and one that gives it stages of its own."""
    thaw = {
        "name": "thaw", "top_layers": 1, "backbone_lr": 1e-2, "head_lr": 1e-2, "epochs": 6,
        "evaluations_per_epoch": 2, "until": {"patience": 1, "min_delta": 0.5}, "thaw": {"to": 3},
        "frozen_heads": ["mood"], "protect": "distill",
    }  # fmt: skip
    fork = {"name": "fork", "top_layers": 1, "frozen_heads": ["mood"], "protect": "fork", "epochs": 2}
    content = build_content(save_encoder(folder / "encoder", CONFIGS["bert"]), write_toy(folder))
    content["plan"] = {"phases": [{"solver": "probe"}, {"epochs": 3, "frozen_heads": ["mood"]}, thaw, fork]}
    content["train"] |= {"save_seconds": 0.05, "activations": "auto"}
    file = folder / "run.toml"
    file.write_text(tomli_w.dumps(content))
    return file


def differences(first: Path, second: Path) -> list[str]:
    """What the two runs do not have alike, to the last bit."""
    found = []
    last = [load_newest(run / "checkpoints")[0] for run in (first, second)]
    assert last[0].moments
    parts = [kept.moments | kept.references for kept in last]
    tensors = [weights(run) | kept for run, kept in zip((first, second), parts, strict=True)]
    if tensors[0].keys() != tensors[1].keys():
        found.append("names of weights or moments")
    elif not all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0]):
        found.append("weights or moments")
    if events(first) != events(second):
        found.append("the log")
    leftovers = [path for path in second.rglob(".*") if path.name != ".lock"]
    return found + [f"left behind: {path}" for path in leftovers]


def torture(kills: int, seed: int) -> int:
    """Kills until there were enough; the number of runs that came to their end."""
    dice, done, runs = random.Random(seed), 0, 0
    Updates.forget = lambda self: None  # the last checkpoint of a run then has its moments
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, unbroken = build_file(folder), folder / "unbroken"
        begin = time.monotonic()
        assert os.waitpid(start("train", file, "-o", unbroken), 0)[1] == 0, "the unbroken run failed"
        length = time.monotonic() - begin
        while done < kills:
            runs += 1
            broken = folder / f"run-{runs}"
            for patience in range(20):
                is_there = (broken / "config.toml").is_file()
                child = start(
                    *(("resume", broken) if is_there else ("train", file, "-o", broken, "--overwrite"))
                )
                if patience < 15 and done < kills:
                    time.sleep(dice.uniform(0, length))
                    os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                if os.WIFSIGNALED(status):
                    done += 1
                    continue
                assert status == 0, (
                    f"run {runs}: exit code {os.waitstatus_to_exitcode(status)} after {done} kills"
                )
                break
            found = differences(unbroken, broken)
            assert not found, f"run {runs} after {done} kills differs: {', '.join(found)}"
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.kills} kills over {torture(options.kills, options.seed)} runs: every one ended the same")
