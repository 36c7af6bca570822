"""Plans side by side on the opinions data, many seeds, judged by validation: how recipes got their rates.

python benchmarks/plans.py --rows 1000 --seeds 0 1 2
python benchmarks/plans.py --plans full gradual --seeds 0 1 2 --test      all rows; the test split too
python benchmarks/plans.py --rows 1000 --unseen 5000                      rows too that were not drawn
python benchmarks/plans.py --group leak --rows 1000 --seeds 0 1 2         what happens to a frozen head
python benchmarks/plans.py --topics FOLDER --rows 1000                    topic from files of its own
python benchmarks/plans.py --packages FOLDER --rows 6000 --group sure     what packages.py wrote; tested too

The best evaluation is kept, so a plan that is scored more often is scored better by chance: such plans are
to be compared by rows that they have not seen. Every finished run stays in --folder and is not repeated; one
that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

import frostline as fl
from frostline.data.read import iter_blocks
from frostline.data.splits import sample
from frostline.inference.predict import evaluate_file
from frostline.plan.recipes import recipes

OPINIONS = Path(__file__).parents[1] / "examples" / "opinions"
SOLVED = {"name": "heads", "solver": "probe"}
SOFT = SOLVED | {"temperature": 10.0}
AGAIN = SOLVED | {"name": "heads again"}
DECAY = {"head_lr": 1e-3, "layer_decay": 0.9}


def everything(rate: float, epochs: int, **more: Any) -> dict[str, Any]:
    """A phase in which every layer learns."""
    return {"name": "all", "top_layers": "all", "backbone_lr": rate, "epochs": epochs} | DECAY | more


def top_two(rate: float, epochs: int, **more: Any) -> dict[str, Any]:
    """A phase in which the top two layers learn."""
    return {"name": "top", "top_layers": 2, "backbone_lr": rate, "epochs": epochs} | DECAY | more


def thawing(rate: float, epochs: int, layers: int, patience: int, **more: Any) -> dict[str, Any]:
    """A phase in which the top two layers learn, and some more at each plateau."""
    plateau = {"until": {"patience": patience, "min_delta": 0.01}, "evaluations_per_epoch": 4}
    thaw = {"thaw": {"layers": layers, "patience": 1}}
    return top_two(rate, epochs, name="thaw", **plateau, **thaw, **more)


def stepping(rate: float, epochs: int, *, layers: int = 2, **more: Any) -> dict[str, Any]:
    """A phase in which the top two layers learn, and some more after every quarter of an epoch."""
    often = {"until": {"patience": 12, "min_delta": 0.01}, "evaluations_per_epoch": 4}
    thaw = {"thaw": {"layers": layers, "patience": 0}}
    return top_two(rate, epochs, name="thaw", layer_decay=0.95, min_steps=128, **often, **thaw, **more)


def protected(head: str, protect: str, **more: Any) -> list[dict[str, Any]]:
    """One head is frozen once solved, everything else learns."""
    return [SOLVED, everything(1e-4, 3, frozen_heads=[head], protect=protect, **more)]


def varied(name: str, *, temperature: float, **more: Any) -> list[dict[str, Any]]:
    """A recipe's first two phases with another temperature of the solved heads, and changes of the second."""
    solved, layers = (phase.model_dump() for phase in recipes()[name].phases[:2])
    return [solved | {"temperature": temperature}, layers | more]


