"""Whether two ways compute the same: the condition under which a speed is printed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastwm.demo.compare import parity_error
from fastwm.engine.pack import DTYPES
from fastwm.engine.spec import PredictorSpec
from fastwm.models import WorldModel
from fastwm.planning import Planner
from fastwm.reference.rollout import rollout as reference_rollout

FLOAT32 = 1e-4  # relative cost error allowed
# Of narrower dtypes, in errors of PyTorch's autocast to bfloat16 on the same problem. A row of int8 has steps of a 127th of its
# largest number, some seven times bfloat16's rounding of a normal row. What planning needs is the ranking gate's business
# (fastwm/engine/ranking.py); this finds what is broken.
AUTOCAST_ERRORS = {"bfloat16": 2.0, "int8": 16.0}


def relative_error(found: Tensor, exact: Tensor) -> float:
    """The largest; NaN where one is not finite, which is no error that any tolerance allows."""
    return float(((found.double() - exact.double()) / exact.double()).abs().max())


def tolerances(autocast_error: float) -> dict[str, float]:
    """Relative cost error allowed of each dtype."""
    return {dtype: max(FLOAT32, AUTOCAST_ERRORS.get(dtype, 0) * autocast_error) for dtype in DTYPES}


def plan_cost_error(planner: Planner, model: WorldModel, start: Tensor, goal: Tensor) -> float:
    """Largest relative difference of the costs that the planner's engine and the model give the same candidates."""
    return parity_error(planner, model, start.numpy(), goal.numpy())


@torch.inference_mode()
def autocast_cost_error(planner: Planner, model: WorldModel, start: Tensor, goal: Tensor) -> float:
    """The same of the model under autocast to bfloat16, latents of start and goal included."""
    generator = torch.Generator().manual_seed(0)
    shape = 1, planner.optimizer.samples, planner.horizon, model.config.action_dim
    actions = model.action_mean + model.action_std * torch.randn(shape, generator=generator)

    def costs() -> Tensor:
        latents = model.rollout(model.encode(start)[None, None], actions)
        return (latents - model.encode(goal)[None, None, None]).square().sum(-1).amin(-1).float()

    exact = costs()
    with torch.autocast("cpu", torch.bfloat16):
        return relative_error(costs(), exact)


def rollout_errors(
    spec: PredictorSpec, context: Tensor, actions: Tensor, found: Mapping[str, Tensor], *, few: int = 8
) -> tuple[dict[str, float], dict[str, float]]:
    """Relative cost error of each dtype's last latents [B, S, E] for the first and last `few` candidates, and what is allowed.

    context [B, 1, E], actions [B, S, T, A]. A candidate's latents do not depend on the others (tests/test_rollout.py), so these
    stand for all. Autocast's error is that of 16 candidates at least: one may be lucky.
    """
    S = actions.shape[1]
    chosen = sorted({*range(min(few, S)), *range(max(0, S - few), S)})
    random = torch.Generator().manual_seed(2)
    goal = torch.randn(context.shape[-1], generator=random)
    more = torch.randn(len(actions), max(16 - len(chosen), 0), *actions.shape[2:], generator=random)

    @torch.inference_mode()
    def costs(actions: Tensor, *, autocast: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            past = context.new_empty(len(context), 0, actions.shape[-1])
            latents = reference_rollout(spec, context, actions, past)[:, :, -1].float()
        return (latents - goal).square().sum(-1)

    problem = torch.cat([actions[:, chosen], more], dim=1)
    exact = costs(problem, autocast=False)
    errors = {
        dtype: relative_error((latents[:, chosen] - goal).square().sum(-1), exact[:, : len(chosen)])
        for dtype, latents in found.items()
    }
    return errors, tolerances(relative_error(costs(problem, autocast=True), exact))
