"""What a phase is expected to take."""

import pytest

from frostline.plan.phase import Phase
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
