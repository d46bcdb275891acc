"""The half of a LatentWAM that predicts: an encoder, the state stream, and what is read from latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastwm.models.encoder import PatchConvEncoder
from fastwm.models.heads import Projector
from fastwm.models.pixel_model import PixelModel
from fastwm.models.wam import heads
from fastwm.models.wam.config import LatentWAMConfig
from fastwm.models.wam.trunk import Memory, Stream, banded, join, latest, share


class LatentWorld(PixelModel):
    """The state stream of a LatentWAM (model.py says how its tokens see each other). Nothing here knows of a goal.

    Letters: B environments, S candidates, T horizon in action blocks, K context frames, E embedding, A numbers in one action
    block, W width. Actions of public methods are in environment units.
    """

    config: LatentWAMConfig
    reward_mean: Tensor  # [] of the training blocks, where there is a reward head, as is the next
    reward_std: Tensor  # []

    def __init__(self, config: LatentWAMConfig) -> None:
        super().__init__()
        self.config = config
        E, W, A = config.embed_dim, config.width, config.action_dim
        self.encoder = PatchConvEncoder(config.image_size, config.encoder_width, out_dim=E)
        self.projector = Projector(self.encoder.out_dim, config.projector_dim, E)
        self.state_input = nn.Linear(E, W)
        self.state_stream = Stream(W, config.depth, config.heads, config.head_dim, config.mlp_dim)
        self.action_encoder = nn.Sequential(
            nn.Linear(A, config.action_hidden), nn.SiLU(), nn.Linear(config.action_hidden, W)
        )
        self.no_action = nn.Parameter(0.02 * torch.randn(W))
        self.latent_head = heads.LatentHead(W, config.projector_dim, E)
        self.distance_head = heads.DistanceHead(E, 2 * W, config.reach)
        if config.reward_head:
            self.reward_head = heads.OutcomeHead(E, A, 2 * W)
            self.register_buffer("reward_mean", torch.zeros(()))
            self.register_buffer("reward_std", torch.ones(()))
        if config.termination_head:
            self.termination_head = heads.OutcomeHead(E, A, 2 * W)
        self.register_buffer("action_mean", torch.zeros(A))
        self.register_buffer("action_std", torch.ones(A))

    def denormalise(self, actions: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return actions * self.action_std + self.action_mean

    def watch(self, latents: Tensor) -> tuple[Tensor, Memory]:
        """Frames [B, F, E] -> the next latent after each, whatever is done [B, F, E] (video mode), and their memory."""
        self._check_latents("latents", latents, None)
        count = latents.shape[1]
        mask = banded(count, self.config.history, latents.device)
        tokens, memory = self.state_stream(
            self.state_input(latents), self.no_action[None, None], _times(latents, count), mask=mask
        )
        return self.latent_head(latents, tokens), memory

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Forward mode: latents [B, T, E], actions [B, T, A] -> latents one block later [B, T, E], causal."""
        self._check_latents("latents", latents, None)
        if actions.shape != (*latents.shape[:2], self.config.action_dim):
            expected = [*latents.shape[:2], self.config.action_dim]
            raise ValueError(f"actions has shape {list(actions.shape)}; expected {expected} to match latents")
        return self._move(latents, actions, None, 0)[0]

    def rollout(self, context: Tensor, actions: Tensor, past_actions: Tensor | None = None) -> Tensor:
        """Latents after each action block of every candidate [B, S, T, E]; the context's memory is made once for all of them.

        context [B, K, E], actions [B, S, T, A] in environment units, past_actions [B, K-1, A] between the context frames.
        """
        self._check_latents("context", context, self.config.window)
        B, K, E = context.shape
        self.check_type("actions", actions)
        if (
            actions.ndim != 4
            or (len(actions), actions.shape[3]) != (B, self.config.action_dim)
            or 0 in actions.shape
        ):
            expected = f"[{B}, S >= 1, T >= 1, {self.config.action_dim}]"
            raise ValueError(f"actions has shape {list(actions.shape)}; expected {expected}")
        S, T = actions.shape[1:3]
        memory: Memory | None = None
        if K > 1:
            if past_actions is None or past_actions.shape != (B, K - 1, self.config.action_dim):
                came = None if past_actions is None else list(past_actions.shape)
                raise ValueError(f"past_actions is {came}; expected [{B}, {K - 1}, {self.config.action_dim}]")
            memory = share(self._move(context[:, :-1], past_actions, None, 0)[1], S)
        last = context[:, -1:].repeat_interleave(S, dim=0)
        each = []
        for t in range(T):
            block = actions[:, :, t].reshape(B * S, 1, -1)
            memory = None if memory is None else latest(memory, self.config.window - 1)
            last, own = self._move(last, block, memory, K - 1 + t)
            if self.config.window > 1:
                memory = own if memory is None else join(memory, own)
            each.append(last)
        return torch.cat(each, dim=1).view(B, S, T, E)

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Action blocks from latents [..., E] to a goal [..., E], as the data's best went: [...]"""
        self._check_ends("latents", latents, self.config.embed_dim)
        self._check_ends("goal", goal, self.config.embed_dim)
        if goal.shape != latents.shape:
            raise ValueError(
                f"goal has shape {list(goal.shape)}; expected {list(latents.shape)}, as latents have"
            )
        return self.distance_head(latents, goal)

    def reward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """What blocks `actions` [..., A] earn that lead to latents [..., E]: [...] in the data's units; for `fastwm.Reward`."""
        self._check_head("reward_head", latents, actions)
        return self.reward_head(latents, self.normalise(actions)) * self.reward_std + self.reward_mean

    def survival(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The probability that an episode goes on after blocks `actions` [..., A] that lead to latents [..., E]: [...]."""
        self._check_head("termination_head", latents, actions)
        return torch.sigmoid(-self.termination_head(latents, self.normalise(actions)))

    def _move(
        self, latents: Tensor, actions: Tensor, memory: Memory | None, first: int
    ) -> tuple[Tensor, Memory]:
        """Slots [N, T, E] from time `first` on, with the memory of at most window - 1 slots before them."""
        count = latents.shape[1]
        condition = self.action_encoder(self.normalise(actions))
        mask = banded(count, self.config.window, latents.device) if count > 1 else None
        tokens, own = self.state_stream(
            self.state_input(latents), condition, _times(latents, count, first), mask=mask, memory=memory
        )
        return self.latent_head(latents, tokens), own

    def _check_head(self, name: str, latents: Tensor, actions: Tensor) -> None:
        if not getattr(self.config, name):
            raise ValueError(f"{name} is False; expected a model that was trained with one")
        self._check_ends("latents", latents, self.config.embed_dim)
        self._check_ends("actions", actions, self.config.action_dim)
        if actions.shape[:-1] != latents.shape[:-1]:
            expected = [*latents.shape[:-1], self.config.action_dim]
            raise ValueError(f"actions has shape {list(actions.shape)}; expected {expected} to match latents")

    def _check_ends(self, name: str, value: Tensor, size: int) -> None:
        self.check_type(name, value)
        if value.shape[-1:] != (size,):
            raise ValueError(f"{name} has shape {list(value.shape)}; expected [..., {size}]")

    def _check_latents(self, name: str, latents: Tensor, most: int | None) -> None:
        self.check_type(name, latents)
        E = self.config.embed_dim
        if latents.ndim != 3 or latents.shape[2] != E or not 1 <= latents.shape[1] <= (most or 10**9):
            frames = "frames" if most is None else f"1..{most} frames"
            raise ValueError(f"{name} has shape {list(latents.shape)}; expected [B, {frames}, {E}]")


def _times(like: Tensor, count: int, first: int = 0) -> Tensor:
    return first + torch.arange(count, device=like.device)
