"""One CEM iteration (sample, roll out, score, refit): fastwm on its instruction sets and dtypes, every peer that is installed.

Main table: LeWM at its published size (E 192, 6 layers, 16 heads of 64, MLP 2048; 300 candidates, 5 blocks, 1 and 3 frames of
context), a small transformer, the demo's models, TD-MPC2's dynamics. --sweep: LeWM at other sizes, fastwm alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import problems
from bench.machine import peak
from bench.operations import count_operations
from bench.options import Options
from bench.parity import Truth, truth
from bench.peers import PEERS
from bench.peers.peer import Costs
from bench.problems import Problem, Setting, make_problem
from bench.timing import affordable, in_turns
from fastwm import ops
from fastwm.engine.backend import isas
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.engine.spec import PredictorSpec
from fastwm.ops.rollout import rollout


@dataclass
class Way:
    """costs: a problem and candidates [B, S, T, A] -> costs [B, S]. step: one whole iteration. isa: of fastwm."""

    name: str
    engine: str
    isa: str
    dtype: str
    costs: Costs
    step: Callable[[], object]


def results(options: Options) -> Iterator[dict]:
    """One line per setting, number of threads and way."""
    for peer in PEERS:
        if peer.missing:
            print(f"{peer.name}: left out, {', '.join(peer.missing)} not installed (make bench installs all)")
    settings = problems.QUICK if options.quick else problems.SWEEP if options.sweep else problems.MAIN
    for setting in settings:
        if options.models and setting.model not in options.models:
            continue
        print(f"{describe(setting)}: costs in float64", flush=True)
        exact = truth(problems.module(setting.model), setting)
        for threads in options.threads:
            torch.set_num_threads(threads)
            yield from one_setting(setting, exact, threads, options)


def one_setting(setting: Setting, exact: Truth, threads: int, options: Options) -> Iterator[dict]:
    """All ways of one problem, in turns; a way whose costs are wrong gets no time."""
    spec = problems.spec(setting.model)
    problem = make_problem(spec, setting)
    ways, verdicts = [], {}
    for way in all_ways(problem, spec, threads, options):
        verdicts[way.name] = exact.check(way.costs, way.engine, way.dtype)
        ways.append(way)
    passed = {way.name: way.step for way in ways if verdicts[way.name].passed}
    best_isa = isas()[0]
    places = {(way.isa or best_isa, way.dtype) for way in ways}
    peaks = {place: peak(*place, threads) for place in places}
    repeats = affordable(passed, repeats=options.repeats, seconds=options.seconds)
    print(f"{describe(setting)}, {threads} threads: {len(passed)} ways, {repeats} times", flush=True)
    times = in_turns(passed, repeats=repeats, warm_up=1)
    # A busy moment lowers a peak, nothing raises it.
    peaks = {place: max(found, peak(*place, threads)) for place, found in peaks.items()}
    operations = setting.B * count_operations(spec, setting.S, setting.T, setting.K)
    for way in ways:
        line = {**setting.sizes, "threads": threads, "way": way.name, "engine": way.engine}
        line |= {"isa": way.isa or "PyTorch", "dtype": way.dtype, "repeats": repeats}
        line |= {"gflop": round(operations / 1e9, 4), **verdicts[way.name].line()}
        if way.name in times:
            rate = operations / (times[way.name]["median"] / 1e3)
            best = peaks[way.isa or best_isa, way.dtype]
            line |= {"milliseconds": times[way.name], "gflops": round(rate / 1e9, 2)}
            line |= {"peak_gflops": round(best / 1e9, 1), "efficiency": round(rate / best, 4)}
        yield line


def all_ways(problem: Problem, spec: PredictorSpec, threads: int, options: Options) -> Iterator[Way]:
    """Peers first, but in a sweep; fastwm on the best instruction set in every dtype, on the others in float32."""
    setting = problem.setting
    for peer in () if options.sweep else PEERS:
        ready = peer.quick if options.quick else options.compiled or peer.engine != "torch.compile"
        fits = peer.models is None or setting.model in peer.models
        if ready and fits and not peer.missing and options.wants(peer.name):
            costs = peer.make(problems.module(setting.model), problem, threads)
            yield peer_way(peer.name, peer.engine, peer.dtype, costs, problem)
    for isa in isas()[:1] if options.sweep else isas():
        for dtype in DTYPES if isa == isas()[0] else ("float32",):
            if isa != "baseline" and options.wants(f"fastwm {isa} {dtype}"):
                yield engine_way(spec, problem, isa, dtype, threads)


def engine_way(spec: PredictorSpec, problem: Problem, isa: str, dtype: str, threads: int) -> Way:
    packed = PackedPredictor(spec, dtype=dtype, isa=isa)
    on = {"threads": threads, "isa": isa}
    setting = problem.setting
    every_step = setting.reduce == "min"

    def costs(problem: Problem, actions: Tensor) -> Tensor:
        latents = rollout(
            packed, problem.context, actions, problem.past, keep_all=every_step, threads=threads
        )
        return ops.goal_cost(latents, problem.goal, "squared", setting.reduce, **on)  # type: ignore[arg-type]

    def step() -> object:
        actions = ops.cem_sample(problem.mean, problem.std, setting.S, 0, 0, **on)  # type: ignore[arg-type]
        cost = costs(problem, actions)
        return ops.cem_update(actions, cost, problem.mean, problem.std, setting.elites, **on)  # type: ignore[arg-type]

    return Way(f"fastwm {isa} {dtype}", "fastwm", isa, dtype, costs, step)


def peer_way(name: str, engine: str, dtype: str, costs: Costs, problem: Problem) -> Way:
    """Sampled and refitted in PyTorch, as its user would."""

    @torch.inference_mode()
    def step() -> object:
        actions = problem.mean[:, None] + problem.std[:, None] * torch.randn_like(problem.actions)
        actions[:, 0] = problem.mean
        elites = actions[0, costs(problem, actions)[0].topk(problem.setting.elites, largest=False).indices]
        return elites.mean(0), elites.std(0)

    return Way(name, engine, "", dtype, costs, step)


def describe(setting: Setting) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.sizes.items())
