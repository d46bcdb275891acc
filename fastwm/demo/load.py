"""How busy other processes keep the processors while something is timed.

Not the load average: that of the last minute holds the demo's own training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

BUSY = 0.25  # of the processors: where others take more, times are not to be trusted


@dataclass(frozen=True)
class Spent:
    """Seconds so far: of the clock; of all work on the processors that this process may use; of its own work."""

    clock: float
    all_work: float
    own_work: float
    processors: int


def spent() -> Spent | None:
    """Now, or None where the system does not tell."""
    try:
        with open("/proc/stat", encoding="utf-8") as lines:
            allowed = os.sched_getaffinity(0)
            all_work = _work(lines, allowed) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return None
    return Spent(time.perf_counter(), all_work, time.process_time(), len(allowed))


def others(before: Spent | None, now: Spent | None) -> float | None:
    """How many processors other processes kept busy in between, on average; None where that is not known."""
    if before is None or now is None or now.clock <= before.clock:
        return None
    work = (now.all_work - before.all_work) - (now.own_work - before.own_work)
    return min(max(work / (now.clock - before.clock), 0.0), float(now.processors))


def _work(lines: Iterable[str], processors: Iterable[int]) -> int:
    """Ticks in which these processors were neither idle nor waiting for a disk, from the lines of /proc/stat."""
    wanted = {f"cpu{number}" for number in processors}
    work = 0
    for line in lines:
        name, *ticks = line.split()
        if name in wanted:
            user, nice, system, _, _, *interrupts = map(int, ticks[:8])
            work += (
                user + nice + system + sum(interrupts)
            )  # interrupts, and what the host gave to other machines
    return work
