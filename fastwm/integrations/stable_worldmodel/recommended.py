"""`fastwm.Planner.recommended` in the place of a solver of stable-worldmodel's: other actions, more goals, less time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from fastwm.engine.compile import compile
from fastwm.integrations.stable_worldmodel.recognise import NotOnEngine, recognise
from fastwm.planning.planner import Planner


class RecommendedSolver:
    """Satisfies stable-worldmodel's `Solver` protocol; a LeWM alone, as everything runs on the engine.

    cost or model: a LeWM (release) or a ShootingCostEvaluator of one (main), whose model counts: the cost is the distance at
    the path's closest point. Give PlanConfig a horizon of 16 blocks and a receding_horizon of 1.
    low, high: bounds of an environment step's action as the model takes it, so scaled as its training actions were: a number,
    or one for each. options: any other of `Planner.recommended`, such as samples=64.
    Raises ValueError for a cost that the engine does not know.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        cost: Any = None,
        low: float | Sequence[float] | None = None,
        high: float | Sequence[float] | None = None,
        seed: int = 1234,
        backend: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        if (cost is None) == (model is None):
            raise TypeError("give the cost as `cost` (main branch) or `model` (release), and not both")
        try:
            self._model = recognise(model if cost is None else cost).model
        except NotOnEngine as reason:
            raise ValueError(f"the engine cannot plan with this cost: {reason}") from reason
        self._compiled: dict[str, Any] = {"backend": backend, "dtype": dtype, "threads": threads}
        self._options: dict[str, Any] = {"low": low, "high": high, "seed": seed, **options}
        self._planner: Planner | None = None

    def configure(self, *, action_space: Space, n_envs: int, config: Any) -> None:
        """The environments' actions [n_envs, ...], their number, and a PlanConfig. Compiles the model as it is now."""
        if not isinstance(action_space, Box):
            raise TypeError(f"action_space is {action_space}, expected a Box")
        engine = compile(self._model, action_block=config.action_block, **self._compiled)
        self._n_envs = n_envs
        self._planner = Planner.recommended(engine, horizon=config.horizon, **self._options)

    @property
    def planner(self) -> Planner:
        """What plans. Raises RuntimeError before `configure`."""
        if self._planner is None:
            raise RuntimeError("call configure first")
        return self._planner

    @property
    def n_envs(self) -> int:
        """Environments that were configured; `solve` takes any number."""
        return self._n_envs

    @property
    def action_dim(self) -> int:
        """Numbers in an action block."""
        return self.planner.engine.action_dim

    @property
    def horizon(self) -> int:
        """Action blocks to plan."""
        return self.planner.horizon

    def __call__(self, info_dict: Mapping[str, Any], init_action: Tensor | None = None) -> dict[str, Any]:
        """The same as `solve`."""
        return self.solve(info_dict, init_action)

    def solve(self, info_dict: Mapping[str, Any], init_action: Tensor | None = None) -> dict[str, Any]:
        """{"actions" [n, horizon, action_dim], "mean", "var" (a std, as theirs), "costs" [n]}, from the last frame seen.

        info_dict: "pixels" and "goal" [n, frames, 3, height, width]. init_action [n, T', action_dim]: the first mean.
        """
        pixels, goal = (torch.as_tensor(info_dict[name])[:, -1].float() for name in ("pixels", "goal"))
        plan = self.planner.plan({"pixels": pixels}, {"pixels": goal}, warm_start=init_action)
        return {
            "actions": plan.actions,
            "mean": [plan.mean],
            "var": [plan.std],
            "costs": plan.cost.tolist(),
        }
