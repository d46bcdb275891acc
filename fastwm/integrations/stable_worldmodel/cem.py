"""stable-worldmodel's `CEMSolver`, on the engine."""

from __future__ import annotations

from typing import Any

import torch

from fastwm.integrations.stable_worldmodel import searches
from fastwm.integrations.stable_worldmodel.gaussian import GaussianSolver


class CEMSolver(GaussianSolver):
    """The cross-entropy method: see `Solver`, and `fastwm.CEM`."""

    def __init__(
        self,
        cost: Any = None,
        batch_size: int = 1,
        num_samples: int = 300,
        var_scale: float = 1,
        n_steps: int = 30,
        topk: int = 30,
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
        self.var_scale = var_scale

    def _method(self) -> searches.CEM:
        return searches.CEM(self.num_samples, self._elites(), self.n_steps)
