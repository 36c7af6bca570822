"""What an evaluation leads to: which weights are the best, whether a plateau is reached, what a frozen head
lost.

Scores the model on validation and keeps the run's state; never takes a step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from frostline.data.batches import Split, Tokens
from frostline.data.labels import Task, is_labelled
from frostline.errors import TrainingError, listing
from frostline.model.memory import give_memory_back
from frostline.model.multitask import MultitaskModel
from frostline.plan.phase import Phase
from frostline.plan.plateau import watched_score
from frostline.training.activations import Activations
from frostline.training.calibration import as_scored
from frostline.training.checkpoint import Tensors, restore_weights
from frostline.training.embed import embedding_matrix
from frostline.training.evaluate import main_scores, mean_score, predict_logits, score_tasks
from frostline.training.journal import Journal
from frostline.training.leak import lost_share, measure_leak
from frostline.training.losses import Anchor
from frostline.training.probe import solve_head
from frostline.training.ranks import Ranks
from frostline.training.settings import TrainSettings
from frostline.training.state import Best, State

_PROBE_ROWS = 5000
Matrix = np.ndarray[Any, np.dtype[Any]]


class Judge:
    """Judges a model in training by its validation split."""

    def __init__(
        self,
        model: MultitaskModel,
        splits: dict[str, Split],
        settings: TrainSettings,
        *,
        activations: Activations,
        journal: Journal,
        state: State,
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.splits = splits
        self.settings = settings
        self.activations = activations
        self.journal = journal
        self.state = state
        self.ranks = ranks
        self._breached: list[str] = []

    def open_phase(self, phase: Phase) -> None:
        """Writes down what frozen heads answer before the layers under them learn; the guard may go back to
        the weights of this moment.
        """
        kept = self.state.references
        for name in phase.learning_heads(self.model.tasks):  # one that learns has no earlier self to keep
            for split in ("train", "validation"):
                kept.pop(f"{name}|{split}", None)
        new = [name for name in phase.exposed_heads if f"{name}|validation" not in kept]
        if new or _can_roll_back(phase):
            logits, scores = self._score(phase)
            kept |= {f"{name}|validation": torch.from_numpy(logits[name]) for name in new}
            if _can_roll_back(phase):
                self._keep_best(phase, scores)
        targets = self.missing_targets(phase)
        if targets:
            train, depth = self.splits["train"], self.model.backbone.num_stages
            logits = predict_logits(self.model, train, self.activations, depth=depth, ranks=self.ranks)
            kept |= {f"{name}|train": torch.from_numpy(logits[name]) for name in targets}

    def missing_targets(self, phase: Phase) -> list[str]:
        """Heads whose answers on the training texts are needed to distil, and not written down yet; for
        these, `open_phase` reads the stored embeddings of the training texts.
        """
        return [name for name in self._distilled(phase) if f"{name}|train" not in self.state.references]

    def _distilled(self, phase: Phase) -> list[str]:
        """Heads that the phase holds to their answers; one with stages of its own cannot move."""
        names = phase.exposed_heads if phase.protect == "distill" else ()
        return [name for name in names if self.model.fork_of(name) is None]

    def anchors(self, phase: Phase) -> dict[str, Anchor]:
        """What the phase distils: of each frozen head, what it answered before."""
        kept, weight = self.state.references, phase.distill_weight
        return {name: Anchor(kept[f"{name}|train"], weight) for name in self._distilled(phase)}

    def evaluate(self, phase: Phase, *, epoch: float) -> None:
        """Scores the validation split, writes it down, and keeps the weights if they are the best."""
        logits, scores = self._score(phase)
        main, step = main_scores(self.model.tasks, scores["tasks"]), self.state.position.step
        self.journal.write("evaluation", step=step, phase=phase.name, epoch=epoch, **scores, main=main)
        self.state.latest = scores
        self._breached = self._watch(phase, logits)
        if not (self._breached and _can_roll_back(phase)):
            self._keep_best(phase, scores)
        if self.model.frozen_depth < self.model.backbone.num_stages:  # heads alone leave nothing to give
            give_memory_back()

    def _score(self, phase: Phase) -> tuple[dict[str, Matrix], dict[str, Any]]:
        held = self.splits["validation"]
        depth = self.model.frozen_depth
        logits = predict_logits(self.model, held, self.activations, depth=depth, ranks=self.ranks)
        wild = [name for name, values in logits.items() if not np.isfinite(values).all()]
        if wild:
            raise TrainingError(
                f"step {self.state.position.step}: the outputs of {listing(wild)} are not finite. The last "
                "checkpoint is kept. Try a smaller rate."
            )
        tasks = {name: self._as_scored(phase, name, logits) for name in self.model.tasks}
        scores = score_tasks(tasks, logits, held.labels)
        return logits, {"score": mean_score(tasks, scores), "tasks": scores}

    def _as_scored(self, phase: Phase, name: str, logits: Mapping[str, Matrix]) -> Task:
        """A task by its logits; that of a frozen head over layers that learn by those before the phase."""
        before = self.state.references.get(f"{name}|validation") if name in phase.exposed_heads else None
        told = logits[name] if before is None else before.numpy()
        return as_scored(self.model.tasks[name], told, self.splits["validation"].labels[name])

    def _watch(self, phase: Phase, logits: dict[str, Matrix]) -> list[str]:
        """The frozen heads that lost more than the guard allows, which is written down."""
        breached = []
        for name in phase.exposed_heads if phase.guard else ():
            assert phase.guard is not None, "no guard"
            labels = self.splits["validation"].labels[name]
            before = self.state.references[f"{name}|validation"]
            lost = lost_share(self._as_scored(phase, name, logits), before.numpy(), logits[name], labels)
            if lost > phase.guard.tolerance:
                breached.append(name)
                breach = {"step": self.state.position.step, "task": name, "lost": lost}
                self.state.breaches.append(breach)
                self.journal.write("guard", phase=phase.name, action=phase.guard.action, **breach)
        return breached

    def _keep_best(self, phase: Phase, scores: dict[str, Any]) -> None:
        """Keeps scores and weights of an evaluation where they are those to end with so far."""
        best, is_last = self.state.best, self.settings.select == "last"
        is_better = best is None or self._watched(phase, scores) > self._watched(phase, best.scores)
        if is_better or (is_last and _can_roll_back(phase)):
            kept = self.learning() if not is_last or _can_roll_back(phase) else {}
            self.state.best = Best(scores, _copies(kept, into=best.weights if best else {}))

    def _watched(self, phase: Phase, scores: dict[str, Any]) -> float:
        """The number by which the best weights of a phase are chosen."""
        monitor = phase.until.monitor if phase.until else "mean"
        return watched_score(monitor, main_scores(self.model.tasks, scores["tasks"]))

    def must_stop(self, phase: Phase) -> bool:
        """Whether the guard ends the phase after the latest evaluation."""
        return phase.guard is not None and phase.guard.action != "warn" and bool(self._breached)

    def saw_plateau(self, phase: Phase, *, may_thaw: bool) -> bool:
        """Takes in the latest evaluation; says whether the phase, at this depth, has learned what it can.

        Args:
            phase: says how patiently it is watched.
            may_thaw: whether the frost line can still move down.
        """
        scores = main_scores(self.model.tasks, self.state.latest["tasks"])
        patience = phase.thaw.patience if phase.thaw and may_thaw else None
        return phase.until is not None and self.state.plateau.saw(scores, phase.until, patience=patience)

    def learning(self) -> Tensors:
        """What learns at the moment, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def restore_best(self) -> None:
        """Puts the weights of the phase's best evaluation back, where they were kept."""
        if self.state.best:
            restore_weights(self.model, self.state.best.weights)

    def report(self, phase: Phase, *, frozen_tensors: int, seconds: float) -> dict[str, Any]:
        """What `report.json` says of a phase that has ended."""
        depths = phase.depths(self.model.backbone.num_layers)
        return {
            "name": phase.name,
            "frozen_depths": list(depths[: len(self.state.thaws) + 1]),
            "frozen_heads": list(phase.frozen_heads),
            "parameters_trained": sum(parameter.numel() for parameter in self.learning().values()),
            "frozen_tensors_verified": frozen_tensors,
            "steps": self.state.position.phase_step,
            "seconds": round(seconds, 2),
            "validation": self.final_scores(phase),
            "leak": self.leaks(phase),
            "breaches": self.state.breaches,
        }

    def final_scores(self, phase: Phase) -> dict[str, Any]:
        """Scores of the weights that the phase ended with."""
        keeps = self.settings.select == "best" or _can_roll_back(phase)
        return self.state.best.scores if keeps and self.state.best else self.state.latest

    def leaks(self, phase: Phase) -> dict[str, dict[str, Any]]:
        """What has become of the heads that this phase froze over layers that learn (see `measure_leak`), and
        `probe_gap`: how much better a head solved anew on the present embeddings would be.
        """
        if not phase.exposed_heads:
            return {}
        held = self.splits["validation"]
        logits, _ = self._score(phase)
        found, tasks = {}, {}
        for name in phase.exposed_heads:
            before = self.state.references[f"{name}|validation"].numpy()
            tasks[name] = self._as_scored(phase, name, logits)
            leak = measure_leak(tasks[name], before, logits[name], held.labels[name])
            found[name] = {"protect": phase.protect, **leak}
        for name, score in self._solved_scores(tasks).items():
            found[name]["probe_gap"] = score - found[name]["score_after"]
        return found

    def _solved_scores(self, tasks: Mapping[str, Task]) -> dict[str, float]:
        """What fresh heads reach on the present embeddings, each solved on 5,000 labelled training texts at
        most; of those alone that can be solved and scored.

        Args:
            tasks: by name, as their heads are scored.
        """
        train, held = self.splits["train"], self.splits["validation"]
        generator = np.random.default_rng(self.settings.seed)
        rows, heads = {}, {}
        for name, task in tasks.items():
            labels = train.labels[name]
            drawn = np.sort(generator.permutation(np.flatnonzero(is_labelled(labels)))[:_PROBE_ROWS])
            has_fork = self.model.fork_of(name) is not None
            if not has_fork and is_labelled(held.labels[name]).any() and len(np.unique(labels[drawn])) > 1:
                rows[name], heads[name] = drawn, copy.deepcopy(self.model.head(name))
                heads[name].task = task
        if not rows:
            return {}
        union = np.unique(np.concatenate(list(rows.values())))
        train_ND, held_ND = (self._embed(tokens) for tokens in (train.tokens.take(union), held.tokens))
        return {
            name: solve_head(
                heads[name],
                train_ND=train_ND[np.searchsorted(union, drawn)],
                train_labels=train.labels[name][drawn],
                held_ND=held_ND,
                held_labels=held.labels[name],
            )["score"]
            for name, drawn in rows.items()
        }

    def _embed(self, tokens: Tokens) -> Matrix:
        about = self.activations
        return embedding_matrix(self.model.backbone, tokens, precision=about.precision, device=about.device)


def _copies(weights: Tensors, *, into: Tensors) -> Tensors:
    """Copies of weights, in the memory of earlier ones where there are any."""
    for name in weights.keys() & into.keys():
        into[name].copy_(weights[name].detach())
    return {n: into[n] if n in into else weight.detach().clone() for n, weight in weights.items()}


def _can_roll_back(phase: Phase) -> bool:
    return phase.guard is not None and phase.guard.action == "rollback"
