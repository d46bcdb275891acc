"""What CEM, iCEM and MPPI share: a mean and a "var", which is a standard deviation, per number of the plan."""

from __future__ import annotations

import torch
from torch import Tensor

from fastwm.integrations.stable_worldmodel.solver import Solver
from fastwm.planning.sampling import best
from fastwm.planning.search import Found, Iteration


class GaussianSolver(Solver):
    """`Solver` of actions that are numbers; var_scale is the first standard deviation."""

    var_scale: float

    def init_action_distrib(self, n_envs: int, actions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """First mean [n_envs, T, A], `actions` and then zeros, and var [n_envs, T, A]."""
        shape = (n_envs, self.horizon, self.action_dim)
        var = torch.full(shape, float(self.var_scale), dtype=self.dtype)
        if actions is None:
            return torch.zeros(shape, dtype=self.dtype), var
        missing = actions.new_zeros(n_envs, max(0, self.horizon - actions.shape[1]), self.action_dim)
        return torch.cat([actions, missing], dim=1), var

    def _begin(self, info: dict, init_action: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        return self.init_action_distrib(n, self._first_blocks(info, init_action, n))

    def _first_blocks(self, info: dict, init_action: Tensor | None, n: int) -> Tensor | None:
        """`init_action`, and for the rest of the horizon what the model's actor does, where it has one."""
        T, A = self.horizon, self.action_dim
        done = 0
        if init_action is not None:
            if not isinstance(init_action, Tensor):
                raise TypeError(
                    f"init_action is {type(init_action).__name__}, expected a tensor ({n}, t, {A})"
                )
            if init_action.ndim != 3 or init_action.shape[::2] != (n, A) or init_action.shape[1] > T:
                raise ValueError(
                    f"init_action has shape {tuple(init_action.shape)}, expected ({n}, t, {A}), t <= {T}"
                )
            done = init_action.shape[1]
            init_action = init_action.to(self.device)
        if done == T:
            return init_action
        if not hasattr(self.cost, "get_action"):  # zeros, as theirs, of the default dtype
            zeros = torch.zeros(n, T - done, A, device=self.device)
            return zeros if init_action is None else torch.cat([init_action, zeros], dim=1)
        tail = self.cost.get_action(info, horizon=T - done, prefix_actions=init_action)
        if tail.shape != (n, T - done, A):
            raise ValueError(f"get_action returned shape {tuple(tail.shape)}, expected {(n, T - done, A)}")
        return tail if init_action is None else torch.cat([init_action.to(tail.device), tail], dim=1)

    def _draw(self, environments: int) -> Tensor:
        return self._normal(environments, self.num_samples, self.horizon, self.action_dim)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.torch_gen, device=self.device, dtype=self.dtype)

    def _state(self, iteration: Iteration) -> dict[str, Tensor | None]:
        after, before = iteration.state, iteration.before
        return {
            "topk_candidates": best(iteration.actions, after.elites),
            "mean": after.mean,
            "var": after.std,
            "prev_mean": before.mean,
            "prev_var": before.std,
        }

    def _outputs(self, found: list[Found], last: list[Iteration], dtype: torch.dtype) -> dict:
        mean = torch.cat([f.state.mean for f in found]).to(dtype)
        return {
            "costs": torch.cat([f.state.elite_cost for f in found]).tolist(),
            "mean": [mean],
            "var": [torch.cat([f.state.std for f in found]).to(self.dtype)],
            "actions": mean,
        }
