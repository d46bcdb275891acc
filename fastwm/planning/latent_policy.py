"""A LatentWAM as the planner's policy: proposals, warm-start tails, and what is done when there is no time to plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastwm.evaluation import Policy as ClosedLoop
from fastwm.planning.goal import Goal

if TYPE_CHECKING:
    from fastwm.models.wam import LatentWAM


class LatentPolicy:
    """Mode 1 of a LatentWAM (LeCun 2022): actions that lead towards a goal, without a search; the planner is mode 2.

    Horizons beyond the model's chunk go on from where its own forward mode says that the chunk leads. Without a goal the policy
    says what is usually done. Of several goals in order the first that is not reached counts. A planner's context holds no
    more frames than its engine's window, so that there a policy of a longer history sees fewer than it was trained on.
    keep: how many blocks of a chunk are taken before the next is asked for, None all of them.
    """

    def __init__(self, model: LatentWAM, *, keep: int | None = None) -> None:
        from fastwm.models.wam import LatentWAM

        if not isinstance(model, LatentWAM):
            raise TypeError(f"model is {type(model).__name__}, expected a LatentWAM")
        chunk = model.config.chunk
        if keep is not None and (
            isinstance(keep, bool) or not isinstance(keep, int) or not 1 <= keep <= chunk
        ):
            raise ValueError(
                f"keep is {keep!r}, expected None or an integer from 1 to {chunk}, the model's chunk"
            )
        self.model, self.keep = model.eval(), chunk if keep is None else keep

    @torch.no_grad()
    def __call__(
        self,
        context: Tensor,
        past_actions: Tensor | None,
        goal: Goal,
        *,
        count: int,
        horizon: int,
        generator: torch.Generator,
    ) -> Tensor:
        """context [B, K, E] -> proposals [B, count, horizon, A] in environment units; see `fastwm.planning.Policy`."""
        del past_actions  # the policy sees frames alone
        target = goal.next
        B = len(context)
        first = min(horizon, self.keep if horizon > self.model.config.chunk else horizon)
        actions = self.model.policy(context, target, count, generator, horizon=first)
        frames = context[:, None].expand(-1, count, -1, -1)
        while actions.shape[2] < horizon:
            done = actions.shape[2]
            led = self.model.rollout(context[:, -1:], actions)  # [B, count, done, E]
            seen = torch.cat([frames, led], dim=2).flatten(0, 1)
            wanted = None if target is None else target.repeat_interleave(count, dim=0)
            more = self.model.policy(seen, wanted, 1, generator, horizon=min(self.keep, horizon - done))
            actions = torch.cat([actions, more.view(B, count, -1, actions.shape[3])], dim=2)
        return actions


class Reactive(ClosedLoop):
    """The policy alone in a closed loop, for `fastwm.evaluation`: the first block of its one answer, and no planning.

    It sees as many of the frames of its decisions as the model's history, fewer at first.
    """

    name = "reactive"

    def __init__(self, model: LatentWAM) -> None:
        self._model = model.eval()

    @torch.no_grad()
    def begin(self, goal: NDArray[Any], seed: int, first: int = 0) -> None:
        self._goal = torch.cat([self._model.encode(part) for part in torch.as_tensor(goal).split(32)])
        self._past: list[Tensor] = []  # [n, E] each, of the last decisions

    @torch.no_grad()
    def act(self, decision: int, episodes: NDArray[np.int64], seen: NDArray[Any]) -> NDArray[np.float32]:
        which, now = torch.as_tensor(episodes), torch.zeros_like(self._goal)
        now[which] = self._model.encode(torch.as_tensor(seen))
        self._past = [*self._past, now][-self._model.config.history :]
        context = torch.stack(self._past, dim=1)[which]  # [b, K, E]
        return self._model.policy(context, self._goal[which], 1, horizon=1, temperature=0.0)[:, 0, 0].numpy()
