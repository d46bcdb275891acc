"""How often a solve starts something on the GPU: counted where there is none.

Triton's kernels are started in name alone: only the host's part is done. PyTorch's operations are those that start at least
one kernel; views and allocations are none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import fastwm
from bench import problems
from bench.gpu import peers
from bench.gpu.counts import Started, starts
from bench.gpu.place import ROOT, Place, Size
from fastwm.engine.backend import cuda_module
from fastwm.engine.cuda import device as devices
from fastwm.engine.cuda.graph import Recording
from fastwm.engine.engine import Engine


class Launches(NamedTuple):
    """Of one solve. kernels: of fastwm; operations: of PyTorch; calls: what the host starts, copies too, a graph once."""

    kernels: int
    operations: int
    calls: int


@contextlib.contextmanager
def nowhere() -> Iterator[Place]:
    """A place where Triton's kernels do nothing; it needs neither a GPU nor Triton's interpreter."""
    folder = str(ROOT / "tests" / "gpu")
    if folder not in sys.path:
        sys.path.append(folder)
    import emulation

    name, before = "fastwm._cuda", sys.modules.get("fastwm._cuda")
    emulation.load()
    try:
        with devices.on(torch.device("cpu")), torch.inference_mode():
            yield Place(torch.device("cpu"), rehearsal=True)
    finally:  # a GPU's own module serves what follows
        if before is None:
            del sys.modules[name], fastwm._cuda  # type: ignore[attr-defined]
        else:
            sys.modules[name] = fastwm._cuda = before  # type: ignore[attr-defined]


def engine(size: Size, dtype: str) -> Engine:
    """The model compiled for the GPU. Call it `nowhere`."""
    return fastwm.compile(problems.module(size.model).model, backend="cuda", dtype=dtype)  # type: ignore[arg-type]


def cheap(name: str) -> bool:
    """Whether a kernel is one of `fastwm._cuda`, which are emulated in no time and keep the candidates finite."""
    return hasattr(cuda_module(), name)


def rollout(size: Size, dtype: str) -> list[Started]:
    """The kernels of one iteration's rollout."""
    context, actions = _inputs(size)
    return starts(functools.partial(engine(size, dtype).rollout, context, actions), run=cheap)


def iteration(size: Size, dtype: str) -> list[Started]:
    """The kernels of one iteration, in order."""
    from fastwm import ops

    made = engine(size, dtype)
    context, actions = _inputs(size)
    mean = torch.zeros(size.B, size.T, actions.shape[-1])
    costs, goal = torch.zeros(size.B, size.S), torch.zeros_like(context[:, 0])

    def work() -> None:
        ops.cem_sample(mean, mean, size.S, 0, 0)
        latents = made.rollout(context, actions)
        ops.goal_cost(latents, goal)
        best = {"best_cost": torch.zeros(size.B), "best_actions": mean}
        ops.cem_update(actions, costs, mean, mean, size.elites, **best)

    return starts(work, run=cheap)


def alone(size: Size, dtype: str) -> list[Started]:
    """Kernels that are no part of a rollout, at its sizes."""
    from bench.gpu import attention

    q, k, v = (torch.empty(x.shape, dtype=x.dtype) for x in attention.inputs(size, getattr(torch, dtype)))
    return starts(functools.partial(attention.kernel, q, k, v), run=lambda name: False)


def solve(size: Size, dtype: str) -> Launches:
    """fastwm's: what its one graph holds. Counted with one and with two iterations, as all others start the same."""
    one, two = (_graph(size, dtype, iterations) for iterations in (1, 2))
    kernels, operations, calls = (
        first + (size.iterations - 1) * (second - first) for first, second in zip(one, two, strict=True)
    )
    return Launches(kernels, operations, calls)


def _graph(size: Size, dtype: str, iterations: int) -> Launches:
    """Of the graph of a search."""
    from fastwm.planning.clock import Clock
    from fastwm.planning.costs import GoalDistance
    from fastwm.planning.solve import Problem, Solver

    solver = Solver(engine(size, dtype), fastwm.CEM(size.S, size.elites, iterations), GoalDistance())
    context, actions = _inputs(size)
    zeros = torch.zeros(size.B, size.T, actions.shape[-1])
    nothing = dict.fromkeys(("past_actions", "state", "reached", "proposals", "kept", "noise"))
    problem = Problem(
        context=context,
        latents=context,
        mean=zeros,
        std=zeros,
        fallback=zeros,
        environments=torch.arange(size.B),
        **nothing,  # type: ignore[arg-type]
    )
    starts(lambda: solver.solve(problem, 0, Clock(None)), run=cheap)
    (captured,) = solver._graphs.values()
    recording = captured._graph
    assert isinstance(recording, Recording)
    copies = sum(isinstance(given, Tensor) for given in captured._given)
    return Launches(len(recording.kernels), len(recording.operations), calls=1 + copies)


def pytorch(size: Size) -> Launches:
    """The search as one would write it in PyTorch, eager: each operation is a call of the host."""
    model = peers.Model(problems.module(size.model), torch.float32, torch.device("cpu"))
    few = Size(1, 4, size.T, 2, 1, size.model)  # the number of candidates changes nothing
    counts = []
    for iterations in (1, 2):
        context, actions = _inputs(few)
        search = peers.Search(
            model, dataclasses.replace(few, iterations=iterations), context, context[:, 0], actions.shape[-1]
        )
        recording = Recording()
        recording.record(search)
        counts.append(len(recording.operations))
    total = counts[0] + (size.iterations - 1) * (counts[1] - counts[0])
    return Launches(0, total, calls=total)


def _inputs(size: Size) -> tuple[Tensor, Tensor]:
    """context [B, 1, E], actions [B, S, T, A]"""
    spec = problems.spec(size.model)
    return torch.zeros(size.B, 1, spec.embed_dim), torch.zeros(size.B, size.S, size.T, spec.action_dim)
