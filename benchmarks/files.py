"""`frostline predict` and `embed` on a large file: memory, and whether a killed run ends as an unbroken one.

python benchmarks/files.py MODEL                        64 MB against 512 MB, killed three times
python benchmarks/files.py MODEL --megabytes 64 2048    two gigabytes: over an hour on 2 cores

Rows are random sentences of `opinions` joined to about `--row-bytes`. Memory is the peak of what the process
has for itself, sampled; that of the smallest file stands for the model's own.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from growth import OPINIONS, watch

_FORMATS = {"predict": ".jsonl", "embed": ".npy"}


def write_file(path: Path, *, num_bytes: int, row_bytes: int) -> int:
    """A JSONL file of about so many bytes; the number of its rows."""
    sentences = [json.loads(line)["text"] for line in (OPINIONS / "train.jsonl").open(encoding="utf-8")]
    generator, written, rows = random.Random(0), 0, 0
    with path.open("w", encoding="utf-8") as stream:
        while written < num_bytes:
            parts, length = [generator.choice(sentences)], 0
            while length < row_bytes:
                parts.append(generator.choice(sentences))
                length += len(parts[-1]) + 1
            line = json.dumps({"number": rows, "text": " ".join(parts)}, ensure_ascii=False) + "\n"
            written += len(line.encode())
            rows += 1
            stream.write(line)
    return rows


def run(command: list[str], *, kill_after: float | None = None) -> tuple[float, float]:
    """Seconds, and peak of its own memory in MiB; killed after some seconds if it still runs then."""
    peaks = {"RssAnon": 0, "RssFile": 0}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    watching = threading.Thread(target=watch, args=(process, peaks))
    watching.start()
    try:
        status = process.wait(kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = 0
    watching.join()
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, peaks["RssAnon"] / 2**10


def measure(model: Path, megabytes: int, folder: Path, options: argparse.Namespace) -> None:
    """A row for an unbroken run, and one for a run that was killed."""
    given = folder / "given.jsonl"
    rows = write_file(given, num_bytes=megabytes * 10**6, row_bytes=options.row_bytes)
    for job in options.jobs:
        whole, broken = (folder / f"{name}{_FORMATS[job]}" for name in ("whole", "broken"))
        command = [sys.executable, "-m", "frostline", job, str(model), str(given), "--json", "-o"]
        seconds, memory = run([*command, str(whole)])
        print(f"| {job} | {megabytes} MB, {rows:,} rows | {seconds:.0f} s | {memory:.0f} MiB | |", flush=True)
        most, spent, generator = 0.0, 0.0, random.Random(megabytes)
        for kill in range(options.kills + 1):
            after = generator.uniform(0.1, 0.9) * seconds if kill < options.kills else None
            took, held = run([*command, str(broken)], kill_after=after)
            most, spent = max(most, held), spent + took
        same = "the same bytes" if filecmp.cmp(whole, broken, shallow=False) else "OTHER BYTES"
        print(f"| {job}, {options.kills} kills | | {spent:.0f} s | {most:.0f} MiB | {same} |", flush=True)
        whole.unlink()
        broken.unlink()


def main() -> None:
    """Prints two rows for each job and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--megabytes", nargs="+", type=int, default=[64, 512])
    parser.add_argument("--row-bytes", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", default=list(_FORMATS), choices=_FORMATS)
    options = parser.parse_args()
    print("| job | file | seconds | memory of its own | output |\n|---|---|---|---|---|")
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            measure(options.model, megabytes, Path(folder), options)


if __name__ == "__main__":
    main()
