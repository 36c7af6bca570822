import time

import numpy as np
import pytest
import torch

from frostline.errors import ConfigError
from frostline.model import device as devices
from frostline.model.device import choose_device, choose_precision, map_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("fp32", "bf16", "taken"), [(100, 300, "bf16"), (100, 120, "fp32"), (100, 50, "fp32")]
)
def test_the_faster_format_is_taken_and_said(monkeypatch, fp32, bf16, taken):
    monkeypatch.setattr(devices, "_gflops", lambda width: (fp32, bf16))
    chosen = choose_precision("auto", device=CPU, width=64)
    assert chosen.format == taken
    assert str(bf16) in chosen.reason
    assert str(fp32) in chosen.reason


def test_a_format_can_be_asked_for():
    assert choose_precision("fp32", device=CPU, width=64).reason == "asked for"


@pytest.mark.parametrize("asked", ["cuda:99", "gpu", "xpu"])
def test_a_device_that_is_not_here_is_refused(asked):
    with pytest.raises(ConfigError, match=f"device: '{asked}' cannot be used here"):
        choose_device(asked)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_come_back_in_order_whatever_the_number_of_cores(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batches = [np.array([i, i + 1]) for i in range(20)]
        results = list(map_batches(lambda rows: int(rows.sum()), batches, device=CPU))
        assert [result for _, result in results] == [2 * i + 1 for i in range(20)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


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
