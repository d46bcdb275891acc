"""One CEM iteration of the published LeWM (E 192, 6 layers, 16 heads of 64, MLP 2048): sample, rollout, cost, refit.

300 candidates, 5 blocks, 1 and 3 frames of context, 1 and 2 threads. Peers: the same model in PyTorch, eager and compiled,
float32 and bfloat16 autocast; stable-worldmodel's own LeWM where it is installed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastwm import ops
from fastwm.engine.backend import isas
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.engine.spec import PredictorSpec
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.ops.rollout import rollout

from .machine import peak
from .timing import in_turns

SAMPLES, ELITES, HORIZON, ACTION_DIM = 300, 30, 5, 10
MAX_RELATIVE_COST_ERROR = 1e-4  # float32


@dataclass
class Problem:
    """One environment: context [1, K, E], past [1, K-1, A], goal [1, E], candidates for the parity check [1, S, T, A]."""

    context: Tensor
    past: Tensor
    goal: Tensor
    actions: Tensor
    mean: Tensor  # [1, T, A]
    std: Tensor  # [1, T, A]


@dataclass
class Way:
    """costs: candidates [1, S, T, A] -> costs [1, S]. step: one whole iteration."""

    name: str
    isa: str
    dtype: str
    costs: Callable[[Tensor], Tensor]
    step: Callable[[], object]


def results(*, repeats: int, threads: tuple[int, ...], compiled: bool) -> Iterator[dict]:
    """One line per context, number of threads and way."""
    model = published_model()
    spec = import_model(model).spec
    for count in threads:
        torch.set_num_threads(count)
        peaks = {(isa, dtype): peak(isa, dtype, count) for isa in isas() for dtype in DTYPES}
        for frames in (1, 3):
            yield from _one_setting(model, spec, frames, count, peaks, repeats=repeats, compiled=compiled)


def _one_setting(
    model: WorldModel,
    spec: PredictorSpec,
    frames: int,
    threads: int,
    peaks: dict[tuple[str, str], float],
    *,
    repeats: int,
    compiled: bool,
) -> Iterator[dict]:
    problem = make_problem(spec, frames)
    ways = [*torch_ways(model, problem, compiled=compiled), *peer_ways(problem)]
    ways += [engine_way(spec, problem, isa, dtype, threads) for isa in isas() for dtype in DTYPES]
    errors = parity(model, problem, ways)
    passed = [way for way in ways if errors[way.name]["passed"]]
    times = in_turns({way.name: way.step for way in passed}, repeats=repeats)
    peaks = {
        key: max(best, peak(*key, threads)) for key, best in peaks.items()
    }  # a busy moment lowers it, nothing raises it
    operations = count_operations(spec, SAMPLES, HORIZON, frames)
    for way in ways:
        line = {"context": frames, "threads": threads, "way": way.name, "isa": way.isa, "dtype": way.dtype}
        line |= {"repeats": repeats, "gflop": round(operations / 1e9, 2), **errors[way.name]}
        if way in passed:
            seconds = times[way.name]["median"] / 1e3
            best = peaks[way.isa if way.isa in isas() else isas()[0], way.dtype]
            line |= {"milliseconds": times[way.name], "gflops": round(operations / seconds / 1e9, 1)}
            line |= {"peak_gflops": round(best / 1e9, 1), "efficiency": round(operations / seconds / best, 3)}
        yield line


# ---- the model and the problem -------------------------------------------------------------------------------------------


def published_model() -> WorldModel:
    """The published sizes with random weights; a new AdaLN, all zero, would hide errors."""
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig.preset("paper", action_dim=ACTION_DIM)).eval().requires_grad_(False)
    for block in model.predictor.blocks:  # type: ignore[union-attr]
        torch.nn.init.normal_(block.modulation[1].weight, std=model.config.width**-0.5)
    return model


def make_problem(spec: PredictorSpec, frames: int) -> Problem:
    random = torch.Generator().manual_seed(1)
    E, A = spec.embed_dim, spec.action_dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return Problem(
        context=normal(1, frames, E),
        past=normal(1, frames - 1, A),
        goal=normal(1, E),
        actions=normal(1, SAMPLES, HORIZON, A),
        mean=torch.zeros(1, HORIZON, A),
        std=torch.ones(1, HORIZON, A),
    )


# ---- ways ----------------------------------------------------------------------------------------------------------------


def engine_way(spec: PredictorSpec, problem: Problem, isa: str, dtype: str, threads: int) -> Way:
    packed = PackedPredictor(spec, dtype=dtype, isa=isa)
    on = {"threads": threads, "isa": isa}

    def costs(actions: Tensor) -> Tensor:
        latents = rollout(packed, problem.context, actions, problem.past, threads=threads)
        return ops.goal_cost(latents, problem.goal, **on)  # type: ignore[arg-type]

    def step() -> object:
        actions = ops.cem_sample(problem.mean, problem.std, SAMPLES, 0, 0, **on)  # type: ignore[arg-type]
        return ops.cem_update(actions, costs(actions), problem.mean, problem.std, ELITES, **on)  # type: ignore[arg-type]

    return Way(f"fastwm {isa} {dtype}", isa, dtype, costs, step)


def torch_way(name: str, dtype: str, costs: Callable[[Tensor], Tensor], problem: Problem) -> Way:
    @torch.inference_mode()
    def in_dtype(actions: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return costs(actions).float()

    def step() -> object:
        actions = problem.mean[:, None] + problem.std[:, None] * torch.randn_like(problem.actions)
        actions[:, 0] = problem.mean
        elites = actions[0, in_dtype(actions)[0].topk(ELITES, largest=False).indices]
        return elites.mean(0), elites.std(0)

    return Way(f"{name} {dtype}", "PyTorch", dtype, in_dtype, step)


def torch_ways(model: WorldModel, problem: Problem, *, compiled: bool) -> Iterator[Way]:
    """Our own model's sliding window in PyTorch, which is LeWM's."""

    def costs(model: WorldModel, actions: Tensor) -> Tensor:
        latents = model.rollout(problem.context, actions, problem.past)
        return (latents[:, :, -1] - problem.goal[:, None]).square().sum(-1)

    for dtype in DTYPES:
        yield torch_way("torch eager", dtype, functools.partial(costs, model), problem)
    if compiled:
        fast = _compiled(model)
        for dtype in DTYPES:
            yield torch_way("torch.compile", dtype, functools.partial(costs, fast), problem)


@functools.cache
def _compiled(model: WorldModel) -> WorldModel:
    """The model with its predictor compiled, once per window length: the whole rollout in one graph takes
    minutes to compile."""
    fast = copy.copy(model)
    fast._predict = torch.compile(model._predict, dynamic=False)  # type: ignore[method-assign]
    return fast


def peer_ways(problem: Problem) -> Iterator[Way]:
    """stable-worldmodel's own LeWM.get_cost, with observation and goal encoded beforehand."""
    try:
        from .peer import lewm_costs
    except ImportError:
        return
    for dtype in DTYPES:
        yield torch_way("stable-worldmodel LeWM", dtype, functools.partial(lewm_costs, problem), problem)


