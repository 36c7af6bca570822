"""frostline against what people would use instead, in alternation on the same rows of `opinions`.

pip install accelerate setfit finetuning-scheduler       beside frostline's own requirements
python benchmarks/peers.py                               every piece of work, five rounds: hours without bf16
python benchmarks/peers.py --rows 4000 --rounds 3 --work heads top-layers

Each contender runs in a process of its own, so that none warms up for another; one whose package is missing
is left out. Seconds are those of training with its evaluations (or of embedding); loading the model and
reading the file are left out for all. The score is the mean macro-F1 of both tasks on the validation split,
so that speed is never bought with quality. Shares of the limit are of the measured rate of bf16 matrix
products, one on each core, and of operations that nobody can leave out: no padding, no evaluations, frozen
layers once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

from contenders import CONTENDERS, NEEDS
from work import PHASES, WORK, Result, with_share

_SHARE_OF_BEST, _REFERENCE = 0.99, "Trainer, tuned"
# What libraries take by themselves, for those who would not have imported frostline: it sets other numbers.
_DEFAULTS = {
    "GOMP_SPINCOUNT": "300000",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
    "LRU_CACHE_CAPACITY": "1024",
}


def contenders_of(work: str, asked: list[str]) -> list[str]:
    """Who does a piece of work, is asked for and can be run here, frostline first."""
    names = [name for name, (works, _) in CONTENDERS.items() if work in works]
    names = [name for name in names if name == "frostline" or name in asked]
    return [name for name in names if find_spec(NEEDS.get(name, "frostline"))]


def measure(name: str, work: str, rows: int | None) -> Result:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--single", name, "--work", work, "--rows", str(rows or 0)]
    usual = {} if name == "frostline" else _DEFAULTS
    given = os.environ | usual | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(command, env=given, stdout=subprocess.PIPE, check=True)
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def run_single(name: str, work: str, rows: int | None) -> None:
    """Prints the figures of one run, for the process that asked for them."""
    result = CONTENDERS[name][1](work, rows)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if work in PHASES and work != "to-score":  # there, everyone takes other epochs
        result = with_share(result, rows, phases=PHASES[work])
    print(json.dumps(result))


def seconds_to(score: float, result: Result) -> float:
    """When a run first scored as much; infinity where it never did."""
    return next((seconds for seconds, reached in result["track"] if reached >= score), math.inf)


def compare(work: str, names: list[str], rows: int | None, rounds: int) -> None:
    """Prints a row a contender: seconds, how many times frostline is as fast, memory, score."""
    found: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(measure(name, work, rows))
    if work == "to-score":
        if _REFERENCE not in names:
            return print(f"to-score needs '{_REFERENCE}', which is not here or not asked for")
        aims = [_SHARE_OF_BEST * max(s for _, s in result["track"]) for result in found[_REFERENCE]]
        for results in found.values():
            for aim, result in zip(aims, results, strict=True):
                result["seconds"], result["score"] = seconds_to(aim, result), aim
    ours = [result["seconds"] for result in found["frostline"]]
    for name in names:
        seconds = [result["seconds"] for result in found[name]]
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        cells = [
            work, name, f"{statistics.median(seconds):.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{max(result['peak_mib'] for result in found[name]):.0f}",
            *_score_and_share(found[name]),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def _score_and_share(results: list[Result]) -> tuple[str, str]:
    score = statistics.median(result["score"] for result in results)
    shares = [result["share_of_limit"] for result in results if "share_of_limit" in result]
    passes = [result["pass_share"] for result in results if "pass_share" in result]
    alone = f", the pass alone {statistics.median(passes):.0%}" if passes else ""
    share = f"{statistics.median(shares):.0%}{alone}" if shares else ""
    return "" if math.isnan(score) else f"{score:.3f}", share


def main() -> None:
    """Compares, or runs a single contender and prints its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--rows", type=int, default=0, help="for training, validation in proportion; 0: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--single", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = options.rows or None
    if options.single:
        return run_single(options.single, options.work[0], rows)
    import torch

    from frostline.model.device import choose_precision

    reason = choose_precision("auto", device=torch.device("cpu"), width=384).reason
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{reason}; {time.strftime('%Y-%m-%d')}")
    print(f"{options.rows or 'all'} rows for training, medians of {options.rounds} rounds\n")
    times = "frostline is so many times as fast (range)"
    print(f"| work | contender | seconds | {times} | peak MiB | score | of the limit |")
    print("|---|---|---|---|---|---|---|")
    for work in options.work:
        compare(work, contenders_of(work, options.contenders), rows, options.rounds)


if __name__ == "__main__":
    main()
