import numpy as np
import pytest

from frostline.data.dataset import DataSettings, load_tables
from frostline.data.labels import TaskSettings
from frostline.errors import ConfigError, DataError

TASKS = {"topic": TaskSettings()}


def rows(number, groups=None):
    made = [{"text": f"text {i}", "topic": "abc"[i % 3]} for i in range(number)]
    return [row | {"group": f"g{i % groups}"} for i, row in enumerate(made)] if groups else made


def column(table, name):
    return table.columns[name].to_pylist()


def test_validation_is_held_out_stratified_and_seeded():
    first, again, other = (
        load_tables(DataSettings(train=rows(300)), TASKS, seed=s).splits for s in (0, 0, 1)
    )
    assert {name: len(table) for name, table in first.items()} == {"train": 270, "validation": 30}
    assert [column(first["validation"], "topic").count(label) for label in "abc"] == [10, 10, 10]
    assert column(first["validation"], "text") == column(again["validation"], "text")
    assert column(first["validation"], "text") != column(other["validation"], "text")


def test_groups_stay_on_one_side():
    splits = load_tables(DataSettings(train=rows(300, groups=40), group="group"), TASKS, seed=0).splits
    assert not set(column(splits["train"], "group")) & set(column(splits["validation"], "group"))
    assert len(splits["validation"]) == pytest.approx(30, abs=10)


def test_a_group_larger_than_the_share_stays_in_training():
    for seed in range(5):
        data = [row | {"group": "big" if i < 180 else f"g{i % 40}"} for i, row in enumerate(rows(300))]
        splits = load_tables(DataSettings(train=data, group="group"), TASKS, seed=seed).splits
        assert "big" not in column(splits["validation"], "group")
        assert len(splits["validation"]) == pytest.approx(30, abs=6)


def test_every_group_is_held_out_by_some_seed():
    data = rows(60, groups=12)
    held = set()
    for seed in range(150):
        splits = load_tables(DataSettings(train=data, group="group"), TASKS, seed=seed).splits
        held |= set(column(splits["validation"], "group"))
    assert held == {f"g{i}" for i in range(12)}


def test_a_sample_of_training_rows_keeps_the_labels_of_all():
    data = [*rows(300), {"text": "rare", "topic": "z"}]
    settings = DataSettings(train=data, max_train_samples=60)
    tables = load_tables(settings, TASKS, seed=0)
    assert sum(map(len, tables.splits.values())) == 60
    assert tables.tasks[0].labels == ("a", "b", "c", "z")
    again = load_tables(settings, TASKS, seed=0)
    assert column(tables.splits["train"], "text") == column(again.splits["train"], "text")


def test_a_task_whose_labels_were_left_out_is_refused():
    data = [row | {"mood": None} for row in rows(300)]
    data[0]["mood"], data[1]["mood"] = "x", "y"
    tasks = TASKS | {"mood": TaskSettings()}
    held = [{"text": "h", "topic": "a"}]
    with pytest.raises(DataError, match=r"column 'mood' 0 occur in the 30 training rows that are left"):
        load_tables(DataSettings(train=data, validation=held, max_train_samples=30), tasks, seed=3)


def test_the_group_column_is_no_label_and_no_text():
    with pytest.raises(ConfigError, match=r"tasks.topic.column: 'topic' is read by data.group already"):
        load_tables(DataSettings(train=rows(30), group="topic"), TASKS, seed=0)
    with pytest.raises(ConfigError, match="data.group: is the column of the texts"):
        load_tables(DataSettings(train=rows(30), group="text"), TASKS, seed=0)


def test_repeated_texts_stay_on_one_side():
    splits = load_tables(DataSettings(train=rows(100) * 3), TASKS, seed=0).splits
    assert not set(column(splits["train"], "text")) & set(column(splits["validation"], "text"))


def test_too_few_rows_to_hold_out_are_refused():
    with pytest.raises(DataError, match=r"3 different texts are too few to hold 10% out"):
        load_tables(DataSettings(train=rows(3)), TASKS, seed=0)


def test_a_text_in_two_splits_is_said():
    tables = load_tables(DataSettings(train=rows(50), validation=rows(5), test=rows(60)[50:]), TASKS, seed=0)
    assert len(tables.warnings) == 1
    assert (
        "5 of 5 validation rows have a 'text' that train has too (first: data.validation:1)"
        in tables.warnings[0]
    )


def test_a_held_out_file_may_lack_a_tasks_column():
    tables = load_tables(DataSettings(train=rows(50), test=[{"text": "x"}]), TASKS, seed=0)
    assert column(tables.splits["test"], "topic") == [None]


def test_separate_files_for_each_task_are_one_table_with_missing_labels(tmp_path):
    moods = [{"body": f"m {i}", "mood": "ab"[i % 2]} for i in range(20)]
    sources = [
        {"path": write(tmp_path / "t.csv", rows(20))},
        {"path": write(tmp_path / "m.csv", moods), "rename": {"body": "text"}},
    ]
    tasks = {"topic": TaskSettings(), "mood": TaskSettings()}
    whole = load_tables(DataSettings(train=sources), tasks, seed=0).splits
    topics = [cell for table in whole.values() for cell in column(table, "topic")]
    assert len(topics) == 40
    assert topics.count(None) == 20


def write(path, content):
    names = list(content[0])
    path.write_text(
        "\n".join([",".join(names), *(",".join(row[n] for n in names) for row in content)]) + "\n"
    )
    return path


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            [{"txt": "a", "topic": "x"}],
            r"no column 'text' \(data.text\). Columns: txt, topic. Did you mean 'txt'\?",
        ),
        ([{"text": "a"}], "no column 'topic'"),
        ([], "no rows"),
        (
            [{"text": "a", "topic": "x"}, {"text": " ", "topic": "y"}],
            "null or empty in 1 of 2 rows: data.train:2",
        ),
        ([{"text": 3, "topic": "x"}], "data.train:1: column 'text': a text is needed, int arrived"),
    ],
)
def test_unusable_rows_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        load_tables(DataSettings(train=data), TASKS, seed=0)


def test_a_label_that_training_never_saw_is_refused_with_its_row():
    held = [{"text": "z", "topic": "d"}]
    with pytest.raises(
        DataError, match=r"data.validation:1: label 'd' is not a label of task 'topic' \(a, b, c\)"
    ):
        load_tables(DataSettings(train=rows(30), validation=held), TASKS, seed=0)


def test_two_things_from_one_column_are_refused():
    tasks = {"a": TaskSettings(column="topic"), "b": TaskSettings(column="topic")}
    with pytest.raises(ConfigError, match=r"tasks.b.column: 'topic' is read by tasks.a already"):
        load_tables(DataSettings(train=rows(30)), tasks, seed=0)


def test_strata_survive_missing_labels_and_numbers():
    data = [row | {"stars": i % 7 if i % 4 else None} for i, row in enumerate(rows(200))]
    tasks = TASKS | {"stars": TaskSettings(kind="regression")}
    splits = load_tables(DataSettings(train=data), tasks, seed=0).splits
    assert len(splits["validation"]) == 20
    assert np.mean([cell is None for cell in column(splits["validation"], "stars")]) == pytest.approx(
        0.25, abs=0.1
    )
