"""A search's time: no iteration is started that cannot be expected to end before the deadline."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np


class Clock:
    """Starts when made. deadline: seconds from then, or None.

    Raises ValueError unless the deadline is a positive finite number.
    """

    def __init__(self, deadline: float | None) -> None:
        self._start = time.perf_counter()
        if deadline is not None and not (isinstance(deadline, (int, float)) and 0.0 < deadline < math.inf):
            raise ValueError(
                f"deadline is {deadline!r}, expected a positive finite number of seconds or None"
            )
        self._deadline = math.inf if deadline is None else deadline
        self._cut_short = False
        self.times: list[float] = []  # of each iteration, seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def deadline_hit(self) -> bool:
        """Whether the deadline ended the search early or has passed."""
        return self._cut_short or self.elapsed > self._deadline

    def share(self, parts: int) -> float | None:
        """An equal part of the time that is left, for one of `parts` pieces of work; at least a
        microsecond."""
        return None if self._deadline == math.inf else max((self._deadline - self.elapsed) / parts, 1e-6)

    def iterations(self, count: int) -> Iterator[int]:
        """0 .. count-1, but after the first only while the slowest iteration so far would still end in
        time."""
        for iteration in range(count):
            started = self.elapsed
            if iteration and started + max(self.times) > self._deadline:
                self._cut_short = True
                return
            try:
                yield iteration
            finally:  # also where the search ends by itself
                self.times.append(self.elapsed - started)

    def stats(self) -> dict[str, float]:
        """Median and 99th percentile of the iterations' times, seconds."""
        p50, p99 = np.percentile(self.times, [50, 99])
        return {"iteration_p50": float(p50), "iteration_p99": float(p99)}
