"""stable-worldmodel's `ICEMSolver`, on the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from fastwm.integrations.stable_worldmodel import searches
from fastwm.integrations.stable_worldmodel.gaussian import GaussianSolver
from fastwm.planning.search import Found, Iteration


class ICEMSolver(GaussianSolver):
    """The improved cross-entropy method: see `Solver`, and `fastwm.ICEM`.

    As theirs, it clips candidates to the bounds of the action space, whatever space the model's actions are in, and keeps
    the number of candidates. Unlike theirs, a horizon of one block works: its noise is white.
    """

    def __init__(
        self,
        cost: Any = None,
        batch_size: int = 1,
        num_samples: int = 300,
        var_scale: float = 1,
        n_steps: int = 30,
        topk: int = 30,
        noise_beta: float = 2.0,
        alpha: float = 0.1,
        n_elite_keep: int = 5,
        return_mean: bool = True,
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
        self.var_scale, self.noise_beta, self.alpha = var_scale, noise_beta, alpha
        self.n_elite_keep, self.return_mean = n_elite_keep, return_mean

    def _configure(self, action_space: Space) -> None:
        super()._configure(action_space)
        self._action_low = self._action_high = None
        if isinstance(action_space, Box):
            self._action_low, self._action_high = (
                torch.as_tensor(np.ravel(bound[0]), device=self.device, dtype=self.dtype).repeat(
                    self._config.action_block
                )
                for bound in (action_space.low, action_space.high)
            )

    def _method(self) -> searches.ICEM:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha!r}, expected 0 <= alpha < 1")
        elites = self._elites()
        keep = min(self.n_elite_keep, elites)
        if not 0 <= keep < self.num_samples:
            raise ValueError(
                f"n_elite_keep is {self.n_elite_keep}, expected 0 or more, and less than num_samples = {self.num_samples}"
            )
        low, high = (None if b is None else tuple(b.tolist()) for b in (self._action_low, self._action_high))
        return searches.ICEM(
            self.num_samples,
            elites,
            self.n_steps,
            momentum=self.alpha,
            keep=keep,
            decay=1.0,
            noise_exponent=0.0,
            low=low,
            high=high,
        )

    def _draw(self, environments: int) -> Tensor:
        """Noise of power f^-noise_beta over the horizon, each number's scaled to unit deviation over its own plan."""
        T = self.horizon
        white = self._normal(environments, self.num_samples, self.action_dim, T)
        if T > 1:
            frequency = torch.fft.rfftfreq(T, device=white.device)
            frequency[0] = frequency[1]
            white = white.to(torch.promote_types(white.dtype, torch.float32))
            scale = frequency.to(white.dtype).pow(-self.noise_beta / 2)
            white = torch.fft.irfft(torch.fft.rfft(white, dim=-1) * scale, n=T, dim=-1)
            white = white / white.std(dim=-1, keepdim=True).clamp(min=1e-8)
        return white.transpose(-1, -2)

    def _state(self, iteration: Iteration) -> dict[str, Tensor | None]:
        return super()._state(iteration) | {"action_low": self._action_low, "action_high": self._action_high}

    def _outputs(self, found: list[Found], last: list[Iteration], dtype: torch.dtype) -> dict:
        outputs = super()._outputs(found, last, dtype)
        if not self.return_mean:  # the best candidate of the last step; main gives its own cost, too
            best = [i.actions[torch.arange(len(i.actions)), i.state.elites[:, 0]] for i in last]
            outputs["actions"] = torch.cat(best).to(dtype)
            outputs["mean"] = [outputs["actions"]]
            if not self.release:
                costs = [i.cost.gather(1, i.state.elites[:, :1])[:, 0] for i in last]
                outputs["costs"] = torch.cat(costs).tolist()
        return outputs
