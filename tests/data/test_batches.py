import numpy as np
import pytest

from conftest import build_tokenizer
from frostline.data.batches import cut, epoch_batches, filled_batches, pad, sorted_batches, tokenize

LENGTHS = np.random.default_rng(0).integers(3, 60, size=2000)


def padded(batches, lengths=LENGTHS):
    return sum(len(rows) * int(lengths[rows].max()) for rows in batches)


def test_tokens_are_ragged_and_cut():
    tokens = tokenize(build_tokenizer(), ["the goal", "the " * 50, ""], max_length=8)
    assert tokens.length_N.tolist() == [4, 8, 2]
    assert tokens.take([2, 0]).ids_T.tolist() == [2, 3, *tokens.ids_T[:4].tolist()]


def test_padding_is_masked():
    batch = pad(tokenize(build_tokenizer(), ["the", "the a was"], max_length=9), [0, 1], pad_id=0)
    assert batch.mask_BL.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (batch.ids_BL[0, 3:] == 0).all()


def test_an_epoch_holds_every_text_once_in_an_order_of_seed_and_epoch():
    def order(seed, epoch):
        return epoch_batches(LENGTHS, size=16, seed=seed, epoch=epoch)

    assert sorted(np.concatenate(order(0, 0)).tolist()) == list(range(2000))
    assert [b.tolist() for b in order(0, 1)] == [b.tolist() for b in order(0, 1)]
    assert [b.tolist() for b in order(0, 0)] != [b.tolist() for b in order(0, 1)]
    assert [b.tolist() for b in order(0, 0)] != [b.tolist() for b in order(1, 0)]


def test_batches_of_like_length_waste_little():
    batches = epoch_batches(LENGTHS, size=16, seed=0, epoch=0)
    assert {len(rows) for rows in batches} == {16}
    assert padded(batches) / LENGTHS.sum() < 1.05


def test_parts_keep_the_token_budget_and_the_order():
    (rows,) = epoch_batches(LENGTHS[:64], size=64, seed=0, epoch=0)
    parts = cut(rows, LENGTHS, max_tokens=512)
    assert max(len(part) * LENGTHS[part].max() for part in parts) <= 512
    assert np.concatenate(parts).tolist() == rows.tolist()


def test_sorted_batches_waste_little():
    assert padded(sorted_batches(LENGTHS, max_tokens=512)) / LENGTHS.sum() < 1.05


def test_batches_without_padding_are_filled_to_the_last_token_but_one():
    batches = filled_batches(LENGTHS, max_tokens=512)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    tokens = [int(LENGTHS[rows].sum()) for rows in batches]
    assert max(tokens) <= 511
    assert np.mean(tokens[:-1]) > 510
    assert all((np.diff(LENGTHS[rows]) <= 0).all() for rows in batches)
    firsts = [LENGTHS[rows[0]] for rows in batches]
    assert firsts == sorted(firsts, reverse=True)


def test_a_long_text_is_not_put_beside_so_many_that_attention_would_compute_padding_alone():
    batches = filled_batches(np.array([300, *[5] * 200]), max_tokens=512)
    assert [len(rows) for rows in batches] == [2, 102, 97]
    assert batches[0].tolist() == [0, 1]


@pytest.mark.parametrize("cut_up", [sorted_batches, filled_batches])
def test_a_text_longer_than_the_budget_is_a_batch_of_its_own(cut_up):
    batches = cut_up(np.array([5, 99, 4]), max_tokens=10)
    assert [rows.tolist() for rows in batches] == [[1], [0, 2]]


@pytest.mark.parametrize("number", [0, 1])
def test_no_text_and_one_text_are_fine(number):
    assert len(sorted_batches(LENGTHS[:number], max_tokens=64)) == number
    assert len(filled_batches(LENGTHS[:number], max_tokens=64)) == number
    assert len(tokenize(build_tokenizer(), ["a"] * number, max_length=8)) == number
