"""Latency: plans at a fixed rate, as a control loop makes them: python -m bench.latency [--plans 1000] [--rate 20].

Plan k is released at a tick of the period and starts when the operating system wakes the process. What is reported:
  plan time      from the start of the plan to its end: p50, p95, p99 (nearest rank), max
  jitter         standard deviation of the plan time; wake-up lateness is not in it
  wake-up p99    from release to start, which is the operating system's, not the backend's
  missed         plans that ended after the next tick; the ticks that pass meanwhile are skipped, as a late controller does
PyTorch's ways make a fifth of the plans: they are slow, and their tails show soon.
Backends take turns, a tenth of their plans at a time, so that the machine's moods meet all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import fastwm
from fastwm.demo import Search
from fastwm.demo.compare import plain_plan
from fastwm.engine.backend import check_threads
from fastwm.engine.pack import DTYPES
from fastwm.models import WorldModel

from .agreement import Agreement, plan_agreements
from .latency_picture import draw
from .machine import describe, doubts, header
from .models import demo_model
from .record import RESULTS, check_writable, save

MODELS = {"demo-push": "small", "demo-two-room": "mlp"}  # the demo's model in each world, and its preset
SHARES = (
    0,
    0.01,
    0.05,
    *(i / 10 for i in range(1, 10)),
    0.95,
    0.98,
    0.99,
    0.995,
    0.998,
    0.999,
    1,
)  # of the curve
TURNS = 10
PLAIN_SHARE = 5  # PyTorch makes a fifth of the plans


@dataclasses.dataclass
class Timings:
    """Seconds of each plan; `late` is from release to start."""

    plan: list[float] = dataclasses.field(default_factory=list)
    late: list[float] = dataclasses.field(default_factory=list)
    missed: int = 0
    skipped: int = 0


def at_rate(
    plan: Callable[[], object],
    count: int,
    period: float,
    timings: Timings,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Make `count` plans, each released at a tick of `period` seconds; adds to `timings`."""
    first = clock() + period
    tick = 0
    for _ in range(count):
        release = first + tick * period
        while (wait := release - clock()) > 0:
            sleep(wait)
        began = clock()
        plan()
        ended = clock()
        timings.plan.append(ended - began)
        timings.late.append(began - release)
        passed = max(
            1, math.ceil((ended - release) / period - 1e-9)
        )  # ticks from this release to the next free one
        timings.missed += passed > 1
        timings.skipped += passed - 1
        tick += passed
        progress()


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: an observed value, below or at which lies at least `share` of them."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


LEAST = {
    "p95": 20,
    "p99": 100,
    "wake_p99": 100,
}  # plans; of fewer, a percentile would be the slowest plan by another name


def shown(line: dict, name: str, form: str) -> str:
    """A time of a line in the form given, or a dash where the plans were too few for it."""
    return format(line["milliseconds"][name], form) if line["plans"] >= LEAST.get(name, 1) else "–"


def summary(timings: Timings) -> dict:
    """Milliseconds and counts of one line of the results."""
    plan, late = sorted(timings.plan), sorted(timings.late)

    def milliseconds(seconds: float) -> float:
        return round(1e3 * seconds, 4)

    return {
        "plans": len(plan),
        "milliseconds": {
            "p50": milliseconds(quantile(plan, 0.5)),
            "p95": milliseconds(quantile(plan, 0.95)),
            "p99": milliseconds(quantile(plan, 0.99)),
            "max": milliseconds(plan[-1]),
            "jitter": milliseconds(statistics.pstdev(plan)),
            "wake_p99": milliseconds(quantile(late, 0.99)),
        },
        "missed": timings.missed,
        "skipped": timings.skipped,
        "curve": [[share, milliseconds(quantile(plan, share))] for share in SHARES],
    }


