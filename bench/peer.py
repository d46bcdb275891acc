"""stable-worldmodel's own LeWM at its published size, with random weights. Importing this needs the `peers` extra."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from stable_worldmodel.wm.lewm import LeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
from torch import Tensor, nn

if TYPE_CHECKING:
    from .bench_rollout import Problem


@functools.cache
def lewm(E: int, A: int) -> nn.Module:
    torch.manual_seed(0)

    def head() -> nn.Module:
        return MLP(input_dim=E, hidden_dim=2048, output_dim=E, norm_fn=nn.BatchNorm1d)

    predictor = Predictor(
        num_frames=3, depth=6, heads=16, mlp_dim=2048, input_dim=E, hidden_dim=E, dim_head=64
    )
    model = LeWM(nn.Identity(), predictor, Embedder(input_dim=A, emb_dim=E), head(), head())
    return model.eval().requires_grad_(False)


def lewm_costs(problem: Problem, actions: Tensor) -> Tensor:
    """Costs [1, S] of actions [1, S, T, A] after a past that all candidates share, by its own `get_cost`."""
    S, (_, K, E) = actions.shape[1], problem.context.shape
    info = {
        "emb": problem.context[:, None].expand(1, S, K, E),
        "goal_emb": problem.goal[:, None],
        "goal": problem.goal,
        "pixels": actions.new_empty(1, S, K),
    }
    past = problem.past[:, None].expand(1, S, -1, -1)
    return lewm(E, actions.shape[-1]).get_cost(info, torch.cat([past, actions], dim=2))
