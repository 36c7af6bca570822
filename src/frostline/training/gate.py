"""Store or compute again? Measured on a few batches of this run, on this machine, before it starts.

A store costs one pass and its writing, and then a reading in every epoch; without it, the frozen prefix is
computed in every epoch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from frostline.data.batches import Split
from frostline.data.table import IntN
from frostline.errors import counted
from frostline.model.backbone import Backbone
from frostline.model.device import Precision
from frostline.plan.phase import Phase
from frostline.training.activations import Activations
from frostline.training.settings import TrainSettings
from frostline.training.steps import epoch_steps

_BATCHES = 6
# What a store must save; less is within the noise of the measurement, and the same run should decide alike.
_WORTH_SECONDS = 2.0
_WORTH_SHARE = 0.2


@dataclass(frozen=True)
class Decision:
    """What is done with the frozen prefix of a phase, and the figures behind it.

    Attributes:
        phase: its name.
        depth: frozen depth at its start.
        is_stored: whether the outputs of the prefix are stored.
        seconds_stored: what the prefix would cost over the phase with a store.
        seconds_recomputed: without one.
        num_bytes: size of the store.
    """

    phase: str
    depth: int
    is_stored: bool
    seconds_stored: float
    seconds_recomputed: float
    num_bytes: int

    def sentence(self) -> str:
        """The decision in words."""
        about = f"about {self.seconds_stored:.0f} s stored, {self.seconds_recomputed:.0f} s computed again"
        what = f"stored ({self.num_bytes / 2**20:.0f} MiB)" if self.is_stored else "computed in every epoch"
        return f"phase '{self.phase}': the outputs of {counted(self.depth, 'stage')} are {what}: {about}"


def decide(
    backbone: Backbone,
    splits: dict[str, Split],
    phase: Phase,
    settings: TrainSettings,
    *,
    precision: Precision,
    device: torch.device,
) -> Decision | None:
    """Times reading against computing for a phase; None where no part of the backbone is frozen, or all is.

    A phase that thaws is taken to spend the same time at every depth; its first depth is measured.
    """
    depths = [depth for depth in phase.depths(backbone.num_layers) if 0 < depth < backbone.num_stages]
    if not depths:
        return None
    train, held = splits["train"], splits["validation"]
    rows = [part for step in epoch_steps(train, settings, epoch=0)[:_BATCHES] for part in step]
    place = settings.activations.place()
    fixed, fill, compute, read = _seconds(
        backbone, train, depths[0], rows, precision=precision, device=device, place=place
    )
    epochs = phase.epochs * len(depths) / len(phase.depths(backbone.num_layers))
    passes = epochs * (len(train) + len(held) * phase.evaluations_per_epoch)
    recomputed = compute * passes
    num_bytes = (len(train.tokens.ids_T) + len(held.tokens.ids_T)) * backbone.hidden_width * 2
    share = min(1.0, settings.activations.max_bytes / num_bytes)  # of what there is room for
    stored = (fixed + share * fill * (len(train) + len(held))) * len(depths)
    stored += share * read * passes + (1 - share) * recomputed
    is_worth_it = recomputed - stored > max(_WORTH_SECONDS, _WORTH_SHARE * recomputed)
    return Decision(phase.name, depths[0], is_worth_it, stored, recomputed, num_bytes)


def decide_all(
    backbone: Backbone,
    splits: dict[str, Split],
    phases: Sequence[Phase],
    settings: TrainSettings,
    *,
    precision: Precision,
    device: torch.device,
) -> tuple[tuple[Phase, ...], tuple[Decision, ...]]:
    """The phases with 'always' or 'never' in the place of 'auto', and what was measured for it.

    Written into the run's file, so that a run that goes on, or is run again, decides alike.
    """
    decided, decisions = [], []
    for phase in phases:
        store = settings.activations.store if phase.activations == "auto" else phase.activations
        if store == "auto":
            found = decide(backbone, splits, phase, settings, precision=precision, device=device)
            if found:
                decisions.append(found)
                store = "always" if found.is_stored else "never"
        stores = any(0 < depth < backbone.num_stages for depth in phase.depths(backbone.num_layers))
        decided.append(phase.model_copy(update={"activations": store}) if stores else phase)
    return tuple(decided), tuple(decisions)


def depths_on_the_way(
    phases: Sequence[Phase], reached: Sequence[Sequence[int]], depth: int, *, num_stages: int
) -> tuple[int, ...]:
    """A lower depth from whose stored states those of a depth are to be computed, if there is one.

    That of the phase before, where the line has moved up from it; or one that the next phase will need, while
    nothing of the backbone learns. The same for a run that goes on as for the unbroken one.

    Args:
        phases: of the plan.
        reached: frozen depths that the phases before this one came to.
        depth: to be stored.
        num_stages: L + 1.
    """
    number = len(reached)
    if number and phases[number - 1].activations == "always" and 0 < reached[-1][-1] < depth:
        return (reached[-1][-1],)
    if depth == num_stages and number + 1 < len(phases) and phases[number + 1].activations == "always":
        return (phases[number + 1].depths(num_stages - 1)[0],)
    return ()


def _seconds(
    backbone: Backbone,
    split: Split,
    depth: int,
    parts: Sequence[IntN],
    *,
    precision: Precision,
    device: torch.device,
    place: Path,
) -> tuple[float, float, float, float]:
    """Seconds of a store's key, and seconds a text of filling it, of computing the prefix in a step, and of
    reading.
    """
    rows = [int(row) for part in parts for row in part]
    sample = Split("gate", split.tokens.take(rows), {})
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="gate-") as name:
        trial = Activations(backbone, precision=precision, device=device, folder=Path(name), max_bytes=2**40)
        trial.settle(depth)
        places = np.split(np.arange(len(rows)), np.cumsum([len(part) for part in parts])[:-1])
        trial.batch(sample, places[0], depth=depth)  # warms up
        compute = _least(lambda: [trial.batch(sample, part, depth=depth) for part in places], device)
        fixed = _timed(lambda: trial.key(sample, depth), device)
        fill = _timed(lambda: list(trial.fill(sample, depth)), device)  # the weights are hashed already
        there = Activations(backbone, precision=precision, device=device, folder=place, max_bytes=2**40)
        fill = 0.0 if there.is_stored(split, depth) else fill
        read = _least(lambda: [trial.batch(sample, part, depth=depth) for part in places], device)
    return fixed, fill / len(rows), compute / len(rows), read / len(rows)


def _least(call: Callable[[], object], device: torch.device) -> float:
    """Least seconds of three calls: other work on the machine is not the run's."""
    return min(_timed(call, device) for _ in range(3))


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, once the device has done its work."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
