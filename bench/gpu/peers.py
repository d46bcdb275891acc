"""The search as one would write it in PyTorch, on the device: eager, compiled, and captured as one CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.gpu.place import Place, Size

Rollout = Callable[
    [Tensor, Tensor], Tensor
]  # context [B, K, E], actions [B, S, T, A] -> the last latents [B, S, E]


class Model(nn.Module):
    """A model's plain sliding window in one dtype; candidates are rows. module: of `bench.problems`."""

    def __init__(self, module: Any, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.module, self.dtype = copy.deepcopy(module).to(device, dtype), dtype

    def forward(self, context: Tensor, actions: Tensor) -> Tensor:
        """context [B, K, E], actions [B, S, T, A], K = 1 -> latents after the last block, float32 [B, S, E]"""
        (B, S, T, _), window = actions.shape, self.module.window
        conditions = self.module.embed_actions(actions.flatten(0, 1).to(self.dtype))
        latents = [context[:, -1].repeat_interleave(S, 0).to(self.dtype)]
        for last in range(1, T + 1):
            first = max(0, last - window)
            latents.append(self.module.step(torch.stack(latents[first:], 1), conditions[:, first:last]))
        last_latents = latents[-1].unflatten(0, (B, S))
        return last_latents if self.dtype == torch.float64 else last_latents.float()


def compiled(function: Callable[..., Any], place: Place) -> Callable[..., Any]:
    """torch.compile; in a rehearsal traced and run as it is, since inductor takes minutes."""
    return torch.compile(function, dynamic=False, backend="aot_eager" if place.rehearsal else "inductor")


def cost(latents: Tensor, goal: Tensor) -> Tensor:
    """latents [B, S, E], goal [B, E] -> squared distance [B, S]"""
    return (latents - goal[:, None]).square().sum(-1)


def draw(mean: Tensor, std: Tensor, samples: int, noise: Tensor | None = None) -> Tensor:
    """mean, std [B, T, A] -> candidates [B, S, T, A], the first of them the mean. noise: draws to use, [B, S, T, A]"""
    if noise is None:
        noise = torch.randn(len(mean), samples, *mean.shape[1:], device=mean.device)
    actions = mean[:, None] + std[:, None] * noise
    return torch.cat([mean[:, None], actions[:, 1:]], dim=1)


def refit(actions: Tensor, costs: Tensor, elites: int) -> tuple[Tensor, Tensor]:
    """actions [B, S, T, A], costs [B, S] -> the elites' mean and standard deviation [B, T, A]"""
    found = costs.topk(elites, largest=False).indices
    best = actions.gather(1, found[:, :, None, None].expand(-1, -1, *actions.shape[2:]))
    return best.mean(1), best.std(1)


class Search:
    """The whole search: from a mean of zeros and a std of ones to the last mean [B, T, A]."""

    def __init__(self, rollout: Rollout, size: Size, context: Tensor, goal: Tensor, action_dim: int) -> None:
        self.rollout, self.size, self.context, self.goal = rollout, size, context, goal
        self.mean = torch.zeros(size.B, size.T, action_dim, device=context.device)

    def __call__(self, noise: Tensor | None = None) -> Tensor:
        """noise [iterations, B, S, T, A]: draws to use."""
        mean, std = self.mean, torch.ones_like(self.mean)
        for i in range(self.size.iterations):
            actions = draw(mean, std, self.size.S, None if noise is None else noise[i])
            costs = cost(self.rollout(self.context, actions), self.goal)
            mean, std = refit(actions, costs, self.size.elites)
        return mean


class Graphed:
    """Work captured once and replayed; what it is given is copied to where the graph reads it."""

    def __init__(self, work: Callable[..., Tensor], place: Place, *given: Tensor) -> None:
        from fastwm.engine.cuda.graph import capture

        self._given = tuple(tensor.clone() for tensor in given)
        self._graph, self._result = capture(lambda: work(*self._given), place.device)

    def __call__(self, *given: Tensor) -> Tensor:
        for own, new in zip(self._given, given, strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._result


def rollouts(module: Any, place: Place, context: Tensor, actions: Tensor) -> dict[tuple[str, str], Rollout]:
    """Ways to roll these shapes out, by (engine, dtype)."""
    found: dict[tuple[str, str], Rollout] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        for engine, step in steps(Model(module, dtype, place.device), place).items():
            found[engine, name] = step
            found[graphed(engine), name] = Graphed(step, place, context, actions)
    return found


def steps(model: Model, place: Place) -> dict[str, Callable[..., Any]]:
    """The model as it is, and compiled unless that is left out."""
    eager: dict[str, Callable[..., Any]] = {"torch eager": model}
    return eager | ({"torch.compile": compiled(model, place)} if place.compiled else {})


def graphed(engine: str) -> str:
    """The name of the same as a CUDA graph."""
    return f"{engine.removesuffix(' eager')}, CUDA graph"
