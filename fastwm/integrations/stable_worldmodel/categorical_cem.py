"""stable-worldmodel's `CategoricalCEMSolver`, on the engine."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from torch import Tensor

from fastwm.integrations.stable_worldmodel import searches
from fastwm.integrations.stable_worldmodel.solver import Solver
from fastwm.planning.sampling import best
from fastwm.planning.search import Found, Iteration


class CategoricalCEMSolver(Solver):
    """The cross-entropy method for discrete actions: see `Solver`. Candidates are one-hot, actions are indices.

    smoothing: added to every frequency of a refit. alpha: share of the old probabilities that stays.
    """

    def __init__(
        self,
        cost: Any = None,
        batch_size: int = 1,
        num_samples: int = 300,
        n_steps: int = 30,
        topk: int = 30,
        smoothing: float = 0.0,
        alpha: float = 0.0,
        device: str | torch.device = "cpu",
        seed: int = 1234,
        callbacks: list[Any] | None = None,
        *,
        model: Any = None,
        backend: str = "auto",
        dtype: str = "float32",
        threads: int | None = None,
    ) -> None:
        super().__init__(
            cost,
            model,
            batch_size=batch_size,
            num_samples=num_samples,
            n_steps=n_steps,
            topk=topk,
            device=device,
            seed=seed,
            callbacks=callbacks,
            backend=backend,
            dtype=dtype,
            threads=threads,
        )
        self.smoothing, self.alpha = smoothing, alpha

    def _configure(self, action_space: Space) -> None:
        if isinstance(action_space, MultiDiscrete):
            categories = {int(n) for n in action_space.nvec.flat}
            if len(categories) != 1:
                raise ValueError(f"action_space is {action_space}, expected as many categories everywhere")
            (self._base_simplex_dim,) = categories
        elif isinstance(action_space, Discrete):
            self._base_simplex_dim = int(action_space.n)
        else:
            raise TypeError(f"action_space is {action_space}, expected a Discrete or MultiDiscrete space")

    @property
    def action_dim(self) -> int:
        """Categories of an action."""
        return self._base_simplex_dim

    @property
    def action_block(self) -> int:
        """Actions in a block."""
        return int(self._config.action_block)

    @property
    def base_simplex_dim(self) -> int:
        """Categories of an action."""
        return self._base_simplex_dim

    @property
    def action_simplex_dim(self) -> int:
        """Numbers in a block of one-hot actions."""
        return self._base_simplex_dim * self.action_block

    def init_probs(self, n_envs: int) -> Tensor:
        """The same probability for each category: [n_envs, T, action_block, categories]."""
        shape = (n_envs, self.horizon, self.action_block, self._base_simplex_dim)
        return torch.full(shape, 1.0 / self._base_simplex_dim, dtype=self.dtype, device=self.device)

    def _method(self) -> searches.CategoricalCEM:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha!r}, expected 0 <= alpha < 1")
        if not 0 <= self.smoothing < float("inf"):
            raise ValueError(f"smoothing is {self.smoothing!r}, expected 0 <= smoothing")
        return searches.CategoricalCEM(
            self.num_samples,
            self._elites(),
            self.n_steps,
            momentum=self.alpha,
            categories=self._base_simplex_dim,
            smoothing=self.smoothing,
        )

    def _begin(self, info: dict, init_action: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """`init_action` is ignored, as theirs does."""
        mean = self.init_probs(n).flatten(-2)
        return mean, torch.zeros_like(mean)

    def _draw(self, environments: int) -> Tensor:
        shape = (environments, self.num_samples, self.horizon, self.action_block, self._base_simplex_dim)
        uniform = torch.rand(shape, generator=self.torch_gen, device=self.device, dtype=self.dtype)
        return uniform.flatten(-2)

    def _state(self, iteration: Iteration) -> dict[str, Tensor | None]:
        after = iteration.state
        return {
            "topk_candidates": self._split(best(iteration.actions, after.elites)),
            "probs": self._split(after.mean),
            "prev_probs": self._split(iteration.before.mean),
        }

    def _outputs(self, found: list[Found], last: list[Iteration], dtype: torch.dtype) -> dict:
        probs = self._split(torch.cat([f.state.mean for f in found])).to(dtype)
        return {
            "costs": torch.cat([f.state.elite_cost for f in found]).tolist(),
            "probs": [probs],
            "actions": probs.argmax(dim=-1),
        }

    def _split(self, blocks: Tensor) -> Tensor:
        """[..., action_block * categories] -> [..., action_block, categories]"""
        return blocks.unflatten(-1, (-1, self._base_simplex_dim))