def results(
    *, plans: int, rate: float, threads: int, models: Sequence[str] = tuple(MODELS), progress: bool = True
) -> Iterator[list[dict]]:
    """One line per model and backend, all lines so far after every turn of the backends.

    A backend whose costs do not agree with PyTorch's makes no plans. The engine's ways encode on one PyTorch thread: with
    more, an encoder waits now and then for a thread that is not running, a whole time slice (CONTRIBUTING, measured facts).
    """
    torch.set_num_threads(threads)
    done: list[dict] = []
    for name in models:
        model = demo_model(MODELS[name])
        ways, lines = _ways(model, threads)
        share = {way: plans if way.startswith("fastwm cpu") else max(1, plans // PLAIN_SHARE) for way in ways}
        timings = {way: Timings() for way in ways}
        with tqdm(total=sum(share.values()), desc=name, unit="plan", disable=not progress) as bar:
            for plan in ways.values():
                plan()
            for turn in range(TURNS):
                for way, plan in ways.items():
                    bar.set_postfix_str(way)
                    torch.set_num_threads(1 if way.startswith("fastwm cpu") else threads)
                    count = share[way] * (turn + 1) // TURNS - share[way] * turn // TURNS
                    at_rate(plan, count, 1 / rate, timings[way], progress=bar.update)
                common = {"model": name, "rate": rate, "threads": threads, "search": _search()}
                found = [
                    {**common, **line, **(summary(timings[line["way"]]) if line["passed"] else {})}
                    for line in lines
                    if not line["passed"] or timings[line["way"]].plan
                ]
                yield done + found
        done = done + found


def _search() -> str:
    """The plan that is made, in words."""
    search = Search()
    return f"{search.samples} candidates × {search.iterations} iterations × {search.horizon} blocks"


def _ways(model: WorldModel, threads: int) -> tuple[dict[str, Callable[[], object]], list[dict]]:
    """Plans from one picture to another by each backend whose costs agree, and the start of each backend's line."""
    start, goal = (
        torch.randint(
            0, 256, (model.config.image_size, model.config.image_size, 3), dtype=torch.uint8, generator=g
        )
        for g in (torch.Generator().manual_seed(seed) for seed in (1, 2))
    )
    engines = {f"fastwm cpu {dtype}": ("cpu", dtype) for dtype in DTYPES} | {
        "fastwm torch float32": ("torch", "float32")
    }
    planners = {
        way: Search().planner(fastwm.compile(model, backend=backend, dtype=dtype, threads=threads), None)
        for way, (backend, dtype) in engines.items()
    }
    agreements = plan_agreements(planners, model, start, goal)
    lines = [{"way": way, "dtype": engines[way][1], **found.line()} for way, found in agreements.items()]
    ways: dict[str, Callable[[], object]] = {
        way: partial(planners[way].plan, start, goal) for way in engines if agreements[way].passed
    }
    for dtype in ("float32", "bfloat16"):
        way = f"PyTorch {dtype}"
        ways[way] = partial(
            plain_plan, planners["fastwm torch float32"], model, start, goal, bfloat16=dtype == "bfloat16"
        )
        lines.append({"way": way, "dtype": dtype, **Agreement(True).line()})
    return ways, lines


def table(lines: Sequence[dict]) -> str:
    """One line per backend, for a terminal."""
    text = []
    for model in dict.fromkeys(line["model"] for line in lines):
        own = [line for line in lines if line["model"] == model]
        text.append(
            f"{model}: plans at {own[0]['rate']:g} Hz, {own[0]['threads']} threads, milliseconds\n"
            f"  {'':<22}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'jitter':>8}{'wake-up p99':>13}{'missed':>15}"
        )
        for line in own:
            if not line["passed"]:
                text.append(
                    f"  {line['way']:<22} parity failed (cost error {line['relative_cost_error']:.1e}): no times are given"
                )
                continue
            text.append(
                f"  {line['way']:<22}"
                + "".join(f"{shown(line, name, '.2f'):>8}" for name in ("p50", "p95", "p99", "max", "jitter"))
                + f"{shown(line, 'wake_p99', '.2f'):>13}{line['missed']:7} of {line['plans']:<5}"
            )
    if any(line["passed"] and line["plans"] < LEAST["p99"] for line in lines):
        text.append("  –: of fewer than 100 plans there is no p99, of fewer than 20 no p95")
    return "\n".join(text)


def check(plans: int, rate: float) -> None:
    """Raise ValueError for what cannot be measured."""
    if plans < 1:
        raise ValueError(f"plans is {plans}, expected at least 1")
    if not 0 < rate <= 10_000:
        raise ValueError(f"rate is {rate}, expected a number of plans per second above 0")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--plans", type=int, default=1000, help="of each backend; PyTorch makes a fifth (default: 1000)"
    )
    parser.add_argument("--rate", type=float, default=20.0, help="plans per second (default: 20)")
    parser.add_argument("--threads", type=int, help="(default: every processor)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="for latency.json and latency.svg"
    )
    arguments = parser.parse_args()
    check(arguments.plans, arguments.rate)
    threads = check_threads(arguments.threads)
    for name in ("latency.json", "latency.svg"):
        check_writable(arguments.out / name)
    machine = header()
    print("\n".join([describe(machine, threads), *doubts(machine)]))
    *_, lines = results(
        plans=arguments.plans, rate=arguments.rate, threads=threads, progress=sys.stderr.isatty()
    )
    print(table(lines))
    content = {"machine": machine, "doubts": doubts(machine), "results": lines}
    save(arguments.out / "latency.json", content)
    draw(content, arguments.out / "latency.svg")


if __name__ == "__main__":
    main()
