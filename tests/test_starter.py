"""A starter file from a look at the data is one that trains."""

import json

import pytest

import frostline as fl
from conftest import write_jsonl
from frostline.config import Config
from frostline.errors import DataError
from frostline.starter import build_starter


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_of_splits_gives_a_file_that_trains(toy, tiny, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(build_starter(toy))
    config = Config.load(
        file, changes={"model.backbone": str(tiny), "plan.recipe": "features", "model.max_length": 32}
    )
    assert set(config.tasks) == {"topic", "mood", "stars"}
    assert config.data.text == "text"
    assert config.data.test is not None
    assert fl.train(config, output=tmp_path / "run").report["test"]["score"] > 0.5


def test_kinds_are_guessed_from_the_cells(tmp_path):
    rows = [
        {
            "id": str(i), "review": f"a long text with the number {i}", "stars": i % 5, "score": i / 7,
            "tags": ["a"], "marks": ["x;y", "y; z", "z", "x"][i % 4], "author": f"p{i % 9}", "my label": "yes" if i % 2 else "no", "empty": None,
        }
        for i in range(100)
    ]  # fmt: skip
    text = build_starter(write(tmp_path / "reviews.jsonl", rows))
    (tmp_path / "run.toml").write_text(text)
    config = Config.load(tmp_path / "run.toml")
    assert config.data.text == "review"
    assert config.data.group == "author"
    assert {name: task.kind for name, task in config.tasks.items()} == {
        "stars": "classification", "score": "regression", "tags": "multilabel", "marks": "multilabel",
        "my_label": "classification",
    }  # fmt: skip
    assert config.tasks["my_label"].column == "my label"
    assert config.tasks["marks"].separator == ";"


def test_decimals_are_measured_and_lists_may_be_spelled_in_json(tmp_path):
    rows = [
        {
            "text": f"a text with the number {i}", "urgency": 1 + i % 41 / 10, "half_stars": 1 + i % 9 / 2,
            "year": 1980 + i % 40, "tags": json.dumps([["a", "b"], [], ["b"]][i % 3]), "rate": [1.5, float("inf")][i % 2],
            "ticket": "open",
        }
        for i in range(300)
    ]  # fmt: skip
    text = build_starter(write(tmp_path / "tickets.jsonl", rows))
    (tmp_path / "run.toml").write_text(text)
    tasks = Config.load(tmp_path / "run.toml").tasks
    assert {name: task.kind for name, task in tasks.items()} == {
        "urgency": "regression", "half_stars": "classification", "year": "classification", "tags": "multilabel",
        "rate": "classification",
    }  # fmt: skip
    assert tasks["tags"].separator is None
    assert 'not look like labels: "ticket" (one value as far as was looked).' in text


def test_numbers_with_a_decimal_comma_are_measured_and_train(tiny, tmp_path):
    rows = [f"ein Text mit der Nummer {i};{i // 10},{i % 10}" for i in range(60)]
    (tmp_path / "notes.csv").write_text("\n".join(["Satz;Wert", *rows]))
    starter = build_starter(tmp_path / "notes.csv")
    (tmp_path / "run.toml").write_text(starter)
    changes = {"model.backbone": str(tiny), "model.max_length": 32, "plan.recipe": "features"}
    config = Config.load(tmp_path / "run.toml", changes=changes)
    assert (config.tasks["Wert"].kind, config.tasks["Wert"].decimal) == ("regression", ",")
    fl.train(config, output=tmp_path / "run")
    task = fl.load(tmp_path / "run" / "model").tasks["Wert"]
    assert 2 < task.target_mean < 4
    assert task.decimal == ","


def test_commas_that_may_divide_thousands_and_single_odd_cells_tell_no_decimal_comma(tmp_path):
    rows = [
        {"text": f"t {i}", "mood": "ab"[i % 2], "price": f"{1 + i % 9},{100 + i}", "share": f"0.{i % 60:02}"}
        for i in range(300)
    ]
    rows[7]["share"] = "unknown, ask"
    (tmp_path / "run.toml").write_text(build_starter(write(tmp_path / "d.jsonl", rows)))
    assert set(Config.load(tmp_path / "run.toml").tasks) == {"mood"}
    starter = (tmp_path / "run.toml").read_text()
    assert '# Points or commas in "price" may divide thousands' in starter
    assert '# "share" holds numbers, but for cells such as "unknown, ask".\n' in starter


def test_numbers_that_are_taken_for_classes_or_may_be_thousands_are_said(tmp_path):
    rows = [
        {"text": f"t {i}", "stars": f"{1 + i % 9 / 2}", "price": f"{1 + i % 9}.{100 + i}", "mood": "ab"[i % 2],
         "predicted_mood": "ab"[i % 2]}
        for i in range(300)
    ]  # fmt: skip
    starter = build_starter(write(tmp_path / "d.jsonl", rows))
    assert (
        '# "stars" holds numbers, taken for classes: kind = "regression" if their order matters.\n' in starter
    )
    assert '# Points or commas in "price" may divide thousands' in starter
    assert '# "mood"' not in starter
    (tmp_path / "run.toml").write_text(starter)
    assert set(Config.load(tmp_path / "run.toml").tasks) == {"stars", "price", "mood"}


def test_a_column_of_labels_is_no_column_of_texts(tmp_path):
    rows = [{"queue": ["billing", "legal", "sales"][i % 3], "urgency": i / 7} for i in range(60)]
    with pytest.raises(DataError, match="no column of texts; the longest, 'queue', looks like labels"):
        build_starter(write(tmp_path / "d.jsonl", rows))


def test_columns_whose_names_cannot_be_tasks_get_names_of_their_own(tmp_path):
    rows = [{"text": f"t {i}", "情感": "ab"[i % 2], "主题": "xy"[i % 2]} for i in range(40)]
    (tmp_path / "run.toml").write_text(build_starter(write(tmp_path / "d.jsonl", rows)))
    config = Config.load(tmp_path / "run.toml")
    assert {name: task.column for name, task in config.tasks.items()} == {"task_1": "情感", "task_2": "主题"}


def test_accents_are_dropped_from_names(tmp_path):
    rows = [{"text": f"t {i}", "Gefühl": "ab"[i % 2], "Gefuhl": "xy"[i % 2]} for i in range(40)]
    (tmp_path / "run.toml").write_text(build_starter(write(tmp_path / "d.jsonl", rows)))
    config = Config.load(tmp_path / "run.toml")
    assert {name: task.column for name, task in config.tasks.items()} == {
        "Gefuhl": "Gefühl",
        "Gefuhl_2": "Gefuhl",
    }


def test_no_column_is_lost_to_a_name_that_two_would_have(tmp_path):
    columns = ["mood", "mood_2", "mo\u0301od", "m" * 64 + "a", "m" * 64 + "b"]
    rows = [
        {"text": f"t {i}"} | {column: "ab"[(i + j) % 2] for j, column in enumerate(columns)}
        for i in range(40)
    ]
    (tmp_path / "run.toml").write_text(build_starter(write(tmp_path / "d.jsonl", rows)))
    config = Config.load(tmp_path / "run.toml")
    assert [task.column for task in config.tasks.values()] == columns


def test_columns_that_are_no_labels_are_said(tmp_path):
    rows = [
        {"text": f"t {i}", "id": i, "mood": "ab"[i % 2], "no\nte": f"n{i}", "void": None} for i in range(40)
    ]
    starter = build_starter(write(tmp_path / "d.jsonl", rows))
    assert (
        '# Columns that do not look like labels: "id", "no\\nte", "void" (empty as far as was looked).\n'
        in starter
    )
    (tmp_path / "run.toml").write_text(starter)
    assert set(Config.load(tmp_path / "run.toml").tasks) == {"mood"}


def test_only_tables_are_splits(toy, tmp_path):
    import shutil

    shutil.copy(toy / "train.jsonl", tmp_path / "train.jsonl")
    (tmp_path / "test.py").write_text("print()")
    assert "test.py" not in build_starter(tmp_path)


def test_files_that_were_found_beside_the_one_given_are_said(toy, tmp_path):
    assert '# Found beside it: "test.jsonl", "validation.jsonl".\n' in build_starter(toy / "train.jsonl")
    assert "Found beside" not in build_starter(toy / "test.jsonl") + build_starter(toy)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a b"}], r"no column looks like labels; beside the texts, 'text', it has none\."),
        ([{"text": "a b", "mood": "good"}], r'it has "mood" \(one value as far as was looked\)\.'),
        ([{"n": 1}, {"n": 2}], "no column of texts"),
    ],
)
def test_data_that_gives_no_starter_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        build_starter(write(tmp_path / "d.jsonl", rows))


