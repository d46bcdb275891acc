"""Ways of doing the same thing on a GPU, timed in turns.

"cold": by events on the stream, from an empty L2. Before each call as much memory is written as L2 holds twice, which also
gives the host time to queue what follows, so that what a launch costs the host is not in a short kernel's time. "warm": by
events alone. "host": as a caller sees it, by the host's clock, from call to result. A rehearsal has the host's clock alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import torch

from bench.gpu.place import Place
from bench.timing import summary

Call = Callable[[], object]
Watch = Literal["cold", "warm", "host"]


def in_turns(
    ways: Mapping[str, Call], place: Place, *, repeats: int, warm_up: int = 3, watch: Watch = "cold"
) -> dict[str, dict[str, float]]:
    """Milliseconds of one call of each way: median, fastest, slowest and quartiles over `repeats` rounds of all ways."""
    stopwatch: _Stopwatch = _Clock(place)
    if watch != "host" and not place.rehearsal:
        stopwatch = _Events(place, cold=watch == "cold")
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(warm_up):
            for way in ways.values():
                way()
        for _ in range(repeats):
            for name, way in ways.items():
                times[name].append(stopwatch.milliseconds(way))
    finally:
        gc.enable()
    return {name: summary(values) for name, values in times.items()}


class _Stopwatch(Protocol):
    def milliseconds(self, way: Call) -> float:
        """Of one call."""


class _Clock:
    def __init__(self, place: Place) -> None:
        self._place = place

    def milliseconds(self, way: Call) -> float:
        self._place.synchronise()
        began = time.perf_counter()
        way()
        self._place.synchronise()
        return 1e3 * (time.perf_counter() - began)


class _Events:
    def __init__(self, place: Place, *, cold: bool) -> None:
        self._place = place
        self._flush = torch.empty(2 * place.l2_bytes if cold else 0, dtype=torch.int8, device=place.device)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def milliseconds(self, way: Call) -> float:
        self._place.synchronise()
        self._flush.zero_()
        self._start.record()
        way()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end)