PLANS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "little": {
        "full 8 at 1e-4": [everything(1e-4, 8)],
        "full 8 at 2e-4": [everything(2e-4, 8)],
        "full 8 at 1e-4, solved again": [everything(1e-4, 8), AGAIN],
        "full 16 at 1e-4": [everything(1e-4, 16)],
        "full 16 at 2e-4": [everything(2e-4, 16)],
        "solved, thaw 16 at 2e-4": [SOLVED, thawing(2e-4, 16, 2, 4)],
        "solved, top 4, all 8 at 1e-4": [SOLVED, top_two(1e-4, 4), everything(1e-4, 8)],
        "solved, top 4, all 8 at 2e-4": [SOLVED, top_two(2e-4, 4), everything(2e-4, 8)],
        "solved, top 8, all 16 at 2e-4": [SOLVED, top_two(2e-4, 8), everything(2e-4, 16)],
        "solved, all 8 at 1e-4, heads too": [SOLVED, everything(1e-4, 8, head_lr=1e-4)],
        "solved, all 4 at 2e-4, heads too": [SOLVED, everything(2e-4, 4, head_lr=2e-4)],
        "solved, thaw 8 at 2e-4, heads too": [SOLVED, thawing(2e-4, 8, 2, 4, head_lr=2e-4)],
        "solved, quick thaw 8 at 1e-4": [SOLVED, thawing(1e-4, 8, 2, 16)],
        "layers 8 at 1e-4": [everything(1e-4, 8, top_layers=6)],
        "solved, quick thaw 8 at 2e-4": [SOLVED, thawing(2e-4, 8, 2, 16)],
        "solved, quick thaw 8 at 2e-4, solved again": [SOLVED, thawing(2e-4, 8, 2, 12), AGAIN],
        "solved, quick thaw 8 at 2e-4, decay .95": [SOLVED, thawing(2e-4, 8, 2, 16, layer_decay=0.95)],
        "solved, quick thaw by 4, 8 at 2e-4, decay .95": [SOLVED, thawing(2e-4, 8, 4, 16, layer_decay=0.95)],
    },
    "soft": {
        "solved, steps 4 at 2e-4": [SOLVED, stepping(2e-4, 4)],
        "solved softly, steps 4 at 2e-4": [SOFT, stepping(2e-4, 4)],
        "solved softly, steps of 4, 4 at 2e-4": [SOFT, stepping(2e-4, 4, layers=4)],
        "solved, steps of 4, 4 at 2e-4, solved again": [SOLVED, stepping(2e-4, 4, layers=4), AGAIN],
        "solved softly, steps of 4, 4 at 2e-4, solved again": [SOFT, stepping(2e-4, 4, layers=4), AGAIN],
        "solved softly, quick thaw 8 at 2e-4, decay .95": [SOFT, thawing(2e-4, 8, 2, 12, layer_decay=0.95)],
    },
    "sure": {
        f"{name}, temperature {temperature:g}{', solved again' if again else ''}": [
            *varied(name, temperature=temperature),
            *again,
        ]
        for name in ("top-layers", "large", "gradual")
        for temperature in (1.0, 2.0, 3.0, 10.0, 30.0)
        for again in ([], [AGAIN])
    },
    "sure, one frozen": {
        f"{head} frozen, temperature {temperature:g}": varied(
            "one-head", temperature=temperature, frozen_heads=[head]
        )
        for head in ("sentiment", "classification")
        for temperature in (1.0, 10.0)
    },
    "much": {
        "solved, quick thaw 4 at 1e-4": [SOLVED, thawing(1e-4, 4, 2, 16)],
        "solved, quick thaw 3 at 2e-4": [SOLVED, thawing(2e-4, 3, 2, 16)],
        "solved, quick thaw 4 at 2e-4": [SOLVED, thawing(2e-4, 4, 2, 16)],
        "solved, top 1, all 3 at 2e-4": [SOLVED, top_two(2e-4, 1), everything(2e-4, 3)],
        "full 3 at 2e-4": [everything(2e-4, 3)],
        "solved, all 2 at 2e-4": [SOLVED, everything(2e-4, 2)],
        "solved, all 3 at 2e-4": [SOLVED, everything(2e-4, 3)],
        "solved, quick thaw 4 at 2e-4, solved again": [SOLVED, thawing(2e-4, 4, 2, 12), AGAIN],
        "solved, quick thaw by 4, 4 at 2e-4": [SOLVED, thawing(2e-4, 4, 4, 12)],
        "solved, quick thaw 4 at 3e-4": [SOLVED, thawing(3e-4, 4, 2, 12)],
        "solved, quick thaw 4 at 2e-4, decay .95": [SOLVED, thawing(2e-4, 4, 2, 12, layer_decay=0.95)],
        "solved, quick thaw by 4, 4 at 2e-4, decay .95": [SOLVED, thawing(2e-4, 4, 4, 12, layer_decay=0.95)],
        "gradual at 3e-4": [*varied("gradual", temperature=10.0, backbone_lr=3e-4), AGAIN],
    },
    "depth": {
        "full 3 at 1e-4": [everything(1e-4, 3)],
        "full 4 at 1e-4": [everything(1e-4, 4)],
        "full 4 at 2e-4": [everything(2e-4, 4)],
        "solved, all 3 at 1e-4": [SOLVED, everything(1e-4, 3)],
        "solved, all 3 at 2e-4": [SOLVED, everything(2e-4, 3)],
        "solved, all 4 at 2e-4": [SOLVED, everything(2e-4, 4)],
        "full 8 at 1e-4": [everything(1e-4, 8)],
        "solved, all 8 at 1e-4": [SOLVED, everything(1e-4, 8)],
        "solved, all 8 at 2e-4": [SOLVED, everything(2e-4, 8)],
        "solved, top 3, all 5 at 2e-4": [SOLVED, top_two(2e-4, 3), everything(2e-4, 5)],
        "solved, top 1, all 3 at 1e-4": [SOLVED, top_two(1e-4, 1), everything(1e-4, 3)],
        "solved, top 1, all 3 at 2e-4": [SOLVED, top_two(2e-4, 1), everything(2e-4, 3)],
    },
    "leak": {
        f"{head}, {protect}": protected(head, protect)
        for head in ("sentiment", "classification")
        for protect in ("none", "distill", "fork")
    },
    "distill": {
        f"{head}, weight {weight:g}": protected(head, "distill", distill_weight=weight)
        for weight in (1.0, 2.0, 4.0)
        for head in ("sentiment", "classification")
    },
    "recipes": {
        name: [phase.model_dump() for phase in recipe.phases]
        for name, recipe in recipes().items()
        if not recipe.needs_frozen_head
    },
}


