"""How work is spread over the cores of a processor, and whether they are there for it.

Each operator of a training step runs on all of them; in a forward pass each takes a batch of its own.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from frostline.data.table import IntN

Result = TypeVar("Result")

_MOST_WORKERS = 8
_WAITING_PER_WORKER = 2
_PROBE_ROWS, _MOST_PROBE_WIDTH = 512, 512
_PROBE_ROUNDS, _ROUND_SECONDS = 7, 0.02


def map_batches(
    forward: Callable[[IntN], Result], batches: Sequence[IntN], *, device: torch.device
) -> Iterator[tuple[IntN, Result]]:
    """Yields each batch with what `forward` makes of it, in order.

    On a CPU every core takes a batch of its own: a quarter faster on short texts than all cores on one
    batch (docs/experiments.md). At most two batches a core wait for who reads them, however slowly that
    is. `forward` sets its own gradient and autocast modes, which torch keeps by thread.
    """
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or num_threads == 1 or len(batches) == 1:
        for batch in batches:
            yield batch, forward(batch)
        return
    workers = min(num_threads, _MOST_WORKERS)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(num_threads // workers,))
    try:
        waiting: deque[tuple[IntN, Future[Result]]] = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(forward, batch)))
            if len(waiting) > _WAITING_PER_WORKER * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


def product_seconds(width: int, dtype: torch.dtype) -> dict[int, float]:
    """What a product as in a feed-forward layer takes, by number of threads: one, half of torch's, all.

    By that one sees threads that wait for another, whose core is in use. Measured in turn.

    Args:
        width: D of the backbone; at most 512 is measured.
        dtype: of the products.

    Returns:
        Seconds, the median of rounds; of one number alone where torch has one thread.
    """
    num_threads, width = torch.get_num_threads(), min(width, _MOST_PROBE_WIDTH)
    rows, weights = torch.ones(_PROBE_ROWS, width, dtype=dtype), torch.ones(width, 4 * width, dtype=dtype)
    counts = sorted({1, max(1, num_threads // 2), num_threads})
    rounds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_PROBE_ROUNDS):
        for count, seconds in rounds.items():
            with threads(count):
                torch.matmul(rows, weights)
                num_products, start = 0, time.perf_counter()
                while (spent := time.perf_counter() - start) < _ROUND_SECONDS:
                    torch.matmul(rows, weights)
                    num_products += 1
            seconds.append(spent / num_products)
    return {count: statistics.median(seconds) for count, seconds in rounds.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block torch's operators run on so many threads; afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
