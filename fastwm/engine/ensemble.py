"""Several engines as one: what each of them predicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from fastwm.planning.inputs import Dynamics


class Ensemble:
    """Engines of predictors that share an encoder, and so the space of latents; for plans with a `fastwm.Risk`.

    What is not a prediction is the first engine's: `encode`, the mean and std of the training actions, threads.
    Raises TypeError or ValueError for engines that do not fit each other.
    """

    def __init__(self, engines: Sequence[Dynamics]) -> None:
        self.engines = tuple(engines)
        if not self.engines:
            raise ValueError("engines is empty, expected at least one")
        for place, engine in enumerate(self.engines):
            if not all(callable(getattr(engine, name, None)) for name in ("encode", "rollout")):
                raise TypeError(f"engines[{place}] is {type(engine).__name__}, expected a fastwm.Engine")
            for name in ("embed_dim", "action_dim", "window"):
                found, first = getattr(engine, name), getattr(self.engines[0], name)
                if found != first:
                    raise ValueError(f"engines[{place}] has {name} {found}, expected {first} as engines[0]")
        first = self.engines[0]
        self.embed_dim, self.action_dim, self.window = first.embed_dim, first.action_dim, first.window
        self.action_mean, self.action_std = first.action_mean, first.action_std
        self.threads, self.action_block = first.threads, first.action_block
        backends = {getattr(engine, "backend", "cpu") for engine in self.engines}
        if len(backends) > 1:
            raise ValueError(f"engines have backends {sorted(backends)}, expected one")
        devices = {str(getattr(engine, "device", "cpu")) for engine in self.engines}
        if len(devices) > 1:
            raise ValueError(f"engines are on {sorted(devices)}, expected one device")
        self.backend, self.device = backends.pop(), getattr(first, "device", torch.device("cpu"))

    @property
    def observation_dims(self) -> int:
        """Dimensions of one observation: 3 for an image."""
        return self.engines[0].observation_dims

    def encode(self, obs: Tensor | np.ndarray) -> Tensor:
        """Latents by the first engine: see `Engine.encode`."""
        return self.engines[0].encode(obs)

    def rollout(
        self,
        context: Tensor,
        actions: Tensor,
        past_actions: Tensor | None = None,
        *,
        keep: Literal["last", "all"] = "last",
        seconds: float | None = None,
    ) -> Tensor:
        """Each member's latents, [M, B, S, E] or [M, B, S, T, E] with keep="all": see `Engine.rollout`.

        seconds: what is left is shared out equally among the members that still have to run, so that all of them evaluate
        some candidates, rather than the first members all of them. A member that its share did not suffice for goes on where
        the others were quicker, so that candidates are left out only when all the time has passed.
        """
        if seconds is None:
            return torch.stack([e.rollout(context, actions, past_actions, keep=keep) for e in self.engines])
        end, found, short = time.perf_counter() + seconds, [], []
        for place, engine in enumerate(self.engines):
            now = time.perf_counter()
            share = (end - now) / (len(self.engines) - place)
            found.append(engine.rollout(context, actions, past_actions, keep=keep, seconds=share))
            short.append(time.perf_counter() >= now + share)
        for place, engine in enumerate(self.engines):
            left = end - time.perf_counter()
            if short[place] and left > 0:
                again = engine.rollout(context, actions, past_actions, keep=keep, seconds=left)
                found[place] = torch.where(found[place].isnan(), again, found[place])
        return torch.stack(found)

    def info(self) -> dict[str, Any]:
        """The first engine's, with "members", how many there are."""
        return self.engines[0].info() | {"members": len(self.engines)}  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"Ensemble({list(self.engines)})"
