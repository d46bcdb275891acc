"""How far a plan strays from what a policy would do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastwm.models.wam.heads import mixture_log_prob
from fastwm.planning.costs.cost import Cost
from fastwm.planning.goal import Goal

if TYPE_CHECKING:
    from fastwm.models.wam import LatentWAM


@dataclasses.dataclass(frozen=True)
class TrustRegion(Cost):
    """Minus the log-probability of a plan's actions under the policy of a `LatentWAM`: `distance + 0.1 * TrustRegion(wam)`.

    Keeps a search near actions that the model was trained on, where its predictions can be trusted (behaviour-regularised
    planning; LeWAM's planners hold to their policy so, arXiv:2610.12818). The policy is asked once per plan, of the first
    frames and the goal that comes next. A mixture's density is exact; a flow's is taken to be the Gaussian with the moments
    of `proposals` draws, which is half the squared distance to their mean in their std, and a constant. Of blocks beyond the
    model's chunk nothing is said. A plan's bits are a batch's only if the policy's are.
    Raises TypeError or ValueError for an argument that does not fit.
    """

    model: LatentWAM
    proposals: int = dataclasses.field(default=64, kw_only=True)
    foreign = True

    def __post_init__(self) -> None:
        from fastwm.models.wam import LatentWAM

        if not isinstance(self.model, LatentWAM):
            raise TypeError(
                f"model is {type(self.model).__name__}, which has no policy; expected a fastwm.LatentWAM"
            )
        if isinstance(self.proposals, bool) or not isinstance(self.proposals, int) or self.proposals < 2:
            raise ValueError(f"proposals is {self.proposals!r}, expected an integer of at least 2")

    def at(self, context: Tensor, goal: Goal) -> Cost:
        """See Cost."""
        random = torch.Generator("cpu").manual_seed(0)
        return _Density(*self.model.density(context, goal.next, samples=self.proposals, generator=random))

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        raise ValueError("context of the TrustRegion is not known, expected a call of what its `at` returns")

    def fits(self, ensemble: bool) -> bool:
        """See Cost."""
        return True


class _Density(Cost):
    """-log p(actions): log weights [B, M], means and log standard deviations [B, M, chunk, A] in environment units."""

    foreign = True

    def __init__(self, weights: Tensor, mean: Tensor, spread: Tensor) -> None:
        self._mixture = weights, mean, spread

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        B, _, T, A = actions.shape
        weights, mean, spread = (x.to(actions.device) for x in self._mixture)
        if mean.shape[3] != A:
            raise ValueError(
                f"actions hold {A} numbers in a block, expected {mean.shape[3]}, as the policy's"
            )
        known = min(T, mean.shape[2])
        again = B // len(weights)  # of an ensemble, whose members come one after another
        mixture = (
            weights.repeat(again, 1)[:, None],
            mean[:, :, :known].repeat(again, 1, 1, 1)[:, None],
            spread[:, :, :known].repeat(again, 1, 1, 1)[:, None],
        )
        return -mixture_log_prob(mixture, actions[:, :, :known])

    def fits(self, ensemble: bool) -> bool:
        """See Cost."""
        return True
