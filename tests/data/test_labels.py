import numpy as np
import pytest

from frostline.data.labels import TaskSettings, check_task_names, encode_labels, label_column, resolve_task
from frostline.data.table import Source, read_table
from frostline.errors import ConfigError, DataError


def table_of(cells, settings, name="t"):
    source = Source(rows=[{"t": cell} for cell in cells])
    return read_table([source], [label_column(name, settings)], split="train")


def encoded(cells, **settings):
    told = TaskSettings(**settings)
    table = table_of(cells, told)
    return encode_labels(resolve_task("t", told, table), table).tolist()


def test_labels_are_sorted_names_and_missing_cells_are_minus_100():
    assert encoded(["b", "a", "", None, float("nan"), "b"]) == [1, 0, -100, -100, -100, 1]


def test_a_decimal_comma_is_read_where_it_is_said():
    told = TaskSettings(kind="regression", decimal=",")
    table = table_of(["1,5", "-0,25", "3", 2.5, " ", None], told)
    assert table.columns["t"].to_pylist() == [1.5, -0.25, 3.0, 2.5, None, None]


def test_numbers_and_booleans_are_names_sorted_by_value():
    told = TaskSettings()
    table = table_of([10, 9, 10], told)
    assert resolve_task("t", told, table).labels == ("9", "10")
    assert resolve_task("t", told, table_of([True, False], told)).labels == ("false", "true")


def test_a_multilabel_cell_is_a_list_or_a_separated_text():
    assert encoded([["a", "b"], [], None], kind="multilabel")[:2] == [[1, 1], [0, 0]]
    assert encoded(["a| b", "b", ""], kind="multilabel", separator="|")[:2] == [[1, 1], [0, 1]]
    assert np.isnan(encoded([["a", "b"], None], kind="multilabel")[1]).all()


@pytest.mark.parametrize("separator", [None, ";"])
def test_a_multilabel_cell_of_a_table_without_types_may_be_a_list_in_json(separator):
    cells = ['["a", "b"]', "[]", ' ["b"]', ""]
    found = encoded(cells, kind="multilabel", separator=separator)
    assert found[:3] == [[1, 1], [0, 0], [0, 1]] and np.isnan(found[3]).all()


def test_a_bracket_that_is_no_list_is_part_of_a_name():
    assert encoded(["[x;y", "y"], kind="multilabel", separator=";") == [[1, 1], [0, 1]]


def test_a_regression_knows_mean_and_deviation():
    told = TaskSettings(kind="regression")
    table = table_of([1, "3", None], told)
    task = resolve_task("t", told, table)
    assert (task.target_mean, task.target_std) == (2.0, 1.0)
    assert encode_labels(task, table)[:2].tolist() == [1.0, 3.0]


def test_balanced_weights_are_inverse_frequencies():
    told = TaskSettings(class_weights="balanced")
    assert resolve_task("t", told, table_of(["a", "a", "a", "b"], told)).class_weights == (4 / 6, 2.0)


@pytest.mark.parametrize(
    ("cells", "settings", "message"),
    [
        ([None, ""], {}, "column 't' has no label in any of 2 training rows"),
        (["a", "a"], {}, r"has 1 label \(a\) in 2 labelled rows; at least 2"),
        ([str(i) for i in range(80)], {}, '80 different labels in 80 rows.*kind = "regression"'),
        ([1.5, 1.5], {"kind": "regression"}, "every training target is 1.5"),
        (["a", 1], {}, r"data.train:2: column 't': changes type: text before, numbers here"),
        ([["a"], ["b"]], {}, "a label is needed, list arrived"),
        (["x", "y"], {"kind": "regression"}, "data.train:1: column 't': 'x' is not a number"),
        ([1, float("inf")], {"kind": "regression"}, "a finite number is needed"),
        (["1,5"], {"kind": "regression"}, "'1,5' is not a number with decimal = '.', but would be with ','"),
        (["6,373"], {"kind": "regression"}, "'6,373' is not a number; leave out what divides thousands"),
        (["1,2,3"], {"kind": "regression"}, r"'1,2,3' is not a number\."),
        (["1.234,5"], {"kind": "regression", "decimal": ","}, r"'1.234,5' is not a number\."),
        (
            ["1.5"],
            {"kind": "regression", "decimal": ","},
            "'1.5' is not a number with decimal = ',', but would be with '.'",
        ),
        (["a,b"], {"kind": "multilabel"}, "give a list, or set the task's separator"),
        ([[{}]], {"kind": "multilabel"}, "a list of labels is needed"),
        (
            ["sport", "sports", "sprot"],
            {"labels": ["sport", "sports"]},
            r"data.train:3: label 'sprot'.*Did you mean",
        ),
    ],
)
def test_unusable_labels_are_refused(cells, settings, message):
    with pytest.raises(DataError, match=message):
        encoded(cells, **settings)


def test_class_weights_must_name_labels():
    told = TaskSettings(class_weights={"c": 2.0})
    with pytest.raises(ConfigError, match="'c' is not a label"):
        resolve_task("t", told, table_of(["a", "b"], told))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a", "a"]}, "stands twice"),
        ({"kind": "regression", "labels": ["a", "b"]}, "a regression has no labels"),
        ({"kind": "multilabel", "label_smoothing": 0.1}, "label_smoothing is for"),
        ({"separator": ","}, "separator is for kind 'multilabel'"),
        ({"decimal": ","}, "decimal is for kind 'regression'"),
        ({"class_weights": {"a": -1.0}}, "a weight must be above 0"),
    ],
)
def test_contradicting_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TaskSettings(**settings)


def test_a_task_name_must_be_able_to_name_a_folder():
    with pytest.raises(ConfigError, match="a letter followed by"):
        check_task_names({"../x": 1})
    with pytest.raises(ConfigError, match="tasks: none"):
        check_task_names({})
