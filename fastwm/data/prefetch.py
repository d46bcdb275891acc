"""Batches made ahead of time by threads: decoding goes on while the model trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Batch = TypeVar("Batch")


def prefetch(
    load: Callable[[Item], Batch], items: Iterable[Item], *, workers: int = 1, ahead: int = 2
) -> Generator[Batch, None, None]:
    """`load(item)` for each of `items`, in their order, made by `workers` threads up to `ahead` items early.

    Threads are enough: FFmpeg, Pillow, h5py and numpy's copies let go of Python's lock while they work. With
    `workers` 0 nothing is made early. An exception of `load` is raised where its batch would have come. Closing the
    iterator, or leaving its loop, waits for what has been started and drops it.
    """
    if workers < 0 or ahead < 1:
        raise ValueError(
            f"workers: expected at least 0, got {workers}; ahead: expected at least 1, got {ahead}"
        )
    return _prefetch(load, items, workers, ahead)


def _prefetch(
    load: Callable[[Item], Batch], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Batch, None, None]:
    if workers == 0:
        yield from map(load, items)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, "prefetch") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
