"""Commands on files that were killed: they go on, every row is answered once, and the bytes are the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from filelock import FileLock

import frostline as fl
from frostline.errors import DataError, RunError
from frostline.inference import predict
from frostline.inference.parts import KEPT
from frostline.inference.predict import embed_file, predict_file

BLOCK = 100


@pytest.fixture(scope="module")
def model(trained):
    return fl.load(trained, precision="fp32")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Ten blocks of texts, one of them empty."""
    blocks = predict.iter_blocks
    monkeypatch.setattr(predict, "iter_blocks", lambda path: blocks(path, block_rows=BLOCK))
    rows = [{"id": i, "text": f"the goal number {i} was great" if i % 7 else ""} for i in range(10 * BLOCK)]
    rows[300:400] = [row | {"text": None} for row in rows[300:400]]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def counted(model, monkeypatch):
    """How many texts the model has embedded."""
    done = []
    encode = fl.Model.encode_tokens

    def count(self, tokens):
        done.append(len(tokens))
        return encode(self, tokens)

    monkeypatch.setattr(fl.Model, "encode_tokens", count)
    return done


class Cut(BaseException):
    """What ends a command in the middle."""


def cut_after(rows):
    def watch(done):
        if done >= rows:
            raise Cut

    return watch


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (predict_file, "out.jsonl"),
        (predict_file, "out.csv.gz"),
        (predict_file, "out.parquet"),
        (embed_file, "out.npy"),
        (embed_file, "out.jsonl"),
        (embed_file, "out.csv"),
    ],
)
def test_what_was_done_is_not_done_again(model, source, tmp_path, counted, call, name):
    call(model, source, tmp_path / f"whole-{name}")
    whole = sum(counted)
    for rows in (4 * BLOCK, 8 * BLOCK):
        with pytest.raises(Cut):
            call(model, source, tmp_path / name, watch=cut_after(rows))
        assert not (tmp_path / name).exists()
    counted.clear()
    report = call(model, source, tmp_path / name)
    assert 0 < sum(counted) <= 0.3 * whole
    assert report.num_rows == 10 * BLOCK and report.num_empty > BLOCK
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert not list(tmp_path.glob(f".{name}*"))


def test_only_the_rows_that_changed_are_answered_again(model, source, tmp_path, counted):
    with pytest.raises(Cut):
        predict_file(model, source, tmp_path / "out.jsonl", watch=cut_after(5 * BLOCK))
    source.write_text(source.read_text().replace("the goal number 205 ", "the bank number 205 "))
    counted.clear()
    predict_file(model, source, tmp_path / "out.jsonl")
    blocks = [count for count in counted if count]
    assert len(blocks) == 6
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert rows[205]["predicted_topic"] == model.predict([rows[205]["text"]])["topic"][0]


def test_parts_of_another_model_or_format_are_not_taken(model, trained, source, tmp_path, counted):
    with pytest.raises(Cut):
        embed_file(model, source, tmp_path / "out.npy", watch=cut_after(5 * BLOCK))
    other = fl.load(trained, precision="fp32")
    with torch.no_grad():
        next(other.network.parameters()).mul_(2)
    embed_file(other, source, tmp_path / "out.npy")
    embed_file(other, source, tmp_path / "fresh.npy")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "fresh.npy").read_bytes()


