"""Sentences about a run."""

from frostline.notices import worse_phases


def report(name, score):
    return {"name": name, "validation": {"score": score}}


def test_a_phase_that_ended_below_its_start_is_said():
    reports = [report("heads", 0.443), report("top", 0.368), report("all", 0.5)]
    (sentence,) = worse_phases(reports)
    assert "'top' ended at 0.368" in sentence and "0.443 that 'heads'" in sentence
    assert not list(worse_phases(reports[:1]))
