"""How many epochs few rows, and few labels, are given."""

import numpy as np
import pytest

from frostline.data.batches import Split, Tokens
from frostline.plan.phase import Phase
from frostline.training.settings import TrainSettings
from frostline.training.steps import with_epochs

ROWS = 640
SETTINGS = TrainSettings(batch_size=64, batch_tokens=1024)


def split(**labels):
    starts = 5 * np.arange(ROWS + 1, dtype=np.int64)
    return Split("train", Tokens(np.ones(5 * ROWS, dtype=np.int32), starts), labels)


def of_first(number):
    """Labels of the first rows; a negative number: of the last."""
    has = np.arange(ROWS) < number if number > 0 else np.arange(ROWS) >= ROWS + number
    return np.where(has, 0, -100)


@pytest.mark.parametrize(
    ("labels", "epochs"),
    [
        ({"a": ROWS}, 10),
        ({"a": ROWS, "b": ROWS}, 10),
        ({"a": 320, "b": -320}, 20),  # rows of their own: as many epochs as each would have alone
        ({"a": 160}, 34),  # alone: 3 steps an epoch, of its rows alone
        ({"a": ROWS, "b": 64}, 19),  # few labels beside many at most double them
    ],
)
def test_tasks_that_share_the_steps_are_given_more_of_them(labels, epochs):
    rows = {name: of_first(number) for name, number in labels.items()}
    (found,) = with_epochs([Phase(epochs=2, min_steps=100)], split(**rows), SETTINGS)
    assert found.epochs == epochs
    assert with_epochs([Phase(epochs=2)], split(**rows), SETTINGS)[0].epochs == 2


def test_heads_that_are_solved_need_no_more_steps():
    rows = split(a=of_first(320), b=of_first(-320))
    plan = [Phase(solver="probe"), Phase(top_layers=2, epochs=2, min_steps=100)]
    assert [phase.epochs for phase in with_epochs(plan, rows, SETTINGS)] == [1, 10]


def test_a_frozen_head_asks_for_no_steps():
    rows = split(a=of_first(ROWS), b=of_first(64))
    plan = {"epochs": 2, "min_steps": 100, "frozen_heads": ("b",), "top_layers": 2}
    for protect in ("none", "distill"):
        (found,) = with_epochs([Phase(**plan, protect=protect)], rows, SETTINGS)
        assert found.epochs == 10
