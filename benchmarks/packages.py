"""Debian's packages as a data set: what a package is for, from the line that describes it.

python benchmarks/packages.py FOLDER      on a Debian machine, after apt-get update

Writes train.jsonl and test.jsonl with some 55,000 and 5,000 rows: text, section (58 classes, some of a dozen
rows), role (11 classes, known of less than half of the rows; the first where a package has several), use (36
labels, several or none of them), size (a number: log10 of the kilobytes installed and 1) and source, by which
rows belong together. Figures in docs/experiments.md are of Debian 12.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SOURCES_FOR_ONE_HELD = 12


def _packages() -> Iterator[dict[str, str]]:
    """The fields of every package that apt knows."""
    shown = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    for paragraph in shown.split("\n\n"):
        lines = paragraph.replace("\n ", " ").splitlines()
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        if {"Description", "Section"} <= fields.keys():
            yield fields


def _row(fields: dict[str, str]) -> dict[str, Any]:
    tags = [tag.strip() for tag in fields.get("Tag", "").split(",")]
    roles = [tag.removeprefix("role::") for tag in tags if tag.startswith("role::")]
    uses = sorted(tag.removeprefix("use::") for tag in tags if tag.startswith("use::"))
    return {
        "text": fields["Description"].strip(),
        "section": fields["Section"].rpartition("/")[2],
        "role": roles[0] if roles else None,
        "use": uses if any(tags) else None,
        "size": round(math.log10(1 + int(fields.get("Installed-Size", 0))), 3),
        "source": fields.get("Source", fields["Package"]).split()[0],
    }


def write_packages(folder: Path) -> None:
    """Writes both files; a text that comes twice is taken once, and rows of one source stay together."""
    rows = list({row["text"]: row for row in map(_row, _packages())}.values())
    random.Random(0).shuffle(rows)
    sources = sorted({row["source"] for row in rows})
    random.Random(1).shuffle(sources)
    held = set(sources[: len(sources) // _SOURCES_FOR_ONE_HELD])
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        lines = [json.dumps(row) + "\n" for row in rows if (row["source"] in held) == (name == "test")]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
        print(f"{name}.jsonl: {len(lines)} rows")


def main() -> None:
    """Makes the data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    write_packages(parser.parse_args().folder)


if __name__ == "__main__":
    main()
