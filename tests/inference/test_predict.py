"""Files through a model: rows keep their order and columns, whatever the format."""

import csv
import gzip
import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import frostline as fl
from frostline.data import read as read_module
from frostline.data.read import iter_blocks
from frostline.errors import DataError
from frostline.inference.predict import embed_file, evaluate_file, predict_file

ROWS = [
    {"id": "7", "text": 'the "goal", was\ngreat', "note": "é"},
    {"id": "3", "text": "an awful bank", "note": "=1+1"},
    {"id": "9", "text": "", "note": ""},
    {"id": "1", "text": "the soup was great", "note": "z"},
]
ADDED = ["predicted_topic", "probability_topic", "predicted_mood", "probability_mood", "predicted_stars"]


@pytest.fixture(scope="module")
def model(trained):
    return fl.load(trained, precision="fp32")


def write(path, rows):
    if ".jsonl" in path.suffixes:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "wt", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if ".tsv" in path.suffixes else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path):
    return [row for block in iter_blocks(path) for row in block.rows]


@pytest.mark.parametrize("source", ["in.csv", "in.tsv.gz", "in.jsonl", "in.parquet"])
@pytest.mark.parametrize("target", ["out.csv.gz", "out.tsv", "out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_predictions_keep_rows_columns_and_order_in_every_format(model, tmp_path, source, target):
    report = predict_file(model, write(tmp_path / source, ROWS), tmp_path / target)
    rows = read(tmp_path / target)
    assert [{k: row[k] for k in ROWS[0]} for row in rows] == ROWS
    assert list(rows[0]) == [*ROWS[0], *ADDED, "predicted_tags", "probability_tags"]
    known = [0, 1, 3]
    assert [rows[i]["predicted_topic"] for i in known] == ["sport", "money", "food"]
    assert all(float(rows[i]["probability_mood"]) > 0.5 for i in known)
    assert all(rows[2][name] in (None, "") for name in ADDED)
    tags = rows[0]["predicted_tags"]
    said = set(json.loads(tags) if isinstance(tags, str) else tags)
    assert {"sport", "good"} <= said == set(model.predict([ROWS[0]["text"]])["tags"][0])
    sure = rows[0]["probability_tags"]
    sure = json.loads(sure) if isinstance(sure, str) else sure
    share = dict(
        zip(model.tasks["tags"].labels, model.predict_proba([ROWS[0]["text"]])["tags"][0], strict=True)
    )
    order = json.loads(tags) if isinstance(tags, str) else tags
    np.testing.assert_allclose(sure, [share[label] for label in order], atol=2e-6)
    assert (report.num_rows, report.num_empty) == (4, 1)
    assert len(report.empty_rows) == 1


def test_a_file_with_semicolons_is_answered_with_semicolons(model, tmp_path):
    (tmp_path / "in.csv").write_text("id;text\n1;the goal, and the match\n")
    predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id;text;predicted_topic;")
    assert read(tmp_path / "out.csv")[0]["text"] == "the goal, and the match"
    predict_file(model, tmp_path / "in.csv", tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text().startswith("id\ttext\tpredicted_topic\t")
    (tmp_path / "in.tsv").write_text("id\ttext\n1\tthe goal\n")
    predict_file(model, tmp_path / "in.tsv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id,text,predicted_topic,")


def test_a_name_that_holds_a_separator_does_not_hide_the_one_that_divides(model, tmp_path):
    (tmp_path / "in.csv").write_text('"text, raw";id\n"the goal, and the match";1\n')
    predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv", text="text, raw")
    assert read(tmp_path / "out.csv")[0]["id"] == "1"


def test_a_file_says_what_python_says(model, tmp_path):
    predict_file(model, write(tmp_path / "in.csv", ROWS), tmp_path / "out.jsonl")
    texts = [row["text"] for row in ROWS if row["text"]]
    answers = model.predict(texts)
    rows = [row for row in read(tmp_path / "out.jsonl") if row["text"]]
    assert [row["predicted_topic"] for row in rows] == answers["topic"]
    np.testing.assert_allclose([row["predicted_stars"] for row in rows], answers["stars"], rtol=1e-6)


def test_embeddings_go_to_a_matrix_or_beside_the_rows(model, tmp_path):
    source = write(tmp_path / "in.csv", ROWS)
    for name in ("e.npy", "e.jsonl", "e.parquet", "e.csv"):
        embed_file(model, source, tmp_path / name)
    matrix = np.load(tmp_path / "e.npy")
    assert matrix.dtype == np.float32
    assert matrix.shape == (4, 32)
    assert np.isnan(matrix[2]).all()
    known = [0, 1, 3]
    np.testing.assert_allclose(matrix[known], model.encode([ROWS[i]["text"] for i in known]), atol=1e-6)
    for name in ("e.jsonl", "e.parquet"):
        rows = read(tmp_path / name)
        assert rows[2]["embedding"] is None
        np.testing.assert_allclose([rows[i]["embedding"] for i in known], matrix[known], atol=1e-6)
    schema = pq.read_schema(tmp_path / "e.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float32()), "older readers know no other with gaps"
    rows = read(tmp_path / "e.csv")
    assert rows[2]["embedding_0"] == ""
    np.testing.assert_allclose([float(rows[i]["embedding_31"]) for i in known], matrix[known, 31], atol=1e-6)


def test_the_same_input_gives_the_same_bytes(model, tmp_path):
    source = write(tmp_path / "in.csv", ROWS)
    for name in ("out.csv.gz", "out.parquet", "out.jsonl"):
        outputs = []
        for _ in range(2):
            predict_file(model, source, tmp_path / name)
            outputs.append((tmp_path / name).read_bytes())
        assert outputs[0] == outputs[1], name


def test_a_types_of_parquet_columns_are_kept(model, tmp_path):
    table = pa.table(
        {
            "when": pa.array([1, 2], pa.timestamp("ms")),
            "n": pa.array([1, None], pa.int8()),
            "text": pa.array(["soup", "bank"], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    predict_file(model, tmp_path / "in.parquet", tmp_path / "out.parquet")
    after = pq.read_table(tmp_path / "out.parquet")
    assert after.select(table.column_names).equals(table)
    assert after.schema.field("predicted_tags").type == pa.list_(pa.string())


def test_a_parquet_file_whose_first_rows_have_no_text_can_be_written(model, tmp_path):
    rows = [{"text": None}] * 5000 + [{"text": "the soup was great"}]
    predict_file(model, write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    assert read(tmp_path / "out.parquet")[-1]["predicted_topic"] == "food"


def test_an_empty_file_gives_an_empty_file(model, tmp_path):
    (tmp_path / "in.jsonl").write_text("")
    (tmp_path / "in.csv").write_text("text\n")
    assert predict_file(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl").num_rows == 0
    assert (tmp_path / "out.jsonl").read_text() == ""
    predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv")
    embed_file(model, tmp_path / "in.csv", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (0, 32)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"txt": "a"}], r"in.jsonl: no column 'text'. Columns: txt. Did you mean 'txt'\?.*--text"),
        ([{"text": "a", "predicted_topic": "x"}], "has a column 'predicted_topic' already"),
        ([{"text": "a"}, {"text": 5}], r"in.jsonl:2: column 'text': a text is needed, int arrived \(5\)"),
    ],
)
def test_a_file_that_cannot_be_predicted_is_refused_and_leaves_no_output(model, tmp_path, rows, message):
    source = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError, match=message):
        predict_file(model, source, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_output_that_cannot_be_one_is_refused_at_once(model, tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(DataError, match=r"out.csv: is a folder"):
        predict_file(model, source, tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"Accepted endings.*Or .npy: one matrix"):
        embed_file(model, source, tmp_path / "out.txt")
    embed_file(model, source, tmp_path / "OUT.NPY")
    assert np.load(tmp_path / "OUT.NPY").shape == (4, 32)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.csv", "OUT.NPY"}


def test_times_that_only_pandas_can_hold_are_told(model, tmp_path, monkeypatch):
    def refuse(*_):  # what pyarrow says where pandas is not installed
        raise ValueError("Nanosecond resolution temporal type 1 is not safely convertible. Install pandas …")

    monkeypatch.setattr(read_module, "_parquet_batches", refuse)
    with pytest.raises(
        DataError, match=r"in.parquet: not a readable Parquet file \(Nanosecond .*convertible\)"
    ):
        predict_file(model, write(tmp_path / "in.parquet", ROWS), tmp_path / "out.csv")


def test_numbers_that_parquet_cannot_hold_are_told(model, tmp_path):
    rows = write(tmp_path / "in.jsonl", [{"text": "soup", "n": 10**30}])
    with pytest.raises(DataError, match="which Parquet cannot hold. Write JSONL instead"):
        predict_file(model, rows, tmp_path / "out.parquet")


def test_numbers_that_json_cannot_hold_are_null(model, tmp_path):
    table = pa.table(
        {"text": ["good", "bad"], "price": [float("nan"), 2.5], "all": [[1.0, float("inf")], []]}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    predict_file(model, tmp_path / "in.parquet", tmp_path / "out.jsonl")

    def refuse(word):
        raise AssertionError(word)

    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["price"] for row in rows] == [None, 2.5]
    assert [row["all"] for row in rows] == [[1.0, None], []]


@pytest.mark.parametrize("name", ["real.jsonl", "out.jsonl"], ids=["to a file", "to itself"])
def test_a_link_is_not_replaced_by_an_output(model, tmp_path, name):
    write(tmp_path / "in.jsonl", [{"text": "good"}])
    (tmp_path / "out.jsonl").symlink_to(tmp_path / name)
    with pytest.raises(DataError, match=f"is a link to .*{name}"):
        predict_file(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").is_symlink() and not list(tmp_path.glob(".out*"))


def test_another_column_of_texts_can_be_named(model, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"body": "the soup was great", "text": "the goal was great"}])
    predict_file(model, source, tmp_path / "out.jsonl", text="body")
    assert read(tmp_path / "out.jsonl")[0]["predicted_topic"] == "food"


def test_the_input_is_never_the_output(model, tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "link.jsonl").symlink_to(source)
    for target, reason in ((source, "is the input too"), (tmp_path / "link.jsonl", "is a link to")):
        with pytest.raises(DataError, match=reason):
            predict_file(model, source, target)
    with pytest.raises(DataError, match="is the input too"):
        predict_file(model, tmp_path / "link.jsonl", source)
    assert read(source) == ROWS


def test_a_broken_row_late_in_the_file_keeps_what_stood_at_the_output(model, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"text": "soup"}] * 9000)
    source.write_text(source.read_text() + "{broken\n")
    (tmp_path / "out.jsonl").write_text("old")
    with pytest.raises(DataError, match=r"in.jsonl:9001: not a JSON object"):
        predict_file(model, source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", ".out.jsonl-parts"}


def test_memory_does_not_grow_with_the_file(model, tmp_path):
    small = write(tmp_path / "small.jsonl", [{"text": "the soup was great", "pad": "x" * 1000}] * 5_000)
    large = write(tmp_path / "large.jsonl", [{"text": "the soup was great", "pad": "x" * 1000}] * 60_000)
    predict_file(model, small, tmp_path / "out.jsonl")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predict_file(model, large, tmp_path / "out.jsonl")
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 20, f"{grown_mib:.0f} MiB for a file of 60 MB"


def test_scores_are_of_labelled_rows_only(model, tmp_path):
    rows = [
        {"text": "the goal was great", "topic": "sport", "stars": 1.0},
        {"text": "an awful bank", "topic": None, "stars": -1.0},
    ]
    found = evaluate_file(model, write(tmp_path / "d.jsonl", rows))
    assert set(found["tasks"]) == {"topic", "stars"}
    assert found["without_labels"] == {"mood": "mood", "tags": "tags"}
    assert found["tasks"]["topic"]["num_labelled"] == 1
    assert found["tasks"]["topic"]["accuracy"] == 1.0
    assert set(found["tasks"]["stars"]) == {"num_labelled", "mae", "rmse", "pearson", "intervals"}
    assert found["score"] == pytest.approx(
        (found["tasks"]["topic"]["macro_f1"] + found["tasks"]["stars"]["pearson"]) / 2
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text": "a", "topic": "sports"}],
            r"d.jsonl:1: label 'sports' is not a label of task 'topic'.*'sport'",
        ),
        (
            [
                {"text": "a", "topic": topic}
                for topic in ("sport", "opera", "chess", "opera", "chess", "chess")
            ],
            r"d.jsonl:2: label 'opera' is not .* Nor are 'chess' \(3\)\. Empty such cells",
        ),
        ([{"text": "a", "x": "y"}], r"no row has a label of any task. Columns looked for: topic, mood"),
        ([{"text": None, "topic": "sport"}], r"column 'text' is null or empty in 1 of 1 rows: .*d.jsonl:1"),
        ([{"text": "a", "stars": "many"}], r"d.jsonl:1: column 'stars': 'many' is not a number"),
    ],
)
def test_what_cannot_be_scored_is_refused(model, tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        evaluate_file(model, write(tmp_path / "d.jsonl", rows))
