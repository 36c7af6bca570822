"""Token ids that an earlier run left: read where they are whole, made again where not."""

import os

import numpy as np
import pytest

from conftest import WORDS, build_tokenizer
from frostline.data import token_cache
from frostline.data.batches import tokenize, tokenized_blocks
from frostline.data.token_cache import tokenize_once

TEXTS = ["the goal was great", "", "a sad bank and a soup"]


def ids(folder, texts=TEXTS, *, tokenizer=None, max_length=8, prompt=""):
    made = tokenizer or build_tokenizer()
    return tokenize_once(made, lambda: texts, max_length=max_length, prompt=prompt, folder=folder)


@pytest.fixture
def counted(monkeypatch):
    """How often texts were tokenised."""
    calls = []

    def counting(function):
        def count(*given, **named):
            calls.append(1)
            return function(*given, **named)

        return count

    monkeypatch.setattr(token_cache, "tokenize", counting(tokenize))
    monkeypatch.setattr(token_cache, "tokenized_blocks", counting(tokenized_blocks))
    return calls


def same(first, second):
    return np.array_equal(first.ids_T, second.ids_T) and np.array_equal(first.offset_N1, second.offset_N1)


def test_the_same_texts_are_tokenised_once(tmp_path, counted):
    tokenizer = build_tokenizer()
    first, second = (ids(tmp_path, tokenizer=tokenizer) for _ in range(2))  # a call leaves its length set
    assert len(counted) == 1 and same(first, second)
    assert same(first, tokenize(build_tokenizer(), TEXTS, max_length=8))
    assert isinstance(second.ids_T, np.memmap) and not second.ids_T.flags.writeable


@pytest.mark.parametrize(
    "changes",
    [
        {"texts": ["the goal was", " great"]},
        {"texts": ["another"]},
        {"max_length": 4},
        {"prompt": "the "},
        {"tokenizer": build_tokenizer(WORDS[1:])},
    ],
)
def test_what_changes_an_id_changes_the_key(tmp_path, counted, changes):
    ids(tmp_path, ["the goal", "was great"])
    ids(tmp_path, **({"texts": ["the goal", "was great"]} | changes))
    assert len(counted) == 2


@pytest.mark.parametrize("name", ["ids.bin", "offsets.bin", "meta.json"])
@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_a_damaged_file_is_made_again(tmp_path, counted, name, change):
    whole, _ = tokenize(build_tokenizer(), TEXTS, max_length=8), ids(tmp_path)
    path = next(tmp_path.glob(f"*/{name}"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if change == "remove" else path.write_bytes(data if change == "flip" else data[:-3])
    assert same(ids(tmp_path), whole) and len(counted) == 2
    assert same(ids(tmp_path), whole) and len(counted) == 2, "the new files are whole"


def test_the_ones_that_were_not_used_for_the_longest_make_room(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(token_cache, "_MOST_BYTES", 150)
    for age, text in ((300, "the goal"), (200, "a bank"), (100, "one soup")):
        before = set(tmp_path.glob("[0-9a-f]*"))
        ids(tmp_path, [text])
        (place,) = set(tmp_path.glob("[0-9a-f]*")) - before
        os.utime(place, (place.stat().st_mtime - age,) * 2)
    ids(tmp_path, ["the goal"])  # marks the oldest as used
    for number in range(3):
        ids(tmp_path, [f"the goal {number}"])
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.bin")]
    assert 0 < sum(sizes) <= 150
    done = len(counted)
    ids(tmp_path, ["a bank"])
    assert len(counted) == done + 1


def test_no_texts_are_no_tokens(tmp_path):
    assert len(ids(tmp_path, [])) == len(ids(tmp_path, [])) == 0


def test_without_a_folder_nothing_is_written(tmp_path, counted):
    ids(None), ids(None)
    assert len(counted) == 2 and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, counted):
    (tmp_path / "file").write_text("in the way")
    assert len(ids(tmp_path / "file" / "tokens")) == 3


def test_what_a_killed_process_left_is_removed(tmp_path, counted):
    ids(tmp_path)
    place = next(tmp_path.glob("[0-9a-f]*"))
    left = tmp_path / f".{place.name}.half"
    left.mkdir()
    (left / "ids.bin").write_bytes(b"half")
    ids(tmp_path, ["another"])
    assert not left.exists() and place.is_dir()