def test_missing_and_empty_inputs_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        build_starter(tmp_path / "d.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="holds no train file"):
        build_starter(tmp_path / "folder")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="no rows"):
        build_starter(tmp_path / "empty.jsonl")


def test_a_place_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        build_starter(tmp_path / "nowhere")


def test_many_words_are_labels_where_each_comes_often(tmp_path):
    rows = [
        {"text": f"a longer text of number {i}", "kind": f"kind {i % 60}", "id": i % 60} for i in range(600)
    ]
    assert build_starter(write_jsonl(tmp_path / "many.jsonl", rows)).count("[tasks.") == 1
    assert "[tasks.kind]" in build_starter(tmp_path / "many.jsonl")


def test_labels_divided_by_commas_are_several_and_sentences_are_not(tmp_path):
    marks = ["red", "green", "blue", "round", "flat", "new", "old"]
    rows = [
        {
            "text": f"a long sentence, with a comma, and the number {i}",
            "tags": ", ".join(marks[j] for j in range(7) if i >> j & 1) or "plain",
            "remark": f"seen by {i}, told by {i + 1}",
            "is_new": i % 2 == 0,
        }
        for i in range(120)
    ]
    text = build_starter(write(tmp_path / "data.jsonl", rows))
    assert '[tasks.tags]\ncolumn = "tags"\nkind = "multilabel"\nseparator = ","' in text
    assert 'do not look like labels: "remark"' in text
    assert "[tasks.is_new]" in text and "holds numbers" not in text
