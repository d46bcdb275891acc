"""A robot's worst day: python -m bench.soak [--calls 100000].

`Agent.act` is called again and again, for one environment and for a batch, with resets of all or some, goals that change,
frames and goals that hold NaN or infinity, wrong shapes, and deadlines from none to ones that have passed. What has to hold:
  actions        finite and within the bounds, every one
  errors         only those that the call deserved, and the agent is then as it was
  memory         what the process holds does not grow: the slope of its resident memory over the second half
  deadlines      how far a call ran over what it was given, encoding included
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import fastwm
from fastwm.engine.engine import Imported
from fastwm.engine.importers.own import predictor_spec
from fastwm.planning import Agent, AsyncAgent, Planner

from .machine import describe, doubts, header
from .models import small_model
from .record import RESULTS, check_writable, save

BATCHES = (1, 1, 1, 4)  # environments of the agents that take turns; the third plans ahead
DEADLINES = (None, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 1e-5, 0.0, -1.0)
FAULTS = {  # what a frame may come as, and the error that it deserves
    "nan": ValueError,
    "infinite": ValueError,
    "double": TypeError,
    "short": ValueError,
    "batch": ValueError,
}
POSSIBLE = 0.002  # seconds; a shorter deadline has passed, or nearly, once a frame is encoded
LOW, HIGH = -1.0, 1.0


@dataclasses.dataclass
class Soak:
    """What happened.

    seconds [calls]: of a call that returned an action, else NaN; over [calls]: how far beyond a deadline of `POSSIBLE` or more;
    passed [calls]: of a call whose deadline was shorter. All are there from the start, so that memory grows by nothing of ours.
    """

    seconds: NDArray[np.float64]
    over: NDArray[np.float64]
    passed: NDArray[np.float64]
    calls: int = 0
    returned: int = 0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)  # what must not happen
    ends: Counter[str] = dataclasses.field(default_factory=Counter)
    memory: list[tuple[int, float]] = dataclasses.field(default_factory=list)  # (call, MiB)

    def line(self) -> dict:
        """As it is saved."""
        half = [(call, mib) for call, mib in self.memory if call >= self.calls / 2]
        slope = float(np.polyfit(*zip(*half, strict=True), 1)[0]) if len(half) > 1 else math.nan
        return {
            "calls": self.calls,
            "actions": self.returned,
            "refused": dict(self.errors),
            "wrong": self.wrong,
            "ends": dict(self.ends),
            "milliseconds": _quantiles(self.seconds),
            "deadlines": int(np.isfinite(self.over).sum()),
            "late": int((self.over > 0).sum()),
            "over_milliseconds": _quantiles(self.over),
            "passed": int(np.isfinite(self.passed).sum()),
            "passed_milliseconds": _quantiles(self.passed),
            "memory_mib": {
                "first": self.memory[0][1],
                "last": self.memory[-1][1],
                "per_100000_calls": 1e5 * slope,
            },
        }


def engine(threads: int) -> fastwm.Engine:
    """A small transformer with random weights whose observations are float32 [64], so that a frame can be NaN."""
    model = small_model()
    weight = torch.randn(64, model.config.embed_dim, generator=torch.Generator().manual_seed(0)) / 8
    imported = Imported(
        spec=predictor_spec(model),
        encode=lambda frame: frame @ weight,
        observation=((64,), torch.float32),
        action_mean=torch.zeros(model.config.action_dim),
        action_std=torch.ones(model.config.action_dim),
        family="soak",
        action_block=5,
    )
    return fastwm.compile(imported, dtype="float32", threads=threads)


def soak(calls: int, *, threads: int = 1, seed: int = 0, progress: bool = True) -> Soak:
    """Call agents `calls` times with what a generator of this seed thinks of."""
    random = np.random.default_rng(seed)
    compiled = engine(threads)
    agents = []
    for place, batch in enumerate(BATCHES):
        planner = Planner.recommended(
            compiled, low=LOW, high=HIGH, samples=24, elites=6, iterations=3, horizon=4, seed=place
        )
        kind = (
            AsyncAgent(planner, history=2, period=0.005)
            if place == 2
            else Agent(planner, history=1 + place % 3)
        )
        agents.append((kind, batch))
    found = Soak(*(np.full(calls, np.nan) for _ in range(3)))
    goals = [_frames(random, 1)[0] for _ in agents]
    for call in tqdm(range(calls), unit="call", disable=not progress):
        place = int(random.integers(len(agents)))
        agent, batch = agents[place]
        if random.random() < 0.03:
            some = random.random(batch) < 0.5
            agent.reset(some if agent.memory is not None and random.random() < 0.7 else None)
        if random.random() < 0.2:
            goals[place] = _frames(random, 1)[0]
        _call(found, agent, batch, goals[place], random)
        if call % max(1, calls // 200) == 0:
            found.memory.append((call, _resident()))
    for agent, _ in agents:
        if isinstance(agent, AsyncAgent):
            agent.close()
    return found


def _call(found: Soak, agent: Agent, batch: int, goal: np.ndarray, random: np.random.Generator) -> None:
    """One call of `act`, and what came of it."""
    fault = str(random.choice(list(FAULTS))) if random.random() < 0.06 else None
    deadline = DEADLINES[int(random.integers(len(DEADLINES)))]
    wrong_goal = fault == "nan" and random.random() < 0.5
    obs = _frames(random, batch)
    if fault is not None and not wrong_goal:
        obs = _broken(fault, obs, agent.memory is not None)
    given = np.full_like(goal, np.nan) if wrong_goal else goal
    before, began = agent.memory, time.perf_counter()
    found.calls += 1
    try:
        action = agent.act(obs, {"pixels": given}, deadline)
    except (TypeError, ValueError) as error:
        if fault is None or (not isinstance(error, FAULTS[fault])):
            found.wrong.append(f"{type(error).__name__} of a call with nothing wrong: {error}")
        if agent.memory is not before:
            found.wrong.append(f"a refused call changed the agent ({fault})")
        found.errors[f"{type(error).__name__}, {fault}"] += 1
        return
    taken = time.perf_counter() - began
    if fault not in (None, "batch"):
        found.wrong.append(f"a frame that is {fault} was accepted")
    if not (np.isfinite(action).all() and (action >= LOW).all() and (action <= HIGH).all()):
        found.wrong.append(f"an action that is not within {LOW} and {HIGH}: {action}")
    found.returned += 1
    found.seconds[found.calls - 1] = taken
    if deadline is not None:
        (found.over if deadline >= POSSIBLE else found.passed)[found.calls - 1] = taken - max(0.0, deadline)
    if agent.plan is not None:
        found.ends[agent.plan.stats["end"]] += 1


def _broken(fault: str, obs: np.ndarray, started: bool) -> np.ndarray:
    if fault == "double":
        return obs.astype(np.float64)
    if fault == "short":
        return obs[..., :-1]
    if fault == "batch" and started:
        return np.concatenate([obs, obs])
    obs = obs.copy()
    obs[-1, 3] = np.nan if fault == "nan" else np.inf if fault == "infinite" else obs[-1, 3]
    return obs


def _frames(random: np.random.Generator, count: int) -> np.ndarray:
    return random.standard_normal((count, 64), dtype=np.float32)


def _quantiles(seconds: NDArray[np.float64]) -> dict[str, float]:
    known = seconds[np.isfinite(seconds)]
    p50, p99, worst = 1e3 * np.percentile(known if len(known) else [math.nan], [50, 99, 100])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "worst": round(float(worst), 3)}


def _resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def report(line: dict, machine: dict, threads: int) -> str:
    """What is printed."""
    over, ms, memory = line["over_milliseconds"], line["milliseconds"], line["memory_mib"]
    gone = line["passed_milliseconds"]
    lines = [
        describe(machine, threads),
        f"{line['calls']:,} calls: {line['actions']:,} actions, {sum(line['refused'].values()):,} refused as they deserved",
        *(f"  WRONG: {what}" for what in line["wrong"][:10]),
        f"searches ended: {', '.join(f'{count:,} {end}' for end, count in line['ends'].items())}",
        f"a call takes {ms['p50']} ms (p99 {ms['p99']}, worst {ms['worst']})",
        f"{line['deadlines']:,} calls had 2 to 50 ms, {line['late']:,} took longer: beyond the deadline p50 {over['p50']} ms, "
        f"p99 {over['p99']}, worst {over['worst']}",
        f"{line['passed']:,} calls had a deadline that has passed, or nearly: beyond it p50 {gone['p50']} ms, "
        f"p99 {gone['p99']}, worst {gone['worst']}",
        f"memory {memory['first']:.0f} MiB at the start, {memory['last']:.0f} at the end, "
        f"{memory['per_100000_calls']:+.1f} per 100,000 calls in the second half",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if something happened that must not."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100_000, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the engine (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json", metavar="FILE")
    parsed = parser.parse_args(arguments)
    if parsed.calls < 1:
        parser.error(f"--calls is {parsed.calls}, expected at least 1")
    check_writable(parsed.out)
    machine = header()
    for doubt in doubts(machine):
        print(doubt, file=sys.stderr)
    torch.set_num_threads(1)
    line = soak(parsed.calls, threads=parsed.threads, seed=parsed.seed).line()
    save(parsed.out, {"machine": machine, "results": [line | {"threads": parsed.threads}]})
    print(report(line, machine, parsed.threads))
    return 1 if line["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
