import time

import numpy as np
import pytest
import torch

from frostline.model import cores
from frostline.model.cores import map_batches

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    with cores.threads(2):
        yield


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_come_back_in_order_whatever_the_number_of_cores(threads):
    batches = [np.array([i, i + 1]) for i in range(20)]
    with cores.threads(threads):
        results = list(map_batches(lambda rows: int(rows.sum()), batches, device=CPU))
        assert [result for _, result in results] == [2 * i + 1 for i in range(20)]
        assert torch.get_num_threads() == threads


def test_an_error_in_a_batch_comes_out(two_threads):
    with pytest.raises(ZeroDivisionError):
        list(map_batches(lambda rows: 1 // 0, [np.array([0]), np.array([1])], device=CPU))
    assert torch.get_num_threads() == 2


def test_few_batches_are_computed_ahead_of_a_slow_reader(two_threads):
    started = []
    results = map_batches(
        lambda rows: started.append(int(rows[0])), [np.array([i]) for i in range(50)], device=CPU
    )
    next(results)
    time.sleep(0.2)
    assert len(started) < 10
    assert len(list(results)) == 49
    assert sorted(started) == list(range(50))


def test_a_reader_that_leaves_early_stops_the_rest(two_threads):
    started = []
    batches = [np.array([i]) for i in range(50)]
    results = map_batches(lambda rows: started.append(int(rows[0])), batches, device=CPU)
    next(results)
    results.close()
    assert len(started) < 10
    assert torch.get_num_threads() == 2


def test_an_error_late_in_many_batches_comes_out_in_its_place(two_threads):
    done = []
    with pytest.raises(ZeroDivisionError):
        done.extend(
            map_batches(lambda rows: 1 // (20 - int(rows[0])), [np.array([i]) for i in range(50)], device=CPU)
        )
    assert torch.get_num_threads() == 2


def test_a_product_is_timed_on_one_some_and_all_threads_which_come_back(two_threads):
    found = cores.product_seconds(384, torch.float32)
    assert list(found) == [1, 2] and all(0 < seconds < 1 for seconds in found.values())
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert list(cores.product_seconds(384, torch.float32)) == [1]
