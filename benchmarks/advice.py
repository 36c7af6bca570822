"""What advice is worth: the plan that it puts first, against the best of a sweep, over several data sets.

python benchmarks/advice.py                                     what opinions alone gives
python benchmarks/advice.py --topics FOLDER                     also news stories by topic, alone and mixed
python benchmarks/advice.py --topics FOLDER --fresh             three more data sets
python benchmarks/advice.py --situations "1,000 sentences"      one of them

Regret: mean of the tasks' main scores on validation, of the best plan of the sweep less that of the plan that
the advice put first. Studies stay in --folder; those that are finished are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import frostline as fl
from frostline.atomic import write_json

OPINIONS = Path(__file__).parents[1] / "examples" / "opinions"
PLANS = ("features", "heads", "top-layers", "gradual", "full")


def _opinions(rows: int | None = None, **tasks: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {name: str(OPINIONS / f"{name}.jsonl") for name in ("train", "validation")}
    data |= {"group": "group"} if rows is None else {"group": "group", "max_train_samples": rows}
    return {"data": data, "tasks": tasks or {"classification": {}, "sentiment": {}}}


def situations(topics: Path | None) -> dict[str, dict[str, Any]]:
    """Configs by name: those on which the constants of the advice were chosen first."""
    found = {
        "200 sentences": _opinions(200),
        "1,000 sentences": _opinions(1000),
        "2,000 ratings": _opinions(2000, rating={"kind": "regression"}),
        "opinions": _opinions(),
    }
    if topics:
        stories = str(topics / "train.jsonl.gz")
        both = {"train": [str(OPINIONS / "train.jsonl"), stories], "max_train_samples": 4000}
        found["topics"] = {"data": {"train": stories}, "tasks": {"topic": {}}}
        found["opinions and topics"] = {"data": both, "tasks": {"sentiment": {}, "topic": {}}}
    return found


def fresh_situations(topics: Path | None) -> dict[str, dict[str, Any]]:
    """Configs by name: others, of which the last constants were chosen too (docs/advise.md)."""
    found = {
        "500 sources": _opinions(500, classification={}),
        "4,000 sentiments": _opinions(4000, sentiment={}),
    }
    if topics:
        stories = {"train": str(topics / "train.jsonl.gz"), "max_train_samples": 1500}
        found["1,500 stories"] = {"data": stories, "tasks": {"topic": {}}}
    return found


def measure(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The advice, and what the plans gave."""
    place = folder / "advice.json"
    if not place.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(place, fl.advise(content).content())
    advice = json.loads(place.read_text("utf-8"))
    began = time.monotonic()
    study = fl.compare(content, output=folder / "study", scenarios=PLANS).content
    print(f"  sweep: {time.monotonic() - began:.0f} s", file=sys.stderr)
    plans = {one["name"]: one for one in study["scenarios"]}
    return {"advice": advice, "plans": plans}


def _line(name: str, found: dict[str, Any]) -> tuple[str, float]:
    promised = {plan["recipe"]: plan["score"] for plan in found["advice"]["plans"]}
    given = {plan: one["validation"] for plan, one in found["plans"].items()}
    first = found["advice"]["plans"][0]["recipe"]
    best = max(given, key=lambda plan: given[plan])
    regret = given[best] - given[first]
    seconds = sum(plan["seconds"] for plan in found["plans"].values())
    cells = [f"{plan} {promised.get(plan, float('nan')):.3f}/{given[plan]:.3f}" for plan in given]
    cost = f"{found['advice']['seconds']:.0f} s | {seconds:.0f} s"
    return f"| {name} | {first} | {best} | {regret:.3f} | {cost} | {', '.join(cells)} |", regret


def main() -> None:
    """Prints a row for each situation as soon as it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topics", type=Path, help="folder with train.jsonl.gz: text and topic")
    parser.add_argument("--situations", nargs="+")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/advice"))
    options = parser.parse_args()
    known = fresh_situations(options.topics) if options.fresh else situations(options.topics)
    if unknown := set(options.situations or ()) - known.keys():
        sys.exit(f"no situation {', '.join(sorted(unknown))}: {', '.join(known)}")
    print("| data | advised | best | regret | advice took | the sweep took | promised/given |")
    regrets = []
    for name in options.situations or known:
        line, regret = _line(name, measure(known[name], options.folder / name.replace(" ", "_")))
        regrets.append(regret)
        print(line, flush=True)
    print(f"regret: median {statistics.median(regrets):.3f}, most {max(regrets):.3f}")


if __name__ == "__main__":
    main()
