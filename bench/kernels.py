"""Each kernel, and a whole plan, beside PyTorch: what `fastwm bench` measures and what bench/test_kernels.py records.

A `Bench` is one kernel at one size with its ways by dtype; `compare` runs each of them once, and one whose result is not
PyTorch's is not timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import fastwm
from fastwm import ops, reference
from fastwm.demo import Search
from fastwm.demo.compare import plain_plan
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.models import WorldModel
from fastwm.ops.rollout import rollout

from .agreement import Agreement, plan_agreements, relative_error, rollout_agreements
from .machine import peak
from .models import demo_model, transformer
from .operations import count_operations
from .timing import in_turns

B, S, T, A, E, ELITES = 1, 300, 5, 10, 192, 30  # LeWM's default plan


@dataclass(frozen=True)
class Bench:
    """plain: PyTorch's way of each dtype that it has. repeats: how many of this kernel stand for one of a rollout."""

    kernel: str
    size: str
    ways: dict[str, Callable[[], object]]
    plain: dict[str, Callable[[], object]]
    compare: Callable[[], dict[str, Agreement]]
    operations: int = 0
    repeats: int = 1


def cem_sample(isa: str, threads: int) -> Bench:
    """Candidates from counters: the reference's, to the bit."""
    mean, std = torch.zeros(B, T, A), torch.ones(B, T, A)
    run = functools.partial(ops.cem_sample, mean, std, S, 0, 0, threads=threads, isa=isa)
    return Bench(
        "cem_sample",
        f"{S} × {T} × {A}",
        {"float32": run},
        {"float32": lambda: mean[:, None] + std[:, None] * torch.randn(B, S, T, A)},
        lambda: {"float32": Agreement(torch.equal(run(), reference.cem_sample(mean, std, S, 0, 0)))},
        repeats=10,
    )


def goal_cost(isa: str, threads: int) -> Bench:
    """Squared distance of the last latent to the goal."""
    random = torch.Generator().manual_seed(0)
    problem = torch.randn(B, S, E, generator=random), torch.randn(B, E, generator=random)
    run = functools.partial(ops.goal_cost, *problem, threads=threads, isa=isa)
    plain = functools.partial(reference.goal_cost, problem[0][:, :, None], problem[1], "squared", "last")
    return Bench(
        "goal_cost",
        f"{S} × {E}",
        {"float32": run},
        {"float32": plain},
        lambda: {"float32": Agreement((error := relative_error(run(), plain())) <= 1e-5, error)},
        repeats=10,
    )


def cem_update(isa: str, threads: int) -> Bench:
    """Refit to the elites: the reference's mean and std, to the bit."""
    random = torch.Generator().manual_seed(0)
    actions, cost = torch.randn(B, S, T, A, generator=random), torch.randn(B, S, generator=random)
    problem = actions, cost, torch.zeros(B, T, A), torch.ones(B, T, A), ELITES
    run = functools.partial(ops.cem_update, *problem, threads=threads, isa=isa)

    def plain() -> tuple[Tensor, Tensor]:
        elites = actions[0, cost[0].topk(ELITES, largest=False).indices]
        return elites.mean(0), elites.std(0)

    return Bench(
        "cem_update",
        f"{ELITES} of {S}",
        {"float32": run},
        {"float32": plain},
        lambda: {"float32": Agreement(all(map(torch.equal, run(), reference.cem_update(*problem))))},
        repeats=10,
    )


