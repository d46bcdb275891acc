"""LatentWAM: one network that predicts the world and acts in it, all in the latents of a pixel encoder.

Tokens, after LeWAM (arXiv:2610.12818) with the modes of UWM (arXiv:2504.02792):

    frames z_t        state stream, no action            see earlier frames
    state slots       state stream, moved by clean a_t   see earlier slots (`window` of them)
    goal              action stream                      sees itself
    action slots      action stream, at flow time        see frames up to now, the goal, earlier slots

    policy   p(a|z,g)   action slots                  forward  p(z'|z,a)   state slots
    inverse  p(a|z,z')  action slots, later frames    video    p(z'|z)     frames, which are slots without an action
    joint    p(z',a|z)  policy without a goal, then forward with what it said

LeWAM gives clean actions tokens of their own; here they modulate the slot that they move (AdaLN-zero), so that the forward
mode is LeWM's predictor (arXiv:2603.19312), which every engine of fastwm runs. The policy sees no slot that knows an action.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastwm.models import storage
from fastwm.models.wam import heads
from fastwm.models.wam.config import LatentWAMConfig
from fastwm.models.wam.trunk import Memory, Stream, banded, join, share
from fastwm.models.wam.world import LatentWorld

FORMAT = "fastwm.latent_wam"


class LatentWAM(LatentWorld):
    """A world model and a policy with one set of weights. Public methods take and give actions in environment units.

    Letters: B environments, n proposals, S candidates, T horizon in action blocks, K context frames, E embedding, A numbers in
    one action block, W width.
    """

    def __init__(self, config: LatentWAMConfig) -> None:
        super().__init__(config)
        self.metadata: dict[str, str] = {}
        E, W, A = config.embed_dim, config.width, config.action_dim
        self.action_stream = Stream(W, config.depth, config.heads, config.head_dim, config.mlp_dim)
        self.goal_input = nn.Linear(E, W)
        self.no_goal = nn.Parameter(0.02 * torch.randn(W))
        self.goal_condition = nn.Parameter(0.02 * torch.randn(W))
        self.slot = nn.Parameter(0.02 * torch.randn(W))
        if config.action_head == "flow":
            self.noisy_input = nn.Linear(A, W)
            self.time = heads.TimeEmbedding(W)
            self.velocity = nn.Linear(W, A)
        else:
            self.slot_condition = nn.Parameter(0.02 * torch.randn(W))
            self.mixture = heads.MixtureHead(W, A, config.components)

    @torch.no_grad()
    def policy(
        self,
        context: Tensor,
        goal: Tensor | None,
        n: int = 1,
        generator: torch.Generator | None = None,
        *,
        horizon: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """n chunks of actions from each context, [B, n, T, A] in environment units, T = horizon or the model's chunk.

        context [B, K, E], of which the last `history` frames count; goal [B, E], or None: whatever is usually done.
        temperature: scales the noise that actions are made of; 0 is one and the same answer, the reactive policy.
        The memory of frames and goal is made once for all proposals and all steps of the flow.
        """
        horizon = self.config.chunk if horizon is None else horizon
        self._check_request(context, goal, horizon)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n is {n!r}; expected an integer of at least 1")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature!r}; expected a finite number of at least 0")
        frames = context[:, -self.config.history :]
        memory = self.watch(frames)[1]
        return self._act(memory, frames.shape[1], goal, horizon, n, generator, None, temperature)

    @torch.no_grad()
    def inverse(self, latents: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The actions that led through frames [B, F, E], from the first frame on: [B, F-1, A] in environment units."""
        self._check_latents("latents", latents, self.config.chunk + 1)
        _check_finite(latents=latents)
        B, count = latents.shape[:2]
        if count < 2:
            raise ValueError(f"latents has shape {list(latents.shape)}; expected at least two frames")
        mask = self.action_mask(
            B, count, count - 1, 1, torch.ones(B, dtype=torch.bool, device=latents.device)
        )
        memory = self.watch(latents)[1]
        return self._act(memory, 1, None, count - 1, 1, generator, mask)[:, 0]

    def joint(
        self, context: Tensor, n: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """What may be done and where it leads: actions [B, n, T, A] in environment units, latents [B, n, T, E]."""
        actions = self.policy(context, None, n, generator)
        return actions, self.rollout(context[:, -1:], actions)

    def log_prob(self, context: Tensor, goal: Tensor | None, actions: Tensor) -> Tensor:
        """Exact log-density of chunks [B, T, A] in environment units: [B]. ValueError for a flow head, which has none."""
        if self.config.action_head != "mixture":
            raise ValueError(
                f"action_head is {self.config.action_head!r}; expected 'mixture', whose density is known"
            )
        self._check_latents("context", context, None)
        self.check_type("actions", actions)
        batch, A = len(context), self.config.action_dim
        if actions.ndim != 3 or len(actions) != batch or actions.shape[2] != A:
            raise ValueError(f"actions has shape {list(actions.shape)}; expected [{batch}, T, {A}]")
        _check_finite(actions=actions)
        return heads.mixture_log_prob(self.density(context, goal, horizon=actions.shape[1]), actions)

    def density(
        self,
        context: Tensor,
        goal: Tensor | None,
        *,
        horizon: int | None = None,
        samples: int = 64,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The policy as a mixture of M Gaussians over chunks: log weights [B, M], means and log standard deviations
        [B, M, T, A], environment units.

        Of a flow head, whose density is not known, one Gaussian with the moments of `samples` draws by `generator`, their
        standard deviation a hundredth of the training actions' at least.
        """
        horizon = self.config.chunk if horizon is None else horizon
        self._check_request(context, goal, horizon)
        if self.config.action_head == "flow":
            drawn = self.policy(context, goal, samples, generator, horizon=horizon)
            std = torch.maximum(drawn.std(dim=1, keepdim=True), 0.01 * self.action_std)
            return drawn.new_zeros(len(drawn), 1), drawn.mean(dim=1, keepdim=True), std.log()
        frames = context[:, -self.config.history :]
        now = frames.shape[1] - 1
        memory = join(self.watch(frames)[1], self.goal_memory(goal, len(context), now))
        weights, mean, spread = self.mixture(self.action_tokens(memory, now, horizon, None, None, None))
        return weights, self.denormalise(mean), spread + self.action_std.log()

    def goal_memory(self, goal: Tensor | None, batch: int, now: int, dropped: Tensor | None = None) -> Memory:
        """What action slots may see of the goal [B, E]; None, or `dropped` bool [B]: that there is none."""
        token = self.no_goal.expand(batch, -1)
        if goal is not None:
            known = self.goal_input(goal).to(token.dtype)
            token = known if dropped is None else torch.where(dropped[:, None], token, known)
        times = torch.full((1,), now, device=token.device)
        return self.action_stream(token[:, None], self.goal_condition[None, None], times)[1]

    def action_tokens(
        self,
        memory: Memory,
        now: int,
        count: int,
        noisy: Tensor | None,
        time: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Action slots [B, count, W] from block `now` on. noisy [B, count, A] at flow time [B]: of a flow head alone."""
        batch = memory[0][0].shape[0]
        if noisy is not None and time is not None:
            x, condition = self.noisy_input(noisy) + self.slot, self.time(time)
        else:
            x, condition = self.slot.expand(batch, count, -1), self.slot_condition[None, None]
        if mask is None:
            own = banded(count, count, x.device)
            mask = torch.cat([own.new_ones(count, memory[0][0].shape[2]), own], dim=1)
        times = now + torch.arange(count, device=x.device)
        return self.action_stream(x, condition, times, mask=mask, memory=memory)[0]

    def action_mask(self, batch: int, frames: int, slots: int, history: int, inverse: Tensor) -> Tensor:
        """Who action slots see, bool [B, 1, slots, frames + 1 + slots]: frames, goal, slots.

        The policy sees `history` frames. Where `inverse` bool [B], slot i also sees the frame that its block led to.
        """
        device = inverse.device
        frame, slot = torch.arange(frames, device=device), torch.arange(slots, device=device)[:, None]
        until = torch.where(inverse[:, None, None], history + slot, history - 1)  # [B, slots, 1]
        sees = (frame <= until).expand(batch, slots, frames)
        own = banded(slots, slots, device).expand(batch, -1, -1)
        return torch.cat([sees, own.new_ones(batch, slots, 1), own], dim=2)[:, None]

    def _act(
        self,
        memory: Memory,
        history: int,
        goal: Tensor | None,
        count: int,
        n: int,
        generator: torch.Generator | None,
        mask: Tensor | None,
        temperature: float = 1.0,
    ) -> Tensor:
        batch = memory[0][0].shape[0]
        memory = join(memory, self.goal_memory(goal, batch, history - 1))
        if self.config.action_head == "mixture":
            tokens = self.action_tokens(memory, history - 1, count, None, None, mask)
            return self.denormalise(heads.mixture_sample(self.mixture(tokens), n, generator, temperature))
        memory = share(memory, n)
        mask = None if mask is None else mask.repeat_interleave(n, dim=0)
        noise = torch.randn(batch * n, count, self.config.action_dim, generator=generator)
        x = temperature * noise.to(self.action_mean)
        steps = self.config.flow_steps
        for step in range(steps):
            time = x.new_full((1,), step / steps)
            x = x + self.velocity(self.action_tokens(memory, history - 1, count, x, time, mask)) / steps
        return self.denormalise(x).view(batch, n, count, -1)

    # ---- disk ----

    def save(self, directory: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, each atomically."""
        kept = self.metadata if metadata is None else metadata
        storage.save(directory, self.config, self.state_dict(), kept, form=FORMAT)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> LatentWAM:
        """The model saved in `directory`, in evaluation mode. ValueError where it is damaged or another."""
        config, tensors, metadata = storage.load(directory, LatentWAMConfig.from_dict, form=FORMAT)
        with torch.device("meta"):
            model = cls(config)
        storage.check_tensors(directory, expected=model.state_dict(), found=tensors)
        model.load_state_dict(tensors, assign=True)
        model.metadata = metadata
        return model.eval()

    def _check_request(self, context: Tensor, goal: Tensor | None, horizon: int) -> None:
        self._check_latents("context", context, None)
        if not 1 <= horizon <= self.config.chunk:
            raise ValueError(f"horizon is {horizon}; expected 1 to {self.config.chunk}, the model's chunk")
        if goal is not None:
            self.check_type("goal", goal)
            if goal.shape != (len(context), self.config.embed_dim):
                expected = [len(context), self.config.embed_dim]
                raise ValueError(f"goal has shape {list(goal.shape)}; expected {expected}")
        _check_finite(context=context, goal=goal)


def _check_finite(**values: Tensor | None) -> None:
    for name, value in values.items():
        if value is not None and not torch.isfinite(value).all():
            raise ValueError(f"{name} holds numbers that are not finite")
