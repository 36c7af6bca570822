"""Phases, epochs, steps: reads like the paper.

Everything random follows from (seed, step) or (seed, epoch), so a run that goes on from a checkpoint does
what the unbroken one would have done. Knows no files but through the journal and checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from frostline.data.batches import Split
from frostline.data.table import IntN
from frostline.errors import Interrupted
from frostline.model.device import repeatable
from frostline.model.multitask import MultitaskModel
from frostline.model.recorded import Recordings, can_record, shapes_worth_recording
from frostline.plan.freeze import Frost, freeze_to
from frostline.plan.phase import Phase, temperatures_of
from frostline.training.activations import Activations
from frostline.training.checkpoint import Tensors
from frostline.training.commits import Commits
from frostline.training.gate import depths_on_the_way
from frostline.training.journal import Journal
from frostline.training.judge import Judge
from frostline.training.losses import add_gradients
from frostline.training.probe import solve_heads
from frostline.training.profile import Profile
from frostline.training.ranks import Ranks
from frostline.training.recent import Recent
from frostline.training.settings import TrainSettings
from frostline.training.state import State
from frostline.training.steps import epoch_steps, lengths_of, part_of, step_seed
from frostline.training.tables import EmbeddingGradients
from frostline.training.updates import Updates

_LOG_STEPS = 25


class Trainer:
    """Carries out a plan on a model, from a state on.

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
        commits: Commits,
        state: State,
        moments: Tensors,
        started: float,
        ranks: Ranks,
    ) -> None:
        self.model, self.splits, self.phases, self.settings = model, splits, phases, settings
        self.activations, self.journal, self.commits, self.ranks = activations, journal, commits, ranks
        self.state, self.stop_asked, self.started, self._clock = state, False, started, time.monotonic()
        self.profile = Profile(is_on=settings.profile)
        self.judge = Judge(
            model, splits, settings, activations=activations, journal=journal, state=state, ranks=ranks
        )
        self._tables = EmbeddingGradients(model if ranks.size == 1 else torch.nn.Module())
        self._updates = Updates(model, moments, max_grad_norm=settings.max_grad_norm)
        self._recordings: Recordings | None = None

    def run(self) -> None:
        """Carries out every phase that is not done.

        Raises:
            Interrupted: a stop was asked; the state is committed.
            FreezeError: something frozen moved.
            TrainingError: a loss that is not finite.
        """
        try:
            with repeatable(self.activations.device):
                while self.state.position.phase < len(self.phases):
                    self._run_phase(self.phases[self.state.position.phase])
        finally:
            self._stop_replaying()

    def _run_phase(self, phase: Phase) -> None:
        """Freezes, trains, proves and commits one phase."""
        self._clock = time.monotonic()
        frost = self._freeze(phase)
        is_start = self.state.position.phase_step == 0
        if is_start:
            self._announce("phase", phase, frost)
        self._fill(phase)
        if is_start and self.judge.missing_targets(phase):
            stored = phase.activations == "always" and self.model.frozen_depth > 0
            self._store(self.model.backbone.num_stages, (self.model.frozen_depth,) if stored else ())
        if is_start:
            self.judge.open_phase(phase)
        if phase.solver == "probe":
            with self.profile.part("solving heads"):
                self._solve(phase)
        else:
            frost = self._descend(phase, frost)
        frost.verify(self.model)
        self._finish(phase, frost)

    def _freeze(self, phase: Phase) -> Frost:
        """Makes the model obey the phase at the depth to which the frost line has come."""
        frost = freeze_to(self.model, phase, depth=self._depths(phase)[len(self.state.thaws)])
        self.activations.settle(self.model.frozen_depth)
        self.state.learned |= self.judge.learning().keys()
        self.ranks.check_same(self.model)
        return frost

    def _depths(self, phase: Phase) -> tuple[int, ...]:
        return phase.depths(self.model.backbone.num_layers)

    def _announce(self, event: str, phase: Phase, frost: Frost) -> None:
        """Writes down where the frost line is."""
        at, depth, heads = self.state.position, self.model.frozen_depth, list(phase.frozen_heads)
        frozen = {"frozen_depth": depth, "frozen_heads": heads, "frozen_tensors": frost.num_tensors}
        self.journal.write(event, step=at.step, phase=phase.name, **frozen)

    def _fill(self, phase: Phase) -> None:
        """Stores what the frozen stages make of the texts that training and evaluation read."""
        depth, num_stages = self.model.frozen_depth, self.model.backbone.num_stages
        if depth == num_stages or (depth > 0 and phase.activations == "always"):
            reached = [report["frozen_depths"] for report in self.state.reports]
            self._store(depth, depths_on_the_way(self.phases, reached, depth, num_stages=num_stages))

    def _store(self, depth: int, via: tuple[int, ...]) -> None:
        for split in (self.splits["validation"], self.splits["train"]):
            with self.profile.part("store"):
                for done in self.activations.fill(split, depth, via=via):
                    about = {"split": split.name, "total": self.activations.num_texts(split), "done": done}
                    self.journal.show({"event": "embedding", **about})
                    self._leave_if_asked()

    def _solve(self, phase: Phase) -> None:
        heads = map(self.model.head, phase.learning_heads(self.model.tasks))
        splits = self.splits["train"], self.splits["validation"]
        train, held = ((self.activations.embeddings(split), split.labels) for split in splits)
        unsure = temperatures_of(self.phases[self.state.position.phase :], self.model.tasks)
        for name, found in solve_heads(heads, train=train, held=held, temperatures=unsure):
            self.journal.write("solved", step=self.state.position.step, phase=phase.name, task=name, **found)
            self._leave_if_asked()
        self.ranks.copy_from_first(self.judge.learning().values())
        self._updates.forget()  # solved heads start their next descent afresh
        self.judge.evaluate(phase, epoch=0)

    def _descend(self, phase: Phase, frost: Frost) -> Frost:
        """Rounds of steps, each ended by an evaluation; returns what is frozen in the end."""
        self._regroup(phase)
        total_steps = sum(len(self._steps(phase, i)) for i in range(phase.epochs))
        self._updates.set_rates(phase, max(0, self.state.position.phase_step - 1), total_steps=total_steps)
        for number in range(self.state.position.round, phase.epochs * phase.evaluations_per_epoch):
            epoch, part = divmod(number, phase.evaluations_per_epoch)
            steps = part_of(self._steps(phase, epoch), part, phase.evaluations_per_epoch)
            for batches in steps[self.state.position.round_step :]:
                self._updates.set_rates(phase, self.state.position.phase_step, total_steps=total_steps)
                self._step(phase, batches)
                self._advance(phase, total_steps)
            self._log_losses(phase)
            with self.profile.part("evaluation"):
                self.judge.evaluate(phase, epoch=(number + 1) / phase.evaluations_per_epoch)
            self.state.position = replace(self.state.position, round=number + 1, round_step=0)
            if self.judge.must_stop(phase):
                break
            may_thaw = len(self.state.thaws) + 1 < len(self._depths(phase))
            if self.judge.saw_plateau(phase, may_thaw=may_thaw):
                if not may_thaw:
                    self.journal.write("plateau", step=self.state.position.step, phase=phase.name)
                    break
                frost = self._thaw(phase, frost)
        self._stop_replaying()
        self.judge.restore_best()
        return frost

    def _recordings_of(self, phase: Phase) -> Recordings | None:
        backbone, device = self.model.backbone, self.activations.device
        if not self.settings.cuda_graphs or not can_record(backbone, self.model.frozen_depth, device=device):
            return None
        lengths = lengths_of(self.splits["train"], self._steps(phase, 0), ranks=self.ranks)
        return Recordings(backbone, shapes=shapes_worth_recording(lengths, num_epochs=phase.epochs))

    def _stop_replaying(self) -> None:
        """Gives back the memory of recordings."""
        if self._recordings is not None:
            self._recordings = None
            self._updates.clear()
            torch.cuda.empty_cache()

    def _steps(self, phase: Phase, epoch: int) -> list[list[IntN]]:
        """Rows of every step of one of the phase's epochs; they are counted over the run."""
        first = sum(p.epochs for p in self.phases[: self.state.position.phase] if p.solver == "adamw")
        heads = phase.taught_heads(self.model.tasks)
        return epoch_steps(self.splits["train"], self.settings, epoch=first + epoch, heads=heads)

    def _regroup(self, phase: Phase) -> None:
        """Takes in what learns now: its rates and moments, and what a GPU can replay of it."""
        moves = zip(self.state.thaws, pairwise(self._depths(phase)), strict=False)
        woke = {stage: step for step, (above, below) in moves for stage in range(below, above)}
        self._updates.regroup(phase, woke=woke, is_start=self.state.position.phase_step == 0)
        self._recordings = self._recordings_of(phase)

    def _thaw(self, phase: Phase, frost: Frost) -> Frost:
        """Moves the frost line down to the next depth of the phase, best weights restored first."""
        self._stop_replaying()
        frost.verify(self.model)
        self.judge.restore_best()
        self.state.thaws.append(self.state.position.phase_step)
        frost = self._freeze(phase)
        self._fill(phase)
        if self.state.best and self.state.best.weights:  # what wakes belongs to them as it was when it slept
            waking = self.judge.learning().items()
            self.state.best.weights = {n: p.detach().clone() for n, p in waking} | self.state.best.weights
        self.state.plateau.rest()
        self._regroup(phase)
        self._announce("thaw", phase, frost)
        return frost

    def _step(self, phase: Phase, batches: list[IntN]) -> None:
        """One update from the summed gradients of a few batches."""
        torch.manual_seed(step_seed(self.settings, step=self.state.position.step, rank=self.ranks.rank))
        self._updates.clear()
        with self._tables.by_row():
            losses = add_gradients(
                self.model,
                self.activations,
                self.splits["train"],
                batches,
                heads=phase.learning_heads(self.model.tasks),
                anchors=self.judge.anchors(phase),
                recordings=self._recordings,
                ranks=self.ranks,
                profile=self.profile,
            )
        with self.profile.part("optimizer"):
            norm = self._updates.step()
        self.state.recent.add(losses, norm, np.concatenate(batches))

    def _advance(self, phase: Phase, total_steps: int) -> None:
        at = self.state.position = self.state.position.after_step()
        done = {"phase": phase.name, "done": at.phase_step, "total": total_steps}
        self.journal.show({"event": "progress", **done})
        if at.phase_step % _LOG_STEPS == 0:
            self._log_losses(phase)
        # Read once: a signal may come between two reads.
        stop = self.ranks.is_any(self.stop_asked, device=self.activations.device)
        if stop or self.commits.is_due:
            self._save()
        if stop:
            raise Interrupted

    def _leave_if_asked(self) -> None:
        """Leaves between two steps, or before the first step of a phase, which the last commit leads to."""
        if self.stop_asked:
            raise Interrupted

    def _log_losses(self, phase: Phase) -> None:
        """Writes the mean losses since the last line."""
        self.state.recent.check_finite(step=self.state.position.step, where=self.splits["train"].where)
        means, self.state.recent = self.state.recent.means(), Recent()
        if means:
            about = {**means, "lr": self._updates.highest_rate}
            self.journal.write("steps", step=self.state.position.step, phase=phase.name, **about)

    def _finish(self, phase: Phase, frost: Frost) -> None:
        report = self.judge.report(phase, frozen_tensors=frost.num_tensors, seconds=self._phase_seconds())
        self.state.reports.append(report)
        self.journal.write("phase_end", step=self.state.position.step, **report)
        self.state.next_phase()
        if self.state.position.phase == len(self.phases):
            self._updates.forget()
        self._clock = time.monotonic()
        self._save()

    def seconds(self) -> float:
        """Seconds of the run so far, over all processes that carried it on."""
        return self.state.run_seconds + time.monotonic() - self.started

    def _phase_seconds(self) -> float:
        return self.state.phase_seconds + time.monotonic() - self._clock

    def _save(self) -> None:
        self.state.recent.check_finite(step=self.state.position.step, where=self.splits["train"].where)
        if not self.ranks.is_first:
            return self.commits.postpone()
        state = replace(self.state, phase_seconds=self._phase_seconds(), run_seconds=self.seconds())
        with self.profile.part("checkpoints"):
            self.commits.save(self.model, state, self._updates.moments(), self.journal)
