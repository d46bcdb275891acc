"""A search's time: no iteration is started that cannot be expected to end before the deadline."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterable, Iterator

import numpy as np

YEAR = 365.0 * 24 * 3600  # seconds; clocks count nanoseconds in 64 bits, and no robot waits so long


class Clock:
    """Starts when made. deadline: seconds from then, or None; one that is not positive has passed.

    One of a year or more is none.

    Raises ValueError unless the deadline is a finite number.
    """

    def __init__(self, deadline: float | None) -> None:
        self._start = time.perf_counter()
        if deadline is not None and (
            isinstance(deadline, bool)
            or not isinstance(deadline, (int, float))
            or not math.isfinite(deadline)
        ):
            raise ValueError(f"deadline is {deadline!r}, expected a finite number of seconds or None")
        self._deadline = math.inf if deadline is None or deadline >= YEAR else float(deadline)
        self.cut_short = False
        self.times: list[float] = []  # of each iteration, seconds
        self._once = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, negative after it; None without one."""
        return None if self._deadline == math.inf else self._deadline - self.elapsed

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self.elapsed > self._deadline

    @property
    def deadline_hit(self) -> bool:
        """Whether the deadline ended the search early or has passed."""
        return self.cut_short or self.passed

    def again(self) -> Clock:
        """Another with the same start and deadline, for a part of the work that is done at the same time."""
        other = copy.copy(self)
        other.times = []
        return other

    def join(self, parts: Iterable[Clock]) -> None:
        """Count what the clocks of the parts have counted, the slower of those that ran at the same time."""
        for part in parts:
            self.cut_short = self.cut_short or part.cut_short
            self.times = [max(pair) for pair in itertools.zip_longest(self.times, part.times, fillvalue=0.0)]

    def share(self, parts: int) -> float | None:
        """An equal part of the time that is left, for one of `parts` pieces of work."""
        left = self.left
        return None if left is None else left / parts

    def once(self, seconds: float) -> None:
        """Of the iteration that runs, what no later one will take again, such as a compilation: it is no part of its time."""
        self._once += seconds

    def iterations(self, count: int, expected: float = 0.0) -> Iterator[int]:
        """0 .. count-1, each only while the slowest iteration so far, and `expected` seconds, would still end in time."""
        for iteration in range(count):
            started = self.elapsed
            if started + max([expected, *self.times]) > self._deadline or started >= self._deadline:
                self.cut_short = True
                return
            self._once = 0.0
            try:
                yield iteration
            finally:  # also where the search ends by itself
                self.times.append(self.elapsed - started - self._once)

    def stats(self) -> dict[str, float]:
        """Median and 99th percentile of the iterations' times, seconds; 0 where none ran."""
        p50, p99 = np.percentile(self.times or [0.0], [50, 99])
        return {"iteration_p50": float(p50), "iteration_p99": float(p99)}
