"""The commits of one run: when one is due, what goes into it, and how a run is put back where it was taken.

`checkpoint.py` knows the files; this module knows what of a run must be in them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from frostline.errors import CheckpointError
from frostline.model.multitask import MultitaskModel
from frostline.training.checkpoint import Checkpoint, Tensors, load_newest, restore_weights, save_checkpoint
from frostline.training.journal import Journal
from frostline.training.ranks import Ranks
from frostline.training.settings import TrainSettings
from frostline.training.state import State

_SPACING = 120.0
_MOST_SHARE = 0.03
# What changes the last bits of a run that goes on, and nothing else.
_SOFT = ("number of threads", "number of processes")


class Commits:
    """The checkpoints of a run.

    Attributes:
        seconds: that this process spent on them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: TrainSettings,
        fingerprint: Mapping[str, str],
        ranks: Ranks | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.ranks = ranks or Ranks()
        self.fingerprint = dict(fingerprint) | {"number of processes": str(self.ranks.size)}
        self.seconds = 0.0
        self._saved_at = time.monotonic()
        self._last_seconds = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the newest commit is older than the settings allow inside a phase."""
        spacing = self.settings.save_seconds or max(_SPACING, self._last_seconds / _MOST_SHARE)
        return time.monotonic() - self._saved_at > spacing

    def save(self, model: MultitaskModel, state: State, moments: Tensors, journal: Journal) -> None:
        """Commits a state with the weights that it is of.

        Raises:
            RunError: the disk is full or may not be written; older checkpoints are untouched.
        """
        start = time.monotonic()
        forks = {task: fork.depth for task in model.tasks if (fork := model.fork_of(task))}
        parameters = dict(model.named_parameters())
        kept = sorted(name for name in parameters if name in state.learned or name.startswith("forks."))
        content = {
            **state.content(),
            "forks": forks,
            "events_bytes": journal.size_bytes(),
            "fingerprint": self.fingerprint,
        }
        save_checkpoint(
            self.folder / f"step-{state.position.step:08d}-phase-{state.position.phase:02d}",
            Checkpoint(
                content,
                weights={name: parameters[name].data for name in kept},
                moments=moments,
                best=state.best.weights if state.best else {},
                references=state.references,
            ),
            keep_last=self.settings.keep_last,
        )
        self._saved_at = time.monotonic()
        self._last_seconds = self._saved_at - start
        self.seconds += self._last_seconds

    def postpone(self) -> None:
        """Takes in that another process saves now."""
        self._saved_at = time.monotonic()

    def load(
        self, model: MultitaskModel, journal: Journal, *, device: torch.device
    ) -> tuple[State, Tensors, list[str]]:
        """Puts model and log where the newest checkpoint that can be trusted was taken, or at the start,
        which is committed.

        Returns:
            The state, the moments by parameter name, and what the user should know, a sentence each.

        Raises:
            CheckpointError: the checkpoint is of other data, another plan or another model.
        """
        checkpoint, damaged = load_newest(self.folder)
        if checkpoint is None:
            journal.cut(0)
            if self.ranks.is_first:  # what the run began with: nothing else may go on with it
                self.save(model, State(), {}, journal)
            return State(), {}, []
        changed = self._check_fingerprint(checkpoint.state["fingerprint"])
        for task, depth in checkpoint.state["forks"].items():
            model.fork(task, depth=depth)
        restore_weights(model, checkpoint.weights)
        state = State.build(
            checkpoint.state,
            learned={name for name in checkpoint.weights if not name.startswith("forks.")},
            best=checkpoint.best,
            references=checkpoint.references,
            device=device,
        )
        journal.cut(checkpoint.state["events_bytes"])
        for place in (
            damaged if self.ranks.is_first else ()
        ):  # so that it takes no place of a good one among those that are kept
            shutil.rmtree(place, ignore_errors=True)
        notes = [f"{sentence} Going on from the one before." for sentence in damaged.values()]
        if state.position == State().position:
            notes.append("the run was stopped before its first checkpoint, so it begins again.")
        return state, checkpoint.moments, [*notes, *changed]

    def _check_fingerprint(self, saved: Mapping[str, str]) -> list[str]:
        changed = [what for what, digest in self.fingerprint.items() if saved.get(what) != digest]
        hard = [what for what in changed if what not in _SOFT]
        if hard:
            raise CheckpointError(
                f"the {' and the '.join(hard)} changed since the checkpoint was taken, so the run cannot "
                "go on exactly. Put it back, or train anew with --overwrite."
            )
        return [
            f"the {what} changed since the checkpoint was taken: the run goes on, but not to the same bits."
            for what in changed
        ]
