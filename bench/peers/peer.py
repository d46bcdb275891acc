"""What a peer is, and the model as every peer runs it: the plain sliding window, candidates as rows."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.problems import Problem

Costs = Callable[[Problem, Tensor], Tensor]  # a problem, candidates [B, S, T, A] -> costs [B, S]


@dataclasses.dataclass(frozen=True)
class Peer:
    """make(module, problem, threads): a function ready to run for problems of this one's sizes.

    needs: packages that must be importable. models: names it can run, None for all. quick: whether it is ready in seconds.
    """

    engine: str
    dtype: str
    make: Callable[[Any, Problem, int], Costs]
    needs: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    quick: bool = True

    @property
    def name(self) -> str:
        return f"{self.engine} {self.dtype}"

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


class RowCosts(nn.Module):
    """The sliding-window rollout and the squared distance to the goal, as a graph of fixed sizes.

    context [N, K, E], actions [N, K-1+T, A], goal [1, E] -> costs [N].
    """

    def __init__(self, model: Any, reduce: str) -> None:
        super().__init__()
        self.model, self.reduce = model, reduce

    def forward(self, context: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        latents, frames, window = list(context.unbind(1)), context.shape[1], self.model.window
        conditions = self.model.embed_actions(actions)
        for last in range(frames, actions.shape[1] + 1):
            first = max(0, last - window)
            # A stack of one tensor is unsqueeze: OpenVINO 2026.4 corrupts its heap over the former.
            seen = torch.stack(latents[first:], dim=1) if last - first > 1 else latents[first][:, None]
            latents.append(self.model.step(seen, conditions[:, first:last]))
        if self.reduce == "last":
            return (latents[-1] - goal).square().sum(-1)
        return (torch.stack(latents[frames:], dim=1) - goal[:, None]).square().sum(-1).amin(-1)


def rows(problem: Problem, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RowCosts' arguments for one environment's candidates [1, S, T, A]."""
    if len(actions) != 1:
        raise ValueError(f"actions has {len(actions)} environments, expected 1")
    S = actions.shape[1]
    past = problem.past[0].expand(S, -1, -1)
    context = problem.context[0].expand(S, -1, -1).contiguous()
    return context, torch.cat([past, actions[0]], dim=1), problem.goal
