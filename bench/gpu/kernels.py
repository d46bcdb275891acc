"""Each kernel of a plan, the whole rollout and the whole plan, beside what PyTorch has for the same work.

A `Case` is one kernel at one size with its ways, by (engine, dtype). A way is timed once what it computes has been checked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

import fastwm
from bench import problems
from bench.agreement import Agreement, judge, relative_error
from bench.gpu import peers
from bench.gpu.counts import Started, Work, counted, starts, total
from bench.gpu.peers import cost, draw, refit
from bench.gpu.place import Place, Size
from bench.gpu.timing import Call, Watch
from fastwm import ops, reference

DTYPES = ("float32", "bfloat16")
CHECKED = 64  # candidates of the first and the last environment
CHECKED_ITERATIONS = (
    3  # of a plan: after more, which of two equal candidates was taken has become another plan
)
PLAN_FLOAT32, PLAN_NARROW = 1e-4, 0.02  # relative, of a plan's cost

Key = tuple[str, str]  # engine, dtype


@dataclass
class Case:
    """agree: whether a way computes what it should. work: of fastwm's way, by dtype."""

    kernel: str
    size: Size
    ways: dict[Key, Call]
    agree: Callable[[Key], Agreement]
    watch: Watch = "cold"
    work: dict[str, Work] = field(default_factory=dict)


def cem_sample(place: Place, size: Size) -> Iterator[Case]:
    """Candidates: the reference's to the bit; PyTorch's are others."""
    A = problems.spec(size.model).action_dim
    mean, std = (make(size.B, size.T, A, device=place.device) for make in (torch.zeros, torch.ones))
    run = functools.partial(ops.cem_sample, mean, std, size.S, 0, 0)
    exact = reference.cem_sample(mean.cpu(), std.cpu(), size.S, 0, 0)
    ways = {("fastwm", "float32"): run, **_plain(draw, place, mean, std, size.S)}
    yield Case(
        "cem_sample",
        size,
        ways,
        lambda key: Agreement(key[0] != "fastwm" or torch.equal(run().cpu(), exact)),
        work={"float32": counted(run)},
    )


def cem_update(place: Place, size: Size) -> Iterator[Case]:
    """The elites' mean and std: the reference's to the bit; PyTorch sums in another order."""
    A = problems.spec(size.model).action_dim
    random = torch.Generator().manual_seed(0)
    actions = torch.randn(size.B, size.S, size.T, A, generator=random)
    costs = torch.randn(size.B, size.S, generator=random)
    given = actions, costs, torch.zeros(size.B, size.T, A), torch.ones(size.B, size.T, A)
    exact = reference.cem_update(*given, size.elites)
    here = tuple(tensor.to(place.device) for tensor in given)
    run = functools.partial(ops.cem_update, *here, size.elites)
    ways = {("fastwm", "float32"): run, **_plain(refit, place, here[0], here[1], size.elites)}

    def agree(key: Key) -> Agreement:
        found = ways[key]()
        assert isinstance(found, tuple)
        pairs = [(mine.cpu(), other) for mine, other in zip(found[:2], exact[:2], strict=True)]
        if key[0] == "fastwm":
            return Agreement(all(torch.equal(*pair) for pair in pairs))
        return Agreement(all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in pairs))

    yield Case("cem_update", size, ways, agree, work={"float32": counted(run)})


def goal_cost(place: Place, size: Size) -> Iterator[Case]:
    """Squared distance of the last latent to the goal."""
    E = problems.spec(size.model).embed_dim
    random = torch.Generator().manual_seed(0)
    latents, goal = (torch.randn(*shape, generator=random) for shape in ((size.B, size.S, E), (size.B, E)))
    exact = cost(latents.double(), goal.double())
    latents, goal = latents.to(place.device), goal.to(place.device)
    run = functools.partial(ops.goal_cost, latents, goal)
    ways = {("fastwm", "float32"): run, **_plain(cost, place, latents, goal)}

    def agree(key: Key) -> Agreement:
        error = relative_error(ways[key]().cpu(), exact)  # type: ignore[attr-defined]
        return Agreement(error <= 1e-5, error)

    yield Case("goal_cost", size, ways, agree, work={"float32": counted(run)})