# ---- parity --------------------------------------------------------------------------------------------------------------


def parity(model: WorldModel, problem: Problem, ways: list[Way]) -> dict[str, dict]:
    """The costs of the same candidates: float32 within 1e-4 of float64, bfloat16 no further than twice autocast's error.

    stable-worldmodel's model has weights of its own; `make test-peers` compares it.
    """
    exact = _float64_costs(model, problem)
    found = {way.name: way.costs(problem.actions).double() for way in ways}
    relative = {name: float(((costs - exact) / exact).abs().max()) for name, costs in found.items()}
    allowed = {"float32": MAX_RELATIVE_COST_ERROR, "bfloat16": 2 * relative["torch eager bfloat16"]}
    return {
        way.name: {"relative_cost_error": None, "passed": True}
        if way.name.startswith("stable-worldmodel")
        else {"relative_cost_error": relative[way.name], "passed": relative[way.name] <= allowed[way.dtype]}
        for way in ways
    }


@torch.inference_mode()
def _float64_costs(model: WorldModel, problem: Problem) -> Tensor:
    model.double()
    try:
        latents = model.rollout(problem.context.double(), problem.actions.double(), problem.past.double())
    finally:
        model.float()
    return (latents[:, :, -1] - problem.goal.double()[:, None]).square().sum(-1)


# ---- operations ----------------------------------------------------------------------------------------------------------


def count_operations(spec: PredictorSpec, samples: int, horizon: int, frames: int) -> int:
    """Additions and multiplications of one rollout of one environment when nothing is computed twice.

    What the engine's savings leave (csrc/cpu/rollout.cpp): tokens of the context are shared by all candidates and not counted;
    keys and values are kept while the window grows; in the last layer one token asks.
    """
    layer = spec.layers[0]
    inner, hidden, W, L = spec.heads * spec.head_dim, layer.fc1.weight.shape[0], spec.width, len(spec.layers)
    keys_values, after = 4 * W * inner, 2 * W * inner + 4 * W * hidden  # after attention: out, fc1, fc2
    query = 2 * W * inner
    total = horizon * (
        sum(d.weight.numel() for d in spec.action) * 2 + L * 12 * W * W
    )  # conditioning, modulation
    total += horizon * sum(d.weight.numel() for d in spec.head) * 2
    for t in range(horizon):
        seen = min(frames + t, spec.window)
        grows = frames + t <= spec.window
        shared = max(0, frames - 1 - max(0, frames + t - spec.window))
        tokens = 1 if grows else seen - shared
        for i in range(L):
            asking = tokens if i + 1 < L else 1
            total += tokens * keys_values + asking * (after + (query if seen > 1 else 0))
            total += sum(4 * inner * (seen - asked) for asked in range(asking)) if seen > 1 else 0
        if spec.input is not None:
            total += tokens * spec.input.weight.numel() * 2
    return total * samples
