"""What a phase is expected to take."""

import pytest

from frostline.config import Config
from frostline.dry_run import build_estimator
from frostline.plan.phase import Phase
from frostline.prepare import prepare
from frostline.training import estimate
from frostline.training.estimate import _epochs_at


@pytest.mark.parametrize(
    ("more", "epochs"),
    [
        ({}, [8.0]),
        ({"until": {}, "thaw": {}}, [2.0, 2.0, 2.0, 2.0]),
        ({"until": {}, "thaw": {"patience": 0}}, [0.25, 0.25, 0.25, 7.25]),
        (
            {"until": {}, "thaw": {"patience": 0}, "epochs": 1, "evaluations_per_epoch": 2},
            [0.5, 0.5, 0.0, 0.0],
        ),
    ],
    ids=["one depth", "plateaus", "every evaluation", "fewer evaluations than depths"],
)
def test_the_epochs_of_a_phase_are_spent_at_its_depths(more, epochs):
    phase = Phase.model_validate({"top_layers": 1, "epochs": 8, "evaluations_per_epoch": 4} | more)
    assert _epochs_at(phase, len(epochs)) == epochs


def test_a_phase_costs_its_tokens_and_its_updates(content, monkeypatch):
    """Batches are cut by length, so that some of them say nothing of the others."""
    prepared = prepare(Config.build(content | {"plan": {"phases": [{"top_layers": 1, "epochs": 2}]}}))
    estimator, timed = build_estimator(prepared), []

    def timed_tokens(model, split, activations, batches, *, num_warm):
        timed.extend(int(split.tokens.length_N[rows].sum()) / len(rows) for rows in batches[num_warm:])
        return 0.001

    monkeypatch.setattr(estimate, "_timed_tokens", timed_tokens)
    monkeypatch.setattr(estimate, "_timed_update", lambda model, max_grad_norm: 0.5)
    monkeypatch.setattr(estimator, "_forward", 0.0)
    (phase,) = prepared.phases
    train, size = prepared.splits["train"], prepared.config.train.batch_size
    num_tokens, num_steps = int(train.tokens.length_N.sum()), -(-len(train) // size)
    assert estimator.seconds(phase) == pytest.approx(phase.epochs * (0.001 * num_tokens + 0.5 * num_steps))
    assert 1 < len(timed) <= 5
    assert min(timed) < num_tokens / len(train) < max(timed)
    half = estimator.seconds_of(phase, num_texts=len(train) // 2, num_held=10)
    assert half == pytest.approx(estimator.seconds(phase) / 2, rel=0.3)
    assert len(timed) <= 5, "what was timed once is not timed again"


def test_an_update_is_timed_and_moves_nothing(content):
    prepared = prepare(Config.build(content | {"plan": {"phases": [{"top_layers": 1, "epochs": 1}]}}))
    before = {name: one.detach().clone() for name, one in prepared.model.named_parameters()}
    assert estimate._timed_update(prepared.model, max_grad_norm=1.0) > 0
    assert all((one == before[name]).all() for name, one in prepared.model.named_parameters())
    assert all(one.grad is None for one in prepared.model.parameters())