def test_predictions_are_no_embeddings(model, source, tmp_path):
    with pytest.raises(Cut):
        predict_file(model, source, tmp_path / "out.jsonl", watch=cut_after(5 * BLOCK))
    embed_file(model, source, tmp_path / "out.jsonl")
    embed_file(model, source, tmp_path / "fresh.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()


def test_what_lies_beside_the_output_and_is_not_its_stays(model, source, tmp_path):
    names = (".out.npy.metadata", ".out.npy.gz.abcdefgh.half", ".out.npy-notes")
    others = [tmp_path / name for name in names]
    for place in others:
        place.write_text("mine")
    left = tmp_path / ".out.npy.abcdefgh.half"
    left.write_text("of a killed process")
    embed_file(model, source, tmp_path / "out.npy")
    assert all(place.exists() for place in others) and not left.exists()


@pytest.mark.parametrize("damage", ["empty", "zeros", "flip"])
def test_a_damaged_part_is_made_again(model, source, tmp_path, damage):
    embed_file(model, source, tmp_path / "whole.npy")
    with pytest.raises(Cut):
        embed_file(model, source, tmp_path / "out.npy", watch=cut_after(5 * BLOCK))
    place = tmp_path / ".out.npy-parts" / "00000001.safetensors"
    data = bytearray(place.read_bytes())
    data[-100] ^= 1
    place.write_bytes({"empty": b"", "zeros": bytes(40), "flip": bytes(data)}[damage])
    embed_file(model, source, tmp_path / "out.npy")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_row_that_stops_a_command_costs_only_itself(model, source, tmp_path, counted):
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:-1], '{"text": 5}']) + "\n")
    with pytest.raises(DataError, match="in.jsonl:1000") as found:
        predict_file(model, source, tmp_path / "out.jsonl")
    assert found.value.__notes__ == [KEPT]
    source.write_text("\n".join(lines) + "\n")
    counted.clear()
    predict_file(model, source, tmp_path / "out.jsonl")
    assert sum(counted) <= BLOCK


def test_an_output_has_one_writer(model, source, tmp_path):
    with pytest.raises(Cut):
        embed_file(model, source, tmp_path / "out.npy", watch=cut_after(5 * BLOCK))
    with (
        FileLock(tmp_path / ".out.npy-parts" / ".lock"),
        pytest.raises(RunError, match="another process is writing it") as found,
    ):
        embed_file(model, source, tmp_path / "out.npy")
    assert not hasattr(found.value, "__notes__"), "what is kept is the other's"
    embed_file(model, source, tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (10 * BLOCK, 32)


def test_the_command_killed_at_random_moments_gives_the_same_bytes(trained, tmp_path):
    rows = "".join(json.dumps({"text": f"the goal number {i} was great"}) + "\n" for i in range(40_000))
    (tmp_path / "in.jsonl").write_text(rows)
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(target):
        command = [sys.executable, "-m", "frostline", "predict", str(trained), str(tmp_path / "in.jsonl")]
        return subprocess.Popen([*command, "-o", str(target)], env=env, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole.jsonl").wait() == 0
    dice, kills = random.Random(0), 0
    parts = tmp_path / ".out.jsonl-parts"
    while kills < 5:
        process = start(tmp_path / "out.jsonl")
        before = len(list(parts.glob("*.safetensors")))
        while process.poll() is None and len(list(parts.glob("*.safetensors"))) <= before:
            time.sleep(0.01)
        time.sleep(dice.random() * 0.3)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        assert not (tmp_path / "out.jsonl").exists()
    if kills == 5:
        assert start(tmp_path / "out.jsonl").wait() == 0
    assert kills >= 2
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "whole.jsonl", "out.jsonl"}


def test_the_command_that_is_asked_to_end_leaves_nothing_half_written(trained, tmp_path):
    rows = "".join(json.dumps({"text": f"the goal number {i} was great"}) + "\n" for i in range(40_000))
    (tmp_path / "in.jsonl").write_text(rows)
    command = [sys.executable, "-m", "frostline", "predict", str(trained), str(tmp_path / "in.jsonl")]
    command += ["-o", str(tmp_path / "out.jsonl")]
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "2"}, stderr=subprocess.PIPE, text=True
    )
    parts = tmp_path / ".out.jsonl-parts"
    while process.poll() is None and not list(parts.glob("*.safetensors")):
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert KEPT in said and "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", parts.name}
    assert {path.suffix for path in parts.iterdir()} <= {".safetensors", ".json", ""}, "no half-written part"
