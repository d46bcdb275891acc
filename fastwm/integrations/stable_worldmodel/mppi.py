"""stable-worldmodel's `MPPISolver`, on the engine."""

from __future__ import annotations

from typing import Any

import torch

from fastwm.integrations.stable_worldmodel import searches
from fastwm.integrations.stable_worldmodel.gaussian import GaussianSolver


class MPPISolver(GaussianSolver):
    """Model predictive path integral control over the elites: see `Solver`, and `fastwm.MPPI`. "var" stays as it was.

    topk: None, or one that is not less than num_samples, for all candidates. It has no callbacks, as theirs has none.
    """

    def __init__(
        self,
        cost: Any = None,
        batch_size: int = 1,
        num_samples: int = 300,
        var_scale: float = 1.0,
        n_steps: int = 30,
        topk: int | None = 30,
        temperature: float = 0.5,
        device: str | torch.device = "cpu",
        seed: int = 1234,
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
            callbacks=None,
            backend=backend,
            dtype=dtype,
            threads=threads,
        )
        self.var_scale, self.temperature = var_scale, temperature

    def _method(self) -> searches.MPPI:
        everyone = self.topk is None or self.topk >= self.num_samples
        elites = None if everyone else self._elites()
        return searches.MPPI(self.num_samples, self.n_steps, elites=elites, temperature=self.temperature)
