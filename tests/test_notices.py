"""Sentences about a run."""

import numpy as np

from frostline.data.batches import Split, Tokens
from frostline.data.labels import Task
from frostline.notices import (
    crowded_cores,
    cut_texts,
    labels_alike,
    labels_undivided,
    scarce_labels,
    tasks_without_labels,
    unfinished_phase,
    unheeded_settings,
    worse_phases,
)
from frostline.plan.phase import Phase


def report(name, score):
    return {"name": name, "validation": {"score": score}}


def test_a_phase_that_ended_below_its_start_is_said():
    reports = [report("heads", 0.443), report("top", 0.368), report("all", 0.5)]
    (sentence,) = worse_phases(reports)
    assert "'top' ended at 0.368" in sentence and "0.443 that 'heads'" in sentence
    assert not list(worse_phases(reports[:1]))


def evaluations(*scores, phase="all", each=1.0):
    return [
        {"event": "evaluation", "phase": phase, "epoch": each * (i + 1), "score": score}
        for i, score in enumerate(scores)
    ]


def test_a_phase_that_ended_too_early_is_said():
    begin = {"event": "phase"}
    start = [
        begin,
        {"event": "evaluation", "phase": "heads", "epoch": 0, "score": 0.4},
        {"event": "steps"},
        begin,
    ]
    (said,) = unfinished_phase([*start, *evaluations(0.467, 0.594, 0.662, 0.687)])
    assert said.startswith("phase 'all' was still gaining when it ended: +0.025 on validation in the last of")
    assert not list(unfinished_phase(evaluations(0.6, 0.67, 0.68)))
    assert not list(unfinished_phase(evaluations(0.6, 0.7, 0.65)))
    assert not list(unfinished_phase(evaluations(0.6, 0.61, 0.7))), "a class may be found at once"
    assert not list(unfinished_phase(evaluations(0.6, 0.7))), "every start is steep"
    assert not list(unfinished_phase(start)), "heads are solved"
    halves = evaluations(0.5, 0.6, 0.64, 0.62, 0.65, 0.67, each=0.5)
    assert "+0.030" in next(unfinished_phase(halves)), "what the best of earlier epochs had"
    later = [*evaluations(0.5, 0.6, 0.7), begin, *evaluations(0.7, 0.701, 0.702)]
    assert not list(unfinished_phase(later)), "a later phase of the same name went on"
    assert list(unfinished_phase([*evaluations(0.62, 0.63, 0.63), begin, *evaluations(0.5, 0.56, 0.64)]))
    for end in ({"event": "plateau"}, {"event": "guard", "action": "rollback"}):
        assert not list(unfinished_phase([*evaluations(0.5, 0.6, 0.7), end])), "epochs were left"
    assert list(
        unfinished_phase([*evaluations(0.5, 0.6, 0.7), {"event": "guard", "action": "warn", "phase": "all"}])
    )


def test_tasks_without_a_label_in_validation_or_test_are_said():
    tokens = Tokens(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
    tasks = [
        Task(name=name, column=f"{name}_column", kind="classification", labels=("a", "b"))
        for name in ("x", "y")
    ]

    def split(name, x, y):
        return name, Split(name, tokens, {"x": np.asarray([x, x]), "y": np.asarray([y, y])})

    splits = dict([split("train", 0, 0), split("validation", -100, 0), split("test", 0, -100)])
    validation, test = tasks_without_labels(tasks, splits, learning={"x", "y"})
    assert "no validation row has a label of 'x'" in validation
    assert "no test row has a label of 'y' (column 'y_column')" in test
    assert list(tasks_without_labels(tasks, splits, learning={"y"})) == [test]
    splits.pop("test")
    assert list(tasks_without_labels(tasks, splits, learning={"x"})) == [validation]


def test_labels_of_no_or_few_validation_rows_are_said():
    task = Task(name="topic", column="topic", kind="classification", labels=("a", "b", "c"))
    tokens = Tokens(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
    held = Split("validation", tokens, {"topic": np.asarray([0] * 9 + [1] * 4)})
    none, few = scarce_labels(task, held)
    assert none.endswith("says nothing of them: c.") and "fewer than 5 validation rows" in few
    assert "each of them: b." in few
    commas = task.model_copy(update={"labels": ("a", "1,5", "2,5")})
    assert [said.partition(": ")[2][:6] for said in scarce_labels(commas, held)] == ["'2,5'.", "'1,5'."]
    enough = Split("validation", tokens, {"topic": np.asarray([0, 1, 2] * 5)})
    assert not list(scarce_labels(task, enough))


def test_labels_that_differ_in_case_or_spaces_alone_are_said():
    task = Task(name="kind", column="kind", kind="classification", labels=("a", "b", " B", "c", "A"))
    (said,) = labels_alike(task)
    assert said.endswith("spaces alone: 'a' and 'A', 'b' and ' B'.")
    assert not list(labels_alike(task.model_copy(update={"labels": ("a", "b")})))


def test_labels_that_another_separator_would_divide_are_said():
    task = Task(
        name="tags", column="tags", kind="multilabel", separator=";", labels=("a", "a|b", "b", "b|c", "c")
    )
    (said,) = labels_undivided(task)
    assert said == (
        "task 'tags': labels hold '|', such as 'a|b'. If it divides several labels, set separator = \"|\"."
    )
    assert not list(labels_undivided(task.model_copy(update={"labels": ("a", "salt, pepper", "c")})))
    (said,) = labels_undivided(task.model_copy(update={"kind": "classification", "separator": None}))
    assert said.endswith('set kind = "multilabel" and separator = "|".')


def test_settings_of_a_loss_are_said_where_heads_are_only_solved():
    task = Task(
        name="kind",
        column="kind",
        kind="classification",
        labels=("a", "b"),
        weight=2.0,
        label_smoothing=0.1,
    )
    solved = Phase(name="heads", solver="probe")
    (said,) = unheeded_settings([task], [solved])
    assert said == "task 'kind': heads are only solved here, without weight, label_smoothing."
    assert not list(unheeded_settings([task], [solved, Phase(name="layers", top_layers=2)]))
    assert not list(
        unheeded_settings([task.model_copy(update={"weight": 1, "label_smoothing": 0})], [solved])
    )


def test_cores_that_other_work_holds_are_said():
    assert not list(crowded_cores({1: 0.001}))
    assert not list(crowded_cores({1: 0.001, 2: 0.0006}))
    assert not list(crowded_cores({1: 0.001, 2: 0.00119}))
    (said,) = crowded_cores({1: 0.001, 2: 0.00121})
    assert said.startswith("a matrix product takes 1.2 ms on 2 threads and 1.0 on 1")
    (said,) = crowded_cores({1: 0.008, 8: 0.001, 16: 0.004})
    assert "OMP_NUM_THREADS=8" in said


def test_texts_that_are_cut_are_said_with_what_the_backbone_could_take():
    tokens = Tokens(np.zeros(20, dtype=np.int32), np.asarray([0, 8, 12, 20]))
    train = Split("train", tokens, {})
    (said,) = cut_texts(train, 8, most=512)
    assert (
        said == "2 of 3 training texts reach 8 tokens, where they are cut. model.max_length may be up to 512."
    )
    assert (
        [*cut_texts(train, 8, most=8)] == [*cut_texts(train, 8, most=None)] == [said.partition(" model.")[0]]
    )
    assert not list(cut_texts(train, 9, most=512))