def rollout_bench(isa: str, threads: int, *, model: WorldModel, size: str, S: int, T: int) -> Bench:
    """Predicted latents of S candidates T blocks ahead, in each dtype."""
    spec = import_model(model).spec
    random = torch.Generator().manual_seed(0)
    context = torch.randn(1, 1, spec.embed_dim, generator=random)
    actions = torch.randn(1, S, T, spec.action_dim, generator=random)
    packed = {dtype: PackedPredictor(spec, dtype=dtype, isa=isa) for dtype in DTYPES}
    rollouts = {d: functools.partial(rollout, packed[d], context, threads=threads) for d in DTYPES}

    @torch.inference_mode()
    def plain(autocast: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model.rollout(context, actions)[:, :, -1]

    plains = {dtype: functools.partial(plain, dtype == "bfloat16") for dtype in ("float32", "bfloat16")}

    return Bench(
        "rollout",
        f"{size}, {S} × {T}",
        {dtype: functools.partial(run, actions) for dtype, run in rollouts.items()},
        {**plains},
        functools.partial(rollout_agreements, spec, context, actions, rollouts),
        operations=count_operations(spec, S, T, 1),
    )


def plan_bench(isa: str, threads: int, *, preset: str, size: str) -> Bench:
    """A plan of the demo from one picture to another, encoding included. The engine takes the instruction set in use."""
    model, search = demo_model(preset), Search()
    shape = model.config.image_size, model.config.image_size, 3
    random = torch.Generator().manual_seed(1)
    start, goal = (torch.randint(0, 256, shape, dtype=torch.uint8, generator=random) for _ in range(2))
    planners = {
        dtype: search.planner(fastwm.compile(model, backend="cpu", dtype=dtype, threads=threads), None)  # type: ignore[arg-type]
        for dtype in DTYPES
    }
    ways = {dtype: functools.partial(planner.plan, start, goal) for dtype, planner in planners.items()}
    some = planners["float32"]
    plains = {
        dtype: functools.partial(plain_plan, some, model, start, goal, bfloat16=dtype == "bfloat16")
        for dtype in ("float32", "bfloat16")
    }

    work = f"{size}, {search.iterations} × {search.samples} × {search.horizon}"
    compare = functools.partial(plan_agreements, planners, model, start, goal)
    return Bench("plan", work, {**ways}, {**plains}, compare)


def lewm(isa: str, threads: int) -> Bench:
    return rollout_bench(isa, threads, model=transformer(), size="LeWM", S=S, T=T)


def small(isa: str, threads: int) -> Bench:
    return rollout_bench(isa, threads, model=demo_model("small"), size="small", S=64, T=12)


def mlp(isa: str, threads: int) -> Bench:
    return rollout_bench(isa, threads, model=demo_model("mlp"), size="MLP", S=64, T=12)


# In the order of the data path. What --quick leaves out takes seconds a call in PyTorch.
KERNELS: dict[str, Callable[[str, int], Bench]] = {
    "cem_sample": cem_sample,
    "rollout_small": small,
    "rollout_mlp": mlp,
    "rollout_lewm": lewm,
    "goal_cost": goal_cost,
    "cem_update": cem_update,
    "plan_push": functools.partial(plan_bench, preset="small", size="push"),
    "plan_two_room": functools.partial(plan_bench, preset="mlp", size="two-room"),
}
QUICK = tuple(name for name in KERNELS if name != "rollout_lewm")


def results(names: tuple[str, ...], *, isa: str, threads: int, repeats: int) -> Iterator[list[dict]]:
    """The lines of each kernel in turn: fastwm's dtypes and PyTorch's, on one instruction set."""
    torch.set_num_threads(threads)
    peaks = dict.fromkeys(DTYPES, 0.0)
    for name in names:
        bench = KERNELS[name](isa, threads)
        found = bench.compare()
        ways = {("fastwm", dtype): way for dtype, way in bench.ways.items() if found[dtype].passed}
        ways |= {("PyTorch", dtype): way for dtype, way in bench.plain.items()}
        times = in_turns(ways, repeats=repeats * bench.repeats)
        if bench.operations:  # a busy moment lowers a peak, nothing raises it
            peaks = {d: max(best, peak(isa, d, threads, seconds=0.02)) for d, best in peaks.items()}
        lines = []
        for engine, dtype in [*(("fastwm", d) for d in bench.ways), *(("PyTorch", d) for d in bench.plain)]:
            agreement = found[dtype] if engine == "fastwm" else Agreement(True)
            line = {
                "kernel": bench.kernel,
                "size": bench.size,
                "engine": engine,
                "dtype": dtype,
                "threads": threads,
            }
            line |= {"isa": isa if engine == "fastwm" else "PyTorch", **agreement.line()}
            if agreement.passed:
                line |= {"milliseconds": times[engine, dtype], "repeats": repeats * bench.repeats}
            if agreement.passed and bench.operations:
                rate = bench.operations / times[engine, dtype]["min"] * 1e3
                line |= {"gflop": bench.operations / 1e9, "gflops": round(rate / 1e9, 1)}
                line |= {
                    "peak_gflops": round(peaks[dtype] / 1e9, 1),
                    "efficiency": round(rate / peaks[dtype], 3),
                }
            lines.append(line)
        yield lines
