"""Dropout with fast masks drops, scales and repeats as torch's own."""

import pytest
import torch

from frostline.model.dropout import FastDropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_as_many_are_dropped_as_asked_and_the_mean_stays(p, dtype):
    torch.manual_seed(0)
    out = FastDropout(p)(torch.ones(401, 997, dtype=dtype))
    assert out.dtype == dtype and out.shape == (401, 997)
    assert (out == 0).float().mean() == pytest.approx(p, abs=0.003)
    assert out.float().mean() == pytest.approx(1, abs=0.006)
    assert len(out.unique()) == 2


def test_rows_columns_and_calls_are_independent():
    torch.manual_seed(0)
    first, second = (FastDropout(0.5)(torch.ones(512, 512)) == 0 for _ in range(2))
    for one, other in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert (one == other).float().mean() == pytest.approx(0.5, abs=0.01)


def test_large_masks_and_their_parts_are_independent_too():
    torch.manual_seed(0)
    dropped = FastDropout(0.5)(torch.ones(5 * 2**20)) == 0  # more than the table of random numbers has
    assert dropped.float().mean() == pytest.approx(0.5, abs=0.003)
    first, *others = dropped.split(2**20)
    assert all((first == other).float().mean() == pytest.approx(0.5, abs=0.003) for other in others)


def test_a_mask_does_not_depend_on_the_number_of_threads():
    masks, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            torch.manual_seed(3)
            masks.append(FastDropout(0.1)(torch.ones(300, 400)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*masks)


def test_a_seed_gives_the_same_mask():
    layer, results = FastDropout(0.3), []
    for _ in range(2):
        torch.manual_seed(5)
        results.append([layer(torch.ones(7, 3)), layer(torch.ones(5))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradients_pass_where_values_do():
    given = torch.randn(50, 9, requires_grad=True)
    out = FastDropout(0.4)(given)
    out.sum().backward()
    assert torch.equal(given.grad == 0, out == 0)
    torch.testing.assert_close(given.grad[out != 0] * given[out != 0], out[out != 0])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing_is_torchs(p):
    assert torch.equal(FastDropout(p)(torch.ones(9)), torch.full((9,), 1 - p))


def test_nothing_is_dropped_in_eval_mode_nor_drawn():
    given, state = torch.randn(9), torch.get_rng_state()
    assert torch.equal(FastDropout(0.5).eval()(given), given)
    assert torch.equal(torch.get_rng_state(), state)
