"""Kill a real comparison with SIGKILL at random moments, go on at once, and compare with one never killed.

    python tests/torture_study.py --kills 10 --seed 1

Three plans, three seeds. Exits 1 where a finished run was repeated, or anything came out otherwise.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from difflib import unified_diff
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import tomli_w

from conftest import CONFIGS, build_content, save_encoder, write_toy
from torture import differences

# What is measured by a clock or by the system, or names the folder: no two studies have it alike.
MEASURED = {
    "seconds", "seconds_estimated", "peak_memory_bytes", "prediction_seconds_per_1000_texts", "recommendation",
    "command",
}  # fmt: skip


def build_file(folder: Path) -> Path:
    """A study's file; its own plan thaws, with one head frozen."""
    thaw = {
        "top_layers": 1, "backbone_lr": 1e-2, "head_lr": 1e-2, "epochs": 6, "frozen_heads": ["mood"],
        "until": {"patience": 1, "min_delta": 0.5}, "thaw": {"to": 3}, "evaluations_per_epoch": 2,
    }  # fmt: skip
    content = build_content(save_encoder(folder / "encoder", CONFIGS["bert"]), write_toy(folder))
    content["plan"] = {"phases": [{"solver": "probe"}, thaw]}
    content["train"] |= {"save_seconds": 0.05, "activations": "always"}
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps(content))
    return file


def start(file: Path, out: Path) -> subprocess.Popen[str]:
    """The command, running."""
    command = [sys.executable, "-m", "frostline", "compare", str(file), "-o", str(out), "--seeds", "3"]
    for scenario in ("features", "heads", "own"):
        command += ["-s", scenario]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(out: Path) -> dict[Path, int]:
    """When each finished run was finished."""
    return {path: path.stat().st_mtime_ns for path in out.glob("scenarios/*/seed-*/report.json")}


def unmeasured(content: Any) -> Any:
    """What a study says, but for seconds and memory, and the advice that weighs them."""
    if isinstance(content, dict):
        return {key: unmeasured(value) for key, value in content.items() if key not in MEASURED}
    return [unmeasured(one) for one in content] if isinstance(content, list) else content


def torture(kills: int, seed: int) -> int:
    """Kills until there were enough; the number of studies that came to their end."""
    dice, done, studies = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, unbroken = build_file(folder), folder / "unbroken"
        begin = time.monotonic()
        _, said = (process := start(file, unbroken)).communicate()
        assert process.returncode == 0, said
        length = time.monotonic() - begin
        print(f"unbroken: {length:.0f} s, {len(finished(unbroken))} runs", flush=True)
        while done < kills:
            studies += 1
            out = folder / f"study-{studies}"
            while True:
                before = finished(out)
                process = start(file, out)
                if done < kills:
                    time.sleep(dice.uniform(0, 0.6 * length))
                    process.kill()
                _, said = process.communicate()
                after = finished(out)
                assert before.items() <= after.items(), "a finished run was repeated"
                if process.returncode == 0:
                    break
                assert process.returncode < 0, f"after {done} kills: {said}"
                done += 1
                print(f"kill {done}: {len(after)} runs were finished", flush=True)
            _compare(unbroken, out)
    return studies


def _compare(first: Path, second: Path) -> None:
    """Asserts that every run and what the study says of them are the same."""
    for path in finished(first):
        run = path.parent.relative_to(first)
        found = differences(first / run, second / run)
        assert not found, f"{run} differs: {', '.join(found)}"
    said = [unmeasured(json.loads((out / "compare.json").read_text())) for out in (first, second)]
    for content in said:  # cheapest first by an estimate that a clock made
        content["scenarios"].sort(key=lambda scenario: scenario["name"])
    lines = [json.dumps(content, indent=1).splitlines() for content in said]
    assert not (found := list(unified_diff(*lines, lineterm="", n=2))), "\n".join(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    studies = torture(options.kills, options.seed)
    print(f"{options.kills} kills over {studies} studies: no finished run repeated, every one ended the same")