def _rows(path: Path, most: int | None) -> list[dict[str, Any]]:
    """Rows of a file, `most` of them at equal distances."""
    rows = [row for block in iter_blocks(path) for row in block.rows]
    if most is None or most >= len(rows):
        return rows
    return [rows[i * len(rows) // most] for i in range(most)]


def build_config(options: argparse.Namespace, phases: list[dict[str, Any]], seed: int) -> fl.Config:
    """The run of one plan and one seed."""
    data: dict[str, Any] = {"text": "text", "train": str(OPINIONS / "train.jsonl")}
    tasks: dict[str, Any] = {"sentiment": {}, "classification": {}}
    if options.packages:
        data |= {name: str(options.packages / f"{name}.jsonl") for name in ("train", "test")}
        data |= {"group": "source", "max_train_samples": options.rows}
        tasks = {"section": {}, "role": {}, "use": {"kind": "multilabel"}, "size": {"kind": "regression"}}
        return _config(data, tasks, phases, seed)
    data["validation"] = _rows(OPINIONS / "validation.jsonl", options.validation_rows)
    if options.topics:
        data["train"] = _rows(OPINIONS / "train.jsonl", options.rows)
        topics = _rows(options.topics / "train.jsonl.gz", options.rows)
        held = topics[::8]
        data["train"] += [row for i, row in enumerate(topics) if i % 8]
        data["validation"] += held
        tasks = {"sentiment": {}, "topic": {}}
    elif options.rows:
        data["max_train_samples"] = options.rows
    if options.test:
        data["test"] = str(OPINIONS / "test.jsonl")
    return _config(data, tasks, phases, seed)


def _config(
    data: dict[str, Any], tasks: dict[str, Any], phases: list[dict[str, Any]], seed: int
) -> fl.Config:
    return fl.Config.build(
        {"data": data, "tasks": tasks, "plan": {"phases": phases}, "train": {"seed": seed}}
    )


def run(options: argparse.Namespace, name: str, phases: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The report of one run, from its folder where it is finished."""
    folder = options.folder / "packages" if options.packages else options.folder
    place = folder / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    if (place / "report.json").is_file():
        report = dict(json.loads((place / "report.json").read_text("utf-8")))
    elif (place / "config.toml").is_file():
        report = fl.resume(place).report
    else:
        report = fl.train(build_config(options, phases, seed), output=place).report
    return report | ({"unseen": score_unseen(options, place, seed)} if options.unseen else {})


def score_unseen(options: argparse.Namespace, place: Path, seed: int) -> dict[str, Any]:
    """Scores of a run's model on training rows that it did not draw, and whose texts are not among those."""
    rows = _rows(OPINIONS / "train.jsonl", None)
    drawn = {rows[i]["text"] for i in sample(len(rows), most=options.rows, seed=seed)}
    order = np.random.default_rng(0).permutation(len(rows))
    others = [rows[i] for i in order if rows[i]["text"] not in drawn][: options.unseen]
    file = options.folder / f"unseen-{seed}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in others), "utf-8")
    return evaluate_file(fl.load(place / "model"), file)


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _line(name: str, reports: list[dict[str, Any]], split: str) -> str:
    tasks = sorted(reports[0][split]["tasks"])
    cells = [_mean([report[split]["score"] for report in reports])]
    for task in tasks:
        scores = [report[split]["tasks"][task] for report in reports]
        main_score = "macro_f1" if "macro_f1" in scores[0] else "pearson"
        cells.append(_mean([score[main_score] for score in scores]))
    cells.append(f"{statistics.mean(report['seconds'] for report in reports):.0f}")
    for head in reports[0]["leak"]:
        cells.append(_mean([report["leak"][head]["change"] for report in reports]))
    return f"| {name} | {split} | {' | '.join(cells)} |"


def main() -> None:
    """Prints a row a plan as soon as its seeds are done: mean ± standard deviation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--group", default="depth", choices=list(PLANS))
    parser.add_argument("--plans", nargs="+", help="names in the group; else all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, help="training rows, drawn by the seed; else all")
    parser.add_argument("--validation-rows", type=int, default=1000)
    parser.add_argument("--topics", type=Path, help="folder with train.jsonl.gz: text and topic")
    parser.add_argument("--packages", type=Path, help="folder that packages.py has filled")
    parser.add_argument("--test", action="store_true", help="score the test split too")
    parser.add_argument("--unseen", type=int, help="training rows that a run did not draw, to be scored")
    parser.add_argument("--folder", type=Path, default=Path("runs/plans"))
    options = parser.parse_args()
    if options.unseen and (not options.rows or options.topics or options.packages):
        sys.exit("--unseen wants --rows, and no --topics or --packages")
    if options.packages and (options.topics or options.test):
        sys.exit("--packages has files of its own, which are tested too: no --topics, no --test")
    plans = PLANS[options.group]
    unknown = set(options.plans or ()) - plans.keys()
    if unknown:
        sys.exit(f"no plan {', '.join(sorted(unknown))} in group {options.group}: {', '.join(plans)}")
    print("plan | split | mean | tasks by name | seconds | change of the frozen head")
    for name in options.plans or plans:
        reports = [run(options, name, plans[name], seed) for seed in options.seeds]
        for split in ("validation", "test", "unseen"):
            if reports[0].get(split):
                print(_line(name, reports, split), flush=True)


if __name__ == "__main__":
    main()
