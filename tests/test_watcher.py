"""What a person sees of a run while it goes on."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from frostline import watcher as module
from frostline.watcher import Watcher


def _shown(events):
    stream = StringIO()
    watcher = Watcher(Console(file=stream, width=200))
    for event in events:
        watcher(event)
    return stream.getvalue().splitlines()


def _evaluation(epoch, score):
    return {"event": "evaluation", "epoch": epoch, "score": score, "main": {"topic": score}}


def _end(score):
    scores = {"score": score}
    return {
        "event": "phase_end",
        "seconds": 1.0,
        "frozen_tensors_verified": 9,
        "leak": {},
        "validation": scores,
    }


PHASE = {"event": "phase", "phase": "heads", "frozen_depth": 7}


def test_of_many_evaluations_the_first_better_and_tenth_ones_and_the_last_are_told():
    scores = [0.5] * 52
    scores[33] = 0.6
    lines = _shown([PHASE, *(_evaluation(n, score) for n, score in enumerate(scores, 1)), _end(0.6)])
    told = [int(line.split()[1].rstrip(":")) for line in lines if "epoch" in line]
    assert told == [*range(1, 11), 20, 30, 34, 40, 50, 52]
    assert lines[-2] == "  kept: the weights of the best evaluation, validation 0.600"


def test_parts_of_an_epoch_are_told_to_the_hundredth():
    assert "  epoch 12.17: validation 0.500 (topic 0.500)" in _shown([PHASE, _evaluation(12 + 1 / 6, 0.5)])


def test_of_the_weights_that_a_phase_ends_with_nothing_is_said_if_they_are_its_last():
    assert not any(
        "kept:" in line for line in _shown([PHASE, _evaluation(1, 0.6), _evaluation(2, 0.5), _end(0.5)])
    )


@pytest.mark.parametrize("event", [
    {"event": "plateau"},
    {"event": "thaw", "frozen_depth": 5},
    {"event": "guard", "task": "topic", "lost": 0.2, "action": "stop"},
])  # fmt: skip
def test_the_evaluation_that_something_follows_from_is_told_before_it(event):
    lines = _shown([PHASE, *(_evaluation(n, 0.5) for n in range(1, 13)), event, _end(0.5)])
    place = next(i for i, line in enumerate(lines) if "epoch 12:" in line)
    assert any(word in lines[place + 1] for word in ("plateau:", "frost line moves", "guard:"))
    assert sum("epoch 12:" in line for line in lines) == 1


def test_every_phase_is_told_from_its_start():
    events = [PHASE, *(_evaluation(n, 0.5) for n in range(1, 15)), _end(0.5)]
    assert len(_shown([*events, *events])) == 2 * len(_shown(events))


def test_in_a_file_progress_is_a_line_a_minute(monkeypatch):
    moments = iter(range(0, 200, 20))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    steps = [
        {"event": "progress", "phase": "heads", "done": done, "total": 1000} for done in range(100, 900, 100)
    ]
    assert _shown(steps) == [
        "  training steps: 400 of 1,000, about 2 min left",
        "  training steps: 700 of 1,000, about 60 s left",
    ]


def test_a_title_begins_its_minute_anew_and_may_have_no_total(monkeypatch):
    moments = iter([0, 59, 60, 118, 120])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    stream = StringIO()
    watcher = Watcher(Console(file=stream, width=200))
    for title, done in (("a", 1), ("a", 2), ("rows", 3), ("rows", 4), ("rows", 5000)):
        watcher.progress(title, done, None)
    assert stream.getvalue() == "  rows: 5,000\n"


def test_a_solved_head_is_told_and_one_that_stayed_as_it_was():
    solved = {"event": "solved", "task": "topic", "strength": 0.03}
    scored = {**solved, "score": 0.7}
    assert _shown(
        [solved, scored | {"score_before": 0.7, "kept": False}, scored | {"score_before": 0.75, "kept": True}]
    ) == [
        "  topic head solved, strength 0.03",
        "  topic head solved, strength 0.03",
        "  topic head kept: validation 0.750; solved anew 0.700, no clear gain",
    ]
