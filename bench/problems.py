"""What the rollout benchmark measures: models, and the sizes at which each is planned with.

Letters: B environments, S candidates, T horizon in action blocks, K context frames, E embedding, A numbers in one action block.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench import models, tdmpc2
from fastwm.engine.importers import import_model
from fastwm.engine.spec import PredictorSpec
from fastwm.models import WorldModel


@dataclasses.dataclass(frozen=True)
class Setting:
    """One problem's sizes. reduce: which distance to the goal is the cost, the last block's or the smallest."""

    model: str
    B: int = 1
    S: int = 300
    T: int = 5
    K: int = 1
    elites: int = 30
    reduce: Literal["last", "min"] = "last"

    @property
    def sizes(self) -> dict:
        return {"model": self.model, "B": self.B, "S": self.S, "T": self.T, "K": self.K}


LEWM = Setting("lewm")
# Measured on every way.
MAIN = (
    LEWM,
    dataclasses.replace(LEWM, K=3),
    Setting("small"),
    # As the demo plans: fastwm/demo/settings.py, Search.
    Setting("demo-push", S=64, T=12, elites=6, reduce="min"),
    Setting("demo-two-room", S=64, T=12, elites=6, reduce="min"),
    Setting("tdmpc2-5m", S=512, T=3, elites=64),
)
# Measured on fastwm alone. With many environments there are few candidates each: 50 of 300 are 15,000 rollouts.
SWEEP = (
    *(dataclasses.replace(LEWM, T=T) for T in (1, 10)),
    *(dataclasses.replace(LEWM, S=S, elites=max(4, S // 10)) for S in (32, 1024, 4096)),
    dataclasses.replace(LEWM, B=8, S=128, elites=13),
    dataclasses.replace(LEWM, B=50, S=32, elites=4),
    dataclasses.replace(LEWM, K=3, T=10),
)
QUICK = (LEWM, Setting("small"), Setting("tdmpc2-5m", S=512, T=3, elites=64))


@dataclasses.dataclass
class Problem:
    """context [B, K, E], past [B, K-1, A], goal [B, E], candidates for the parity check [B, S, T, A], their distribution."""

    context: Tensor
    past: Tensor
    goal: Tensor
    actions: Tensor
    mean: Tensor  # [B, T, A]
    std: Tensor  # [B, T, A]
    setting: Setting


@functools.cache
def module(model: str) -> nn.Module:
    """The model in PyTorch, random weights: `window`, `depth`, `embed_actions`, `step` (fastwm/models, bench/tdmpc2.py)."""
    if model == "tdmpc2-5m":
        return tdmpc2.Dynamics()
    made = {
        "lewm": models.lewm_model,
        "small": models.small_model,
        "tiny": models.tiny_model,
        "demo-push": functools.partial(models.demo_model, "small"),
        "demo-two-room": functools.partial(models.demo_model, "mlp"),
    }[model]()
    return Predictor(made)


@functools.cache
def spec(model: str) -> PredictorSpec:
    """The same model as data."""
    made = module(model)
    return tdmpc2.spec(made) if isinstance(made, tdmpc2.Dynamics) else import_model(made.model).spec


class Predictor(nn.Module):
    """A WorldModel's predictor behind the interface that the peers run."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model
        # An MLP reads the last latent alone: a longer window would only be work thrown away.
        self.window = 1 if model.config.predictor == "mlp" else model.config.window
        self.embed_dim, self.action_dim = model.config.embed_dim, model.config.action_dim
        self.depth = 1 if model.config.predictor == "mlp" else model.config.depth
        self.eval()

    def embed_actions(self, actions: Tensor) -> Tensor:
        """[..., A] -> [..., E]"""
        return self.model.embed_actions(actions)

    def step(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """latents [N, n, E], conditions [N, n, E] -> the latent after the last [N, E]"""
        return self.model._predict(latents, conditions)[:, -1]


def make_problem(predictor: Any, setting: Setting = LEWM, *, draw: int = 0) -> Problem:
    """Contexts, goals and actions are standard normal, as SIGReg and normalisation make them; TD-MPC2's latents are SimNorm's.

    predictor: a spec or a module, for its embed_dim and action_dim. draw: which of many.
    """
    random = torch.Generator().manual_seed(1 + draw)
    B, S, T, K = setting.B, setting.S, setting.T, setting.K
    E, A = predictor.embed_dim, predictor.action_dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    latent = tdmpc2.SimNorm() if setting.model == "tdmpc2-5m" else nn.Identity()
    return Problem(
        context=latent(normal(B, K, E)),
        past=normal(B, K - 1, A),
        goal=latent(normal(B, E)),
        actions=normal(B, S, T, A),
        mean=torch.zeros(B, T, A),
        std=torch.ones(B, T, A),
        setting=setting,
    )
