"""Phases, epochs, steps: reads like the paper.

Everything random is a function of (seed, step) or (seed, epoch), so a place in a run is a handful of
numbers, and a run that goes on from a checkpoint does what the unbroken one would have done. Knows no files
but through the journal and checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from frostline.data.batches import Split
from frostline.data.table import IntN
from frostline.errors import Interrupted
from frostline.model.multitask import MultitaskModel
from frostline.plan.freeze import Frost, freeze_to
from frostline.plan.groups import build_groups, build_optimizer, schedule_factor, set_rates
from frostline.plan.phase import Phase
from frostline.training.activations import Activations
from frostline.training.checkpoint import (
    Checkpoint,
    Tensors,
    optimizer_moments,
    restore_moments,
    restore_weights,
    save_checkpoint,
)
from frostline.training.evaluate import evaluate, mean_score
from frostline.training.journal import Journal
from frostline.training.losses import add_gradients
from frostline.training.probe import solve_head
from frostline.training.settings import TrainSettings, epoch_steps
from frostline.training.state import Best, State, check_fingerprint

_LOG_STEPS = 25


class Trainer:
    """Carries out a plan on a model.

    Attributes:
        state: where the run stands.
        started: moment of `time.monotonic` at which this process began.
        stop_asked: set it from a signal handler; the run stops after the step, its state committed.
    """

    def __init__(
        self,
        model: MultitaskModel,
        splits: dict[str, Split],
        phases: Sequence[Phase],
        settings: TrainSettings,
        *,
        activations: Activations,
        journal: Journal,
        checkpoints: Path,
        fingerprint: dict[str, str],
        started: float,
    ) -> None:
        self.model = model
        self.splits = splits
        self.phases = phases
        self.settings = settings
        self.activations = activations
        self.journal = journal
        self.checkpoints = checkpoints
        self.fingerprint = fingerprint
        self.started = started
        self.state = State()
        self.stop_asked = False
        self._optimizer: torch.optim.Optimizer | None = None
        self._moments: Tensors = {}
        self._clock = self._saved_at = time.monotonic()

    def run(self) -> None:
        """Carries out every phase that is not done.

        Raises:
            Interrupted: a stop was asked; the state is committed.
            FreezeError: something frozen moved.
            TrainingError: a loss that is not finite.
        """
        while self.state.position.phase < len(self.phases):
            self._run_phase(self.phases[self.state.position.phase])

    def _run_phase(self, phase: Phase) -> None:
        """Freezes, trains, proves and commits one phase."""
        self._clock = time.monotonic()
        frost = freeze_to(self.model, phase)
        self.state.learned |= {name for name, p in self.model.named_parameters() if p.requires_grad}
        if self.state.position.phase_step == 0:
            self._announce(phase, frost)
        if self.model.frozen_depth == self.model.backbone.num_stages:
            self._fill()
        if phase.solver == "probe":
            self._solve(phase)
        else:
            self._descend(phase)
        frost.verify(self.model)
        self._finish(phase, frost)

    def _announce(self, phase: Phase, frost: Frost) -> None:
        self.journal.write(
            "phase",
            step=self.state.position.step,
            phase=phase.name,
            frozen_depth=self.model.frozen_depth,
            frozen_heads=list(phase.frozen_heads),
            frozen_tensors=frost.num_tensors,
        )

    def _fill(self) -> None:
        """Stores the embeddings of what training and evaluation read."""
        for split in (self.splits["train"], self.splits["validation"]):
            for done in self.activations.fill(split):
                self.journal.show(
                    {"event": "embedding", "split": split.name, "done": done, "total": len(split)}
                )
                self._leave_if_asked()

    def _solve(self, phase: Phase) -> None:
        train, held = self.splits["train"], self.splits["validation"]
        for name in phase.learning_heads(self.model.tasks):
            found = solve_head(
                self.model.head(name),
                self.activations.embeddings(train),
                train.labels[name],
                self.activations.embeddings(held),
                held.labels[name],
            )
            self.journal.write("solved", step=self.state.position.step, phase=phase.name, task=name, **found)
            self._leave_if_asked()
        self._optimizer, self._moments = None, {}  # solved heads start their next descent afresh
        self._evaluate(phase, epoch=0)

    def _descend(self, phase: Phase) -> None:
        self._optimizer = build_optimizer(self.model, build_groups(self.model, phase), keep=self._optimizer)
        # At the start of a phase, what learned before and is frozen now leaves its moments behind.
        begins = self.state.position.phase_step == 0
        restore_moments(self.model, self._optimizer, self._moments, drop_others=begins)
        self._moments = {}
        first = sum(p.epochs for p in self.phases[: self.state.position.phase] if p.solver == "adamw")
        total_steps = sum(len(self._steps(first + epoch)) for epoch in range(phase.epochs))
        self._set_rates(phase, max(0, self.state.position.phase_step - 1), total_steps)
        for epoch in range(self.state.position.epoch, phase.epochs):
            for batches in self._steps(first + epoch)[self.state.position.batch :]:
                self._set_rates(phase, self.state.position.phase_step, total_steps)
                self._step(phase, batches, self._optimizer)
                self._advance(phase, total_steps)
            self._log_losses(phase)
            self._evaluate(phase, epoch=epoch + 1)
            self.state.position = replace(self.state.position, epoch=epoch + 1, batch=0)
        if self.state.best and self.settings.select == "best":
            restore_weights(self.model, self.state.best.weights)

    def _set_rates(self, phase: Phase, step: int, total_steps: int) -> None:
        assert self._optimizer is not None, "no optimizer"
        set_rates(self._optimizer, schedule_factor(step, phase=phase, total_steps=total_steps))

    def _steps(self, epoch: int) -> list[list[IntN]]:
        return epoch_steps(self.splits["train"], self.settings, epoch=epoch)

    def _step(self, phase: Phase, batches: list[IntN], optimizer: torch.optim.Optimizer) -> None:
        """One update from the summed gradients of a few batches."""
        torch.manual_seed(_seed_of(self.settings.seed, self.state.position.step))
        optimizer.zero_grad(set_to_none=True)
        heads = phase.learning_heads(self.model.tasks)
        losses = add_gradients(self.model, self.activations, self.splits["train"], batches, heads=heads)
        for name, loss in losses.items():
            self.state.losses.setdefault(name, []).append(loss)
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, self.settings.max_grad_norm)
        optimizer.step()

    def _advance(self, phase: Phase, total_steps: int) -> None:
        at = self.state.position
        self.state.position = replace(at, batch=at.batch + 1, phase_step=at.phase_step + 1, step=at.step + 1)
        self.journal.show(
            {"event": "progress", "phase": phase.name, "done": at.phase_step + 1, "total": total_steps}
        )
        if self.state.position.phase_step % _LOG_STEPS == 0:
            self._log_losses(phase)
        if self.stop_asked or time.monotonic() - self._saved_at > self.settings.save_seconds:
            self.save()
        self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        """Leaves between two steps, or before the first step of a phase, which the last commit leads to."""
        if self.stop_asked:
            raise Interrupted

    def _log_losses(self, phase: Phase) -> None:
        """Writes the mean losses since the last line."""
        means = self.state.mean_losses()
        self.state.losses = {}
        if means:
            assert self._optimizer is not None, "no optimizer"
            lr = max(group["lr"] for group in self._optimizer.param_groups)
            self.journal.write("steps", step=self.state.position.step, phase=phase.name, loss=means, lr=lr)

    def _evaluate(self, phase: Phase, *, epoch: int) -> None:
        depth = self.model.frozen_depth
        tasks = evaluate(self.model, self.splits["validation"], self.activations, depth=depth)
        scores = {"score": mean_score(self.model.tasks, tasks), "tasks": tasks}
        at = self.state.position
        self.journal.write("evaluation", step=at.step, phase=phase.name, epoch=epoch, **scores)
        self.state.latest = scores
        if self.state.best is None or scores["score"] > self.state.best.scores["score"]:
            learning = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
            self.state.best = Best(scores, learning)

    def _finish(self, phase: Phase, frost: Frost) -> None:
        best = self.state.best if self.settings.select == "best" else None
        self.state.reports.append(
            {
                "name": phase.name,
                "frozen_depth": self.model.frozen_depth,
                "frozen_heads": list(phase.frozen_heads),
                "parameters_trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                "frozen_tensors_verified": frost.num_tensors,
                "steps": self.state.position.phase_step,
                "seconds": round(self._phase_seconds(), 2),
                "validation": best.scores if best else self.state.latest,
            }
        )
        self.journal.write("phase_end", step=self.state.position.step, **self.state.reports[-1])
        self.state.next_phase()
        self._clock = time.monotonic()
        self.save()

    def seconds(self) -> float:
        """Seconds of the run so far, over all processes that carried it on."""
        return self.state.run_seconds + time.monotonic() - self.started

    def _phase_seconds(self) -> float:
        return self.state.phase_seconds + time.monotonic() - self._clock

    def save(self) -> None:
        """Commits the state of now.

        Raises:
            RunError: the disk is full or may not be written; older checkpoints are untouched.
            TrainingError: a loss that is not finite; nothing is written.
        """
        self.state.mean_losses()  # refuses to commit what is not finite
        at = self.state.position
        content = self.state.content() | {
            "phase_seconds": self._phase_seconds(),
            "run_seconds": self.seconds(),
            "events_bytes": self.journal.size_bytes(),
            "fingerprint": self.fingerprint,
        }
        parameters = dict(self.model.named_parameters())
        save_checkpoint(
            self.checkpoints / f"step-{at.step:08d}-phase-{at.phase:02d}",
            Checkpoint(
                content,
                weights={name: parameters[name].data for name in sorted(self.state.learned)},
                moments=optimizer_moments(self.model, self._optimizer) if self._optimizer else self._moments,
                best=self.state.best.weights if self.state.best else {},
            ),
            keep_last=self.settings.keep_last,
        )
        self._saved_at = time.monotonic()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts the run where a checkpoint was taken.

        Raises:
            CheckpointError: the checkpoint is of other data, another plan or another model.
        """
        check_fingerprint(checkpoint.state["fingerprint"], self.fingerprint)
        restore_weights(self.model, checkpoint.weights)
        self.state = State.build(
            checkpoint.state,
            learned=set(checkpoint.weights),
            best=checkpoint.best,
            device=self.activations.device,
        )
        self._moments = checkpoint.moments
        self.journal.cut(checkpoint.state["events_bytes"])


def _seed_of(seed: int, step: int) -> int:
    """The seed of a step's dropout."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
