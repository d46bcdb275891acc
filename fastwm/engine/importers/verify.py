"""The last question to an import: does the data compute what the model computes?

Reading a module's parts cannot see a hook, a subclass with its own forward, or a mask that is not causal. Comparing
numbers can.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastwm.engine.spec import PredictorSpec
from fastwm.reference.rollout import chain, predict

TOLERANCE = 1e-3  # of the largest number; float32 rounding is a thousand times less, a wrong part far more


def finite(model: nn.Module) -> None:
    """ValueError, naming the tensor, unless all weights and statistics are finite numbers on a real device."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device, expected a model with weights")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")


@torch.no_grad()
def same(spec: PredictorSpec, own: Callable[[Tensor, Tensor], Tensor], model: str) -> None:
    """ValueError if the spec's prediction is not the model's own.

    own: float32 latents [N, n, E] and actions [N, n, A] -> the model's latent after the last of the window, [N, E]; called with
    windows of every length that the predictor allows, up to 4.
    """
    generator = torch.Generator().manual_seed(0)
    for n in range(1, min(spec.window, 4) + 1):
        latents = torch.randn(3, n, spec.embed_dim, generator=generator, dtype=torch.float32)
        actions = torch.randn(3, n, spec.action_dim, generator=generator, dtype=torch.float32)
        expected = own(latents, actions)
        difference = (predict(spec, latents, chain(spec.action, actions)) - expected).abs().max()
        if not difference <= TOLERANCE * expected.abs().max():
            raise ValueError(
                f"{model} predicts other numbers than its parts say (by {difference:.2g} where the largest is "
                f"{expected.abs().max():.2g}, window of {n}): a changed forward, a hook or an unknown part; this model "
                "cannot be represented"
            )
