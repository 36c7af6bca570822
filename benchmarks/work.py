"""The work that `peers.py` compares: rows, depths, rates, and the figures of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

OPINIONS = Path(__file__).parents[1] / "examples" / "opinions"
TASKS = ("classification", "sentiment")
# Work that trains: layers that learn, epochs.
DEPTHS: dict[str, tuple[int | str, int]] = {
    "heads": (0, 10),
    "top-layers": (2, 5),
    "full": ("all", 3),
    "to-score": ("all", 3),
}
# A thaw: layers that learn and epochs, in turn.
THAW: tuple[tuple[int | str, int], ...] = ((0, 2), (2, 2), ("all", 2))
WORK = (*DEPTHS, "thaw", "embed")
# Of every training: layers that learn and epochs, in turn.
PHASES = {name: (depth,) for name, depth in DEPTHS.items()} | {"thaw": THAW}
RATE, HEAD_RATE = 1e-4, 1e-3
Rows = list[dict[str, Any]]


class Result(TypedDict, total=False):
    """Figures of one run.

    Attributes:
        seconds: of the work, without loading.
        score: mean macro-F1 of both tasks on validation.
        track: seconds and score of each evaluation.
        peak_mib: most memory of the process.
        share_of_limit: useful GFLOP/s over those of bf16 matrix products of the same shapes; of training,
            what nobody can leave out, so that of two contenders the quicker has more.
        pass_share: the same without tokenising.
    """

    seconds: float
    score: float
    track: list[tuple[float, float]]
    peak_mib: float
    share_of_limit: float
    pass_share: float


_other_backbone: list[Path] = []


def backbone_folder() -> Path:
    """The backbone that everyone starts from: the packaged one, or that of `use_backbone`."""
    from frostline.model.domains import find_backbone

    return _other_backbone[-1] if _other_backbone else find_backbone("general").folder


def use_backbone(folder: Path) -> None:
    """Gives everyone in this process another backbone."""
    _other_backbone.append(folder)


def read_rows(name: str, most: int | None) -> Rows:
    """Rows of a split, `most` of them at equal distances."""
    lines = (OPINIONS / f"{name}.jsonl").read_text("utf-8").splitlines()
    step = max(1.0, len(lines) / most) if most else 1.0
    return [json.loads(lines[int(i * step)]) for i in range(min(len(lines), most or len(lines)))]


def read_splits(rows: int | None) -> dict[str, Rows]:
    """Training rows, and validation rows in proportion."""
    train, held = read_rows("train", rows), read_rows("validation", None)
    if rows is None:
        return {"train": train, "validation": held}
    share = len(train) / len(read_rows("train", None))
    return {"train": train, "validation": read_rows("validation", max(1, round(share * len(held))))}


def useful_gflop(lengths: list[int], *, layers: int, width: int, inner: int) -> float:
    """Floating-point operations of a forward pass over texts of these lengths in tokens, without padding."""
    by_token = 2 * (4 * width**2 + 2 * width * inner)
    return layers * sum(n * by_token + 4 * n**2 * width for n in lengths) / 1e9


def plan_gflop(phases: Sequence[tuple[int | str, int]], forward: float, *, layers: int) -> float:
    """Of a training run, what nobody can leave out: frozen layers once, the others thrice an epoch.

    Args:
        phases: layers that learn and epochs, in turn.
        forward: operations of a forward pass of all layers over the training texts, in GFLOP.
        layers: of the backbone.
    """
    depths = [(layers if top == "all" else int(top), epochs) for top, epochs in phases]
    once = layers - min(top for top, _ in depths)
    return forward / layers * (once + sum(3 * top * epochs for top, epochs in depths))


def is_on_gpu() -> bool:
    """Whether everyone computes on a GPU."""
    import torch

    return torch.cuda.is_available()


def product_rate(*, width: int, inner: int, seconds: float = 2.0) -> float:
    """GFLOP/s of bf16 matrix products of a layer's shapes: on a GPU, or with one for each core at a time."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    device = "cuda" if is_on_gpu() else "cpu"
    tokens = 65_536 if device == "cuda" else 1024
    sides = [(width, width)] * 4 + [(width, inner), (inner, width)]
    matrices = [torch.randn(shape, device=device).bfloat16() for shape in sides]
    before = torch.get_num_threads()
    threads = before if device == "cpu" else 1

    def multiply(end: float) -> int:
        states = {size: torch.randn(tokens, size, device=device).bfloat16() for size in (width, inner)}
        done = 0
        with torch.inference_mode():
            while time.perf_counter() < end:
                for matrix in matrices:
                    torch.matmul(states[matrix.shape[0]], matrix)
                done += 1
                if device == "cuda":
                    torch.cuda.synchronize()
        return done

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        start = time.perf_counter()
        rounds = sum(pool.map(multiply, [start + seconds] * threads))
        spent = time.perf_counter() - start
    torch.set_num_threads(before)
    return rounds * 2 * tokens * sum(a * b for a, b in sides) / spent / 1e9


def timed(
    encode: Callable[[Any], Any], rows: int | None, *, prepare: Callable[[list[str]], Any] | None = None
) -> Result:
    """Seconds in which a warmed-up encoder embeds the training texts, and its useful GFLOP/s.

    Args:
        encode: takes texts, or what `prepare` makes of them.
        rows: of the training texts; None: all.
        prepare: not timed; None: nothing.
    """
    texts = [row["text"] for row in read_rows("train", rows)]
    prepare = prepare or list
    encode(prepare(texts[:64]))
    given = prepare(texts)
    start = time.perf_counter()
    encode(given)
    return with_share({"seconds": time.perf_counter() - start, "score": float("nan")}, rows)


def with_share(result: Result, rows: int | None, *, phases: Sequence[tuple[int | str, int]] = ()) -> Result:
    """A result with its share of the limit: of a forward pass, or of a training run of these phases."""
    from transformers import AutoConfig, AutoTokenizer

    if is_on_gpu():  # the products would be the most memory that is taken
        return result
    folder = backbone_folder()
    texts = [row["text"] for row in read_rows("train", rows)]
    ids = AutoTokenizer.from_pretrained(folder)(texts, max_length=128, truncation=True)["input_ids"]
    config = AutoConfig.from_pretrained(folder)
    layers = config.num_hidden_layers
    shape = {"width": config.hidden_size, "inner": config.intermediate_size}
    gflop = useful_gflop([len(one) for one in ids], layers=layers, **shape)
    if phases:
        gflop = plan_gflop(phases, gflop, layers=layers)
    return {**result, "share_of_limit": gflop / result["seconds"] / product_rate(**shape)}