def rollout(place: Place, size: Size) -> Iterator[Case]:
    """All candidates through the predictor; of fastwm, the CUDA graph that a search replays, and then each of its kernels."""
    module = problems.module(size.model)
    problem = _problem(size, place)
    context, actions, goal = problem.context, problem.actions, problem.goal
    rollouts: dict[Key, peers.Rollout] = {}
    heaviest: dict[str, dict[str, Started]] = {}
    work: dict[str, Work] = {}
    # what is made on the way need not leave L2: weights, and what comes in and goes out
    moved = context.nbytes + actions.nbytes + size.S * context.nbytes
    for dtype in DTYPES:
        engine = fastwm.compile(module.model, backend="cuda", dtype=dtype)  # type: ignore[arg-type]
        started = starts(functools.partial(engine.rollout, context, actions))
        heaviest[dtype] = {one.name: one for one in sorted(started, key=lambda one: one.work)}
        together = functools.reduce(Work.__add__, total(started).values())
        work[dtype] = together._replace(bytes=moved + engine.info()["weight_bytes"])
        del started  # and all that it keeps
        rollouts["fastwm", dtype] = peers.Graphed(engine.rollout, place, context, actions)
    rollouts |= peers.rollouts(module, place, context, actions)
    rows = [0, size.B - 1] if size.B > 1 else [0]
    few = min(CHECKED, size.S)
    exact = _exact_costs(module, context[rows], actions[rows][:, :few], goal[rows])
    elites = max(1, few // 10)

    def costs(key: Key) -> Tensor:
        return cost(rollouts[key](context, actions), goal)[rows][:, :few].cpu()

    def agree(key: Key) -> Agreement:
        autocast = relative_error(costs(("torch eager", "bfloat16")), exact)
        return judge([(exact, costs(key))], key[1], elites=elites, autocast=autocast, peer=key[0] != "fastwm")

    ways = {key: functools.partial(way, context, actions) for key, way in rollouts.items()}
    yield Case("rollout", size, ways, agree, work=work)
    yield from _parts(size, heaviest)


def _parts(size: Size, heaviest: dict[str, dict[str, Started]]) -> Iterator[Case]:
    """Each kernel of a rollout alone, as the launch that has most to do was started; the rollout has been checked."""
    for name in dict.fromkeys(name for kernels in heaviest.values() for name in kernels):
        found = {dtype: kernels[name] for dtype, kernels in heaviest.items() if name in kernels}
        ways: dict[Key, Call] = {("fastwm", dtype): one.kernel for dtype, one in found.items()}
        work = {dtype: one.work for dtype, one in found.items()}
        yield Case(f"rollout {name}", size, ways, lambda key: Agreement(True), work=work)


def plan(place: Place, size: Size) -> Iterator[Case]:
    """A whole search, from latents on the host to actions on the host."""
    module = problems.module(size.model)
    problem = _problem(size, place)
    short = Size(size.B, size.S, size.T, size.elites, min(CHECKED_ITERATIONS, size.iterations), size.model)
    A = problem.actions.shape[-1]
    random = torch.Generator().manual_seed(3)
    noise = torch.randn(short.iterations, size.B, size.S, size.T, A, generator=random)
    there = noise.to(place.device)
    given = {"latents": problem.context.cpu()}, {"latents": problem.goal.cpu()}
    ways: dict[Key, Call] = {}
    checked: dict[Key, Callable[[], Tensor]] = {}
    for dtype in DTYPES:
        engine = fastwm.compile(module.model, backend="cuda", dtype=dtype)  # type: ignore[arg-type]
        search = fastwm.Planner(engine, fastwm.CEM(size.S, size.elites, size.iterations), size.T)
        tried = fastwm.Planner(engine, fastwm.CEM(size.S, size.elites, short.iterations), size.T)
        ways["fastwm", dtype] = functools.partial(search.plan, *given)
        checked["fastwm", dtype] = lambda tried=tried: tried.plan(*given, noise=noise).mean  # type: ignore[misc]
        model = peers.Model(module, getattr(torch, dtype), place.device)
        for name, step in peers.steps(model, place).items():
            whole, few = (peers.Search(step, s, problem.context, problem.goal, A) for s in (size, short))
            ways[name, dtype] = lambda whole=whole: whole().cpu()  # type: ignore[misc]
            checked[name, dtype] = lambda few=few: few(there).cpu()  # type: ignore[misc]
            replay, graph = peers.Graphed(whole, place), peers.graphed(name)
            ways[graph, dtype] = lambda replay=replay: replay().cpu()  # type: ignore[misc]
            # captured when it is asked for, as the memory of many graphs would not fit a small card
            checked[graph, dtype] = lambda few=few: peers.Graphed(few, place, there)(there).cpu()  # type: ignore[misc]

    def price(key: Key) -> Tensor:
        """What the plan costs, in float64: [B, 1]."""
        actions = checked[key]()[:, None].to(place.device)
        return _exact_costs(module, problem.context, actions, problem.goal)

    expected = price(("torch eager", "float32"))

    def agree(key: Key) -> Agreement:
        error = relative_error(price(key), expected)
        return Agreement(error <= (PLAN_FLOAT32 if key[1] == "float32" else PLAN_NARROW), error)

    yield Case("plan", size, ways, agree, watch="host")


def _plain(function: Callable[..., object], place: Place, *given: object) -> dict[Key, Call]:
    """PyTorch's ways of a small kernel."""
    ways: dict[Key, Call] = {("torch eager", "float32"): functools.partial(function, *given)}
    if place.compiled:
        ways["torch.compile", "float32"] = functools.partial(peers.compiled(function, place), *given)
    return ways


def _problem(size: Size, place: Place) -> problems.Problem:
    """The problem of these sizes, on the device; one context frame."""
    setting = problems.Setting(size.model, B=size.B, S=size.S, T=size.T, elites=size.elites)
    made = problems.make_problem(problems.spec(size.model), setting)
    for name in ("context", "goal", "actions"):
        setattr(made, name, getattr(made, name).to(place.device))
    return made


def _exact_costs(module: object, context: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
    """float64 [B, S], on the CPU"""
    model = peers.Model(module, torch.float64, context.device)
    return cost(model(context, actions), goal.double()).cpu()
