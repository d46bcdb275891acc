"""The same model in PyTorch: eager and torch.compile, float32 and autocast to bfloat16."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from bench.peers.peer import Costs, Peer, RowCosts, rows
from bench.problems import Problem

# One code object is compiled for every window length, dtype, number of threads and model. Past 8 of them, the default, PyTorch
# goes on in eager mode, and says so only in a log.
torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1000
torch._dynamo.config.fail_on_recompile_limit_hit = True
MOST_BLOCKS = 16  # of all steps together, in one graph: LeWM's 30 take minutes to compile and gain nothing


def eager(dtype: str, model: Any, problem: Problem, threads: int) -> Costs:
    return autocast(dtype, RowCosts(model, problem.setting.reduce))


def compiled(dtype: str, model: Any, problem: Problem, threads: int) -> Costs:
    """The step compiled once per window length, or the whole rollout in one graph where that is small: what is faster here.

    Freezing the weights and max-autotune gained nothing.
    """
    reduce = problem.setting.reduce
    choices = [autocast(dtype, RowCosts(Compiled(model), reduce))]
    if model.depth * problem.setting.T <= MOST_BLOCKS:
        choices.append(autocast(dtype, torch.compile(RowCosts(model, reduce), dynamic=False)))
    return min(choices, key=lambda costs: _milliseconds(costs, problem))


def autocast(dtype: str, module: Any) -> Costs:
    @torch.inference_mode()
    def costs(problem: Problem, actions: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return module(*rows(problem, actions))[None].float()

    return costs


class Compiled(torch.nn.Module):
    """A model whose step is compiled for each of its shapes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.window, self.embed_actions = model.window, model.embed_actions
        self.step = compiled_step(model)


@functools.cache
def compiled_step(model: Any) -> Any:
    return torch.compile(model.step, dynamic=False)


def _milliseconds(costs: Costs, problem: Problem) -> float:
    """The best of a few after it is warm."""
    times = []
    for _ in range(7):
        began = time.perf_counter()
        costs(problem, problem.actions)
        times.append(1e3 * (time.perf_counter() - began))
    return min(times[2:])


PEERS = (
    Peer("torch eager", "float32", functools.partial(eager, "float32")),
    Peer("torch eager", "bfloat16", functools.partial(eager, "bfloat16")),
    Peer("torch.compile", "float32", functools.partial(compiled, "float32"), quick=False),
    Peer("torch.compile", "bfloat16", functools.partial(compiled, "bfloat16"), quick=False),
)
