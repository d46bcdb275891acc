"""An engine without a model: linear dynamics whose best plan is known in closed form."""

from __future__ import annotations

import time

import torch
from torch import Tensor


def problem(batch: int, *, frames: int, A: int, E: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """What a planner is given: latents [batch, frames, E] with the blocks between them, and goals [batch, E]."""
    random = torch.Generator().manual_seed(seed)
    obs = {
        "latents": torch.randn(batch, frames, E, generator=random),
        "past_actions": torch.randn(batch, frames - 1, A, generator=random),
    }
    return obs, torch.randn(batch, E, generator=random)


class TinyEngine:
    """z' = z + a M, M [A, E]; past actions are checked and ignored. Images are encoded by their means over
    blocks of pixels.

    delay: seconds that every rollout sleeps.
    """

    def __init__(
        self, A: int, E: int, *, mean: float = 0.0, std: float = 1.0, threads: int = 1, delay: float = 0.0
    ) -> None:
        self.action_dim, self.embed_dim, self.window, self.threads = A, E, 3, threads
        self.action_mean, self.action_std = torch.full((A,), mean), torch.full((A,), std)
        self.matrix = torch.randn(A, E, generator=torch.Generator().manual_seed(A + 100 * E))
        self.delay, self.kept, self.encoded = delay, None, 0
        self.observation_dims, self.action_block = 3, 1

    def encode(self, obs) -> Tensor:
        pixels = torch.as_tensor(obs)
        if pixels.dtype != torch.uint8:
            raise TypeError(f"obs is {pixels.dtype}, expected uint8")
        pixels = pixels[None, None] if pixels.dim() == 3 else pixels[:, None] if pixels.dim() == 4 else pixels
        self.encoded += 1
        return pixels.flatten(2).float()[..., : self.embed_dim] / 255

    def rollout(
        self,
        context: Tensor,
        actions: Tensor,
        past_actions: Tensor | None = None,
        *,
        keep: str = "last",
        seconds: float | None = None,
    ) -> Tensor:
        assert context.shape[1] == 1 or past_actions.shape == (
            len(context),
            context.shape[1] - 1,
            self.action_dim,
        )
        time.sleep(self.delay)
        self.kept = keep
        latents, z = [], context[:, None, -1]
        for t in range(actions.shape[2]):
            for a in range(self.action_dim):  # elementwise: the same bits for every batch
                z = z + actions[:, :, t, a, None] * self.matrix[a]
            latents.append(z)
        return z if keep == "last" else torch.stack(latents, dim=2)

    def optimum(self, obs, goal: Tensor, T: int, penalty: float) -> tuple[Tensor, Tensor]:
        """Actions [B, T, A] that make |z_T - g|^2 + penalty |a|^2 least, and that cost [B]: ridge
        regression."""
        far = (goal - obs["latents"][:, -1]).double()  # [B, E]
        stacked = self.matrix.double().repeat(T, 1)  # [T A, E]
        gram = stacked @ stacked.T + penalty * torch.eye(len(stacked), dtype=torch.float64)
        actions = torch.linalg.solve(gram, stacked @ far.T).T  # [B, T A]
        cost = (actions @ stacked - far).square().sum(-1) + penalty * actions.square().sum(-1)
        return actions.view(len(far), T, -1).float(), cost.float()


class StateEngine(TinyEngine):
    """The same with states [E] for observations, which are their own latents."""

    def __init__(self, *sizes: int, **options: float) -> None:
        super().__init__(*sizes, **options)
        self.observation_dims = 1

    def encode(self, obs) -> Tensor:
        states = torch.as_tensor(obs, dtype=torch.float32)
        if not states.isfinite().all():
            raise ValueError("obs holds numbers that are not finite")
        self.encoded += 1
        return states[None, None] if states.dim() == 1 else states[:, None] if states.dim() == 2 else states

    def step(self, states: Tensor, blocks: Tensor) -> Tensor:
        """What the world does: states [B, E], blocks [B, A]."""
        return self.rollout(states[:, None], blocks[:, None, None])[:, 0]
