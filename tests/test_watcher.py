"""What a person sees of a run while it goes on."""

from io import StringIO

from rich.console import Console

from frostline.watcher import Watcher


def _shown(events):
    stream = StringIO()
    watcher = Watcher(Console(file=stream, width=200))
    for event in events:
        watcher(event)
    return stream.getvalue().splitlines()


def _evaluation(epoch, score):
    return {"event": "evaluation", "epoch": epoch, "score": score, "main": {"topic": score}}


def test_of_many_evaluations_the_first_better_and_tenth_ones_and_the_last_are_told():
    scores = [0.5] * 52
    scores[33] = 0.6
    phase = {"event": "phase", "phase": "heads", "frozen_depth": 7}
    end = {"event": "phase_end", "seconds": 1.0, "frozen_tensors_verified": 9, "leak": {}}
    lines = _shown([phase, *(_evaluation(n, score) for n, score in enumerate(scores, 1)), end])
    told = [int(line.split()[1].rstrip(":")) for line in lines if "epoch" in line]
    assert told == [*range(1, 11), 20, 30, 34, 40, 50, 52]
    assert lines[-2] == "  epoch 52: validation 0.500 (topic 0.500); the weights of the best, 0.600, are kept"


def test_every_phase_is_told_from_its_start():
    phase = {"event": "phase", "phase": "heads", "frozen_depth": 7}
    events = [phase, *(_evaluation(n, 0.5) for n in range(1, 15))]
    assert len(_shown([*events, *events])) == 2 * len(_shown(events))
