"""Ways of doing the same thing, timed in turns so that the machine's moods meet all of them."""

from __future__ import annotations

import functools
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from fastwm.engine.backend import isas

# Seconds. Before each turn, threads of the way before (ONNX Runtime's, OpenMP's) spin for a while; a turn is then calls for
# TURN seconds at least, since one short call after a pause measures how caches, threads and clocks wake up.
PAUSE, TURN = 0.05, 0.05


def in_turns(
    ways: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, dict[str, float]]:
    """Milliseconds of one call of each way: median, fastest, slowest and quartiles over `repeats` rounds.

    A call shorter than TURN is made several times a round, after one that does not count; the round's figure is their mean.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(warm_up + repeats):
            for name, way in ways.items():
                time.sleep(PAUSE)
                times[name].append(1e3 * _turn(way))
    finally:
        gc.enable()
    return {name: summary(values[warm_up:]) for name, values in times.items()}


def _turn(way: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    way()
    first = time.perf_counter() - began
    if first >= TURN:
        return first
    few, calls = (
        math.ceil(TURN / 10 / first),
        0,
    )  # the first call may have waited for others: it says how many, not when to stop
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < TURN:
        for _ in range(few):
            way()
        calls += few
    return elapsed / calls


def affordable(
    ways: Mapping[str, Callable[[], object]], *, repeats: int, seconds: float, least: int = 5
) -> int:
    """Rounds of all ways, at most `repeats`, that take about `seconds`, judged by one round; at least `least`."""
    began = time.perf_counter()
    for way in ways.values():
        way()
    return min(repeats, max(least, int(seconds / (time.perf_counter() - began))))


def summary(values: list[float]) -> dict[str, float]:
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    found = {
        "median": quartiles[1],
        "min": min(values),
        "q1": quartiles[0],
        "q3": quartiles[2],
        "max": max(values),
    }
    return {name: round(value, 4) for name, value in found.items()}


def against_torch(
    kernel: Callable[..., object],
    plain: Callable[[], object],
    agrees: Callable[[object], bool],
    *,
    threads: tuple[int, ...],
    repeats: int,
) -> Iterator[dict]:
    """One line per number of threads and way: plain PyTorch, and kernel(threads=, isa=) of each instruction set.

    A kernel whose result does not agree gets no time.
    """
    for count in threads:
        torch.set_num_threads(count)
        ways: dict[str, Callable[[], object]] = {"torch": plain}
        for isa in isas():
            way = functools.partial(kernel, threads=count, isa=isa)
            if agrees(way()):
                ways[f"fastwm {isa}"] = way
            else:
                yield {"threads": count, "way": f"fastwm {isa}", "passed": False}
        for name, times in in_turns(ways, repeats=repeats).items():
            yield {"threads": count, "way": name, "milliseconds": times, "passed": True}
