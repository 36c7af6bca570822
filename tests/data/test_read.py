import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.data import read as read_module
from frostline.data.read import column_names, iter_blocks, schema_of, separator_of
from frostline.data.rows import blocks_of
from frostline.errors import DataError

ROWS = [{"text": 'a, "b"\nc', "label": "x"}, {"text": "é ü 漢", "label": "y"}]


def read(path, **options):
    return [row for block in iter_blocks(path, **options) for row in block.rows]


def write(path, rows=ROWS):
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path.with_name("plain"))
        data = path.with_name("plain").read_bytes()
    elif kind == "jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        separator = "\t" if kind == "tsv" else ","
        quoted = [separator.join('"' + str(v).replace('"', '""') + '"' for v in row.values()) for row in rows]
        data = "\n".join([separator.join(rows[0]), *quoted]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_every_format_gives_the_same_rows(tmp_path, ending, gz):
    assert read(write(tmp_path / f"d.{ending}{gz}")) == ROWS


def test_rows_come_in_blocks_with_the_line_they_start_in(tmp_path):
    blocks = list(iter_blocks(write(tmp_path / "d.csv"), block_rows=1))
    assert [block.lines for block in blocks] == [[2], [4]]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_long_rows_come_in_smaller_blocks(tmp_path, monkeypatch, ending):
    rows = [{"text": str(i % 10) * 1000} for i in range(50)]
    monkeypatch.setattr(read_module, "_BLOCK_LENGTH", 5000)
    path = tmp_path / f"d.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, compression="none", use_dictionary=False)
    else:
        lines = [json.dumps(row) if ending == "jsonl" else row["text"] for row in rows]
        path.write_text("\n".join((["text"] if ending == "csv" else []) + lines) + "\n")
    blocks = list(iter_blocks(path))
    assert [row for block in blocks for row in block.rows] == rows
    assert max(len(block.rows) for block in blocks) <= 6


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\na,x\r\n")
    assert read(path) == [{"text": "a", "label": "x"}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("d.txt", b"x", "cannot tell the format.*Accepted endings: .csv"),
        ("d.jsonl", b'{"a": 1}\n{"a": \n', r"d.jsonl:2: not a JSON object"),
        ("d.jsonl", b'{"a": 1}\n[1]\n', r"d.jsonl:2: a JSON object is needed, list arrived"),
        ("d.jsonl", b"[" * 100_000, r"d.jsonl:1: not a JSON object"),
        ("d.jsonl", b'{"a": "\xff"}\n', r"d.jsonl:1: byte 0xff is not UTF-8"),
        ("d.csv", b"a,b\n1,2\n1,2,3\n", r"d.csv:3: 3 cells, but the header names 2 columns"),
        ("e.csv", b"a,b\n1,2\n1\n", r"e.csv:3: 1 cell, but .* names 2 columns .* is left empty"),
        ("d.csv", b'a,b\n1,"2\n', r"d.csv:2: not valid CSV"),
        ("d.csv", b"a,b\r1,2\r", r"ends in CR alone"),
        ("d.csv", b"a,a\n1,2\n", r"d.csv:1: two columns are called 'a'"),
        ("d.csv", b"", r"d.csv: is empty"),
        (
            "d.csv",
            b"a,b\n\xe9,1\n",
            r"d.csv:2: byte 0xe9 is not UTF-8.*; if it is in WINDOWS-1252, iconv -f WINDOWS-1252",
        ),
        (
            "d.csv",
            "a,b\n1,2\n".encode("utf-16"),
            r"d.csv:1: byte 0xff is not UTF-8.* It begins as UTF-16 does: convert it, iconv -f UTF-16 ",
        ),
        (
            "d.csv",
            b"PK\x03\x04\x14\x00\xff",
            r"d.csv:1: .* begins as an Excel workbook or another ZIP archive. Give",
        ),
        (
            "d.csv",
            gzip.compress(b"a,b\n", mtime=0),
            r"d.csv:1: .* begins as a gzip file, .* end in .gz. Give",
        ),
        ("d.jsonl", b"PAR1\x15\x04\xff", r"d.jsonl:1: .* begins as a Parquet file"),
        (
            "d.csv",
            b"a,b\n\x7f\x45\x00\xfe,1\n",
            r"d.csv:2: byte 0xfe is not UTF-8.* no text. Is it another kind of",
        ),
        ("d.csv.gz", b"plain", r"d.csv.gz: is not a whole gzip file"),
        ("d.csv.gz", gzip.compress(b"a,b\n" * 99, mtime=0)[:-9], r"d.csv.gz: is not a whole gzip file"),
        ("d.parquet", b"PAR1xx", r"d.parquet: not a readable Parquet file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(DataError, match=r"is a folder. Give a file in it"):
        read(tmp_path / "dir.csv")


def test_a_lone_surrogate_becomes_the_replacement_character(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a\\ud800b", "l": ["\\udfff"], "ok": "\\ud83d\\ude00"}\n')
    assert read(path) == [{"text": "a�b", "l": ["�"], "ok": "😀"}]


def test_rows_in_memory_may_be_dicts_a_dataset_a_frame_or_a_table():
    import datasets
    import pandas as pd

    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    for data in (rows, datasets.Dataset.from_list(rows), pd.DataFrame(rows), pa.Table.from_pylist(rows)):
        assert [row for block in blocks_of(data) for row in block.rows] == rows


@pytest.mark.parametrize(
    ("data", "message"), [(3, "int is no table"), (["a"], "row 1: a dict is needed, str")]
)
def test_other_data_in_memory_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        list(blocks_of(data))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda t: t.strip("\r\n")),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_comes_back_from_every_format(tmp_path_factory, texts):
    from frostline.inference.write import row_writer

    folder = tmp_path_factory.mktemp("any")
    schema = pa.schema([("text", pa.string()), ("n", pa.string())])
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        rows = [{"text": text, "n": str(i)} for i, text in enumerate(texts)]
        with row_writer(folder / f"d.{ending}", columns=["text", "n"], schema=schema) as writer:
            writer.write(rows)
        assert read(folder / f"d.{ending}") == rows, ending


def test_numpy_values_are_taken_for_what_they_hold():
    rows = [
        {"text": np.str_("a"), "label": np.int64(3), "tags": np.asarray(["x", "y"]), "ok": np.bool_(True)}
    ]
    (block,) = blocks_of(rows)
    assert block.rows == [{"text": "a", "label": 3, "tags": ["x", "y"], "ok": True}]
    assert type(block.rows[0]["label"]) is int


def test_missing_cells_of_a_data_frame_are_none():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", "b"], "n": pandas.array([1, None], "Int64"), "x": [1.5, None]})
    (block,) = blocks_of(frame)
    assert block.rows == [{"text": "a", "n": 1, "x": 1.5}, {"text": "b", "n": None, "x": None}]


def test_class_numbers_of_a_dataset_get_their_names():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_list(
        [{"text": "a", "label": 1}, {"text": "b", "label": -1}, {"text": "c", "label": None}],
        features=features,
    )
    (block,) = blocks_of(data)
    assert [row["label"] for row in block.rows] == ["yes", None, None]


def test_columns_and_types_are_those_of_the_whole_file(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1}\n' * 5000 + '{"a": 1.5, "b": "x"}\n')
    assert column_names(path) == ["a", "b"]
    assert schema_of(path) == pa.schema([("a", pa.float64()), ("b", pa.string())])
    path.write_text('{"a": 1}\n' * 5000 + '{"a": "x"}\n')
    with pytest.raises(DataError, match=r"d.jsonl: a column changes type in lines 4097 to 5001"):
        schema_of(path)
    (tmp_path / "d.csv").write_text("a,b\n")
    assert schema_of(tmp_path / "d.csv") == pa.schema([("a", pa.string()), ("b", pa.string())])


@pytest.mark.parametrize("name", ["mails.csv", "mails.tsv"])
@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_another_separator_is_found_by_the_first_line(tmp_path, mark, name):
    path = tmp_path / name
    path.write_text(mark.join(["id", "mail", "topic"]) + "\n" + mark.join(["1", "well, hello", '"a"']) + "\n")
    (block,) = iter_blocks(path)
    assert block.rows == [{"id": "1", "mail": "well, hello", "topic": "a"}] and block.lines == [2]
    assert column_names(path) == ["id", "mail", "topic"]
    assert separator_of(path) == (mark if name.endswith("csv") else ",")


def test_the_usual_separator_comes_first_and_a_quoted_one_is_none(tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text('text,"a;b"\nhi;ho,1\n')
    assert next(iter_blocks(path)).rows == [{"text": "hi;ho", "a;b": "1"}]
    path.write_text('"text;",x\nhi,1\n')
    assert next(iter_blocks(path)).rows == [{"text;": "hi", "x": "1"}]
    path.write_text('\ufeff"a, or b";topic\n"x;y";1\n', encoding="utf-8")
    assert column_names(path) == ["a, or b", "topic"]
    path.write_text("text\nhi;ho, hi\n")
    assert next(iter_blocks(path)).rows == [{"text": "hi;ho, hi"}] and separator_of(path) == ","
    path.write_text('"a\nb";c\n1;2\n')
    assert next(iter_blocks(path)).rows == [{"a\nb": "1", "c": "2"}]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('id;"text, or mail"\n1;"hi, you"\n', ["id", "text, or mail"]),
        ("id;price, EUR;text\n1;2;hi\n", ["id", "price, EUR", "text"]),
        ("id\ttext, raw\n1\thi\n", ["id", "text, raw"]),
        ("id,mark (good|bad|ugly)\n1,good\n", ["id", "mark (good|bad|ugly)"]),
        ("yes|no?\nhello\n", ["yes|no?"]),
        ("text\nhi, you\n", ["text"]),
        ("text, raw\nhi\n", ["text, raw"]),
        ('Nr.;Text, raw\n1;"a\nb"\n2;c\n', ["Nr.", "Text, raw"]),
        ('Nr.;Text, raw\n1;"a, b"\n2;c, d\n3;e\n', ["Nr.", "Text, raw"]),
        ("a;b\n", ["a", "b"]),
        ('a;b\n1;"x\ny"\n', ["a", "b"]),
        ("text\n", ["text"]),
        ('text\tlabel\na 5" screen\tpos, not a 7" one\n', ["text", "label"]),
        ('text;label\n"say ""hi; you""";pos\n', ["text", "label"]),
    ],
)
def test_the_first_rows_have_a_say_in_the_separator(tmp_path, text, names):
    path = tmp_path / "mails.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert column_names(path) == names
    assert all(list(row) == names for row in read(path))


def test_a_row_of_another_width_names_the_separator_and_a_hint_for_spreadsheets_is_refused(tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text("id;mail\n1;a;b\n")
    with pytest.raises(
        DataError, match=r"mails.csv:2: 3 cells, but the header names 2 columns \(id, mail\) by ';'"
    ):
        read(path)
    path.write_text("sep=;\nid;mail\n1;a\n")
    with pytest.raises(DataError, match="mails.csv:1: 'sep=' speaks to a spreadsheet alone"):
        read(path)
