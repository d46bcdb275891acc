"""SIGReg, forward and backward with its projection: 4 x 64 x 192 latents on 1024 directions, drawn afresh."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.options import Options
from bench.timing import in_turns
from fastwm.objectives import SIGReg
from fastwm.reference.sigreg import slope, statistic

T, B, E, P, KNOTS = 4, 64, 192, 1024, 17
Regulariser = Callable[[Tensor], Tensor]


def unit_directions() -> Tensor:
    directions = torch.randn(E, P)
    return directions / directions.norm(dim=0)


def formula(latents: Tensor) -> Tensor:
    """As it is written down and as stable-worldmodel computes it: a sine and a cosine of [T, B, P, knots]."""
    t = torch.linspace(0, 3, KNOTS)
    weights = torch.full((KNOTS,), 6 / (KNOTS - 1))
    weights[0] = weights[-1] = 3 / (KNOTS - 1)
    target = torch.exp(-t.square() / 2)
    angles = (latents @ unit_directions())[..., None] * t
    error = (angles.cos().mean(1) - target).square() + angles.sin().mean(1).square()
    return latents.shape[1] * (error @ (weights * target)).mean()


def powers(latents: Tensor) -> Tensor:
    """fastwm's reference: powers of one complex number a sample, in PyTorch."""
    return _Powers.apply(latents @ unit_directions()).mean()


class _Powers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, samples: Tensor) -> Tensor:
        found, pull = statistic(samples, KNOTS)
        ctx.save_for_backward(samples, pull)
        return found

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return slope(*ctx.saved_tensors) * gradient[:, None]


def step(regulariser: Regulariser, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    latents.grad = None
    loss = regulariser(latents)
    loss.backward()
    assert latents.grad is not None
    return loss.detach(), latents.grad


def agrees(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
        for a, b in zip(found, expected, strict=True)
    )


def results(options: Options) -> Iterator[dict]:
    """One line per way and number of threads; loss and gradient agree to 1e-4 with the formula's for the same directions."""
    ways: dict[str, Regulariser] = {
        "torch eager": formula,
        "torch, powers": powers,
        "fastwm": SIGReg(KNOTS, P),
    }
    if options.compiled:
        ways["torch.compile"] = torch.compile(formula)
    for threads in options.threads:
        torch.set_num_threads(threads)
        latents = torch.randn(T, B, E, generator=torch.Generator().manual_seed(0)).requires_grad_()
        timed: dict[str, Callable[[], object]] = {}
        torch.manual_seed(1)
        expected = step(formula, latents)
        for name, way in ways.items():
            torch.manual_seed(1)
            its_own_numbers = name == "torch.compile"
            if its_own_numbers or agrees(step(way, latents), expected):
                timed[name] = functools.partial(step, way, latents)
            else:
                yield {"threads": threads, "way": name, "passed": False}
        for name, times in in_turns(timed, repeats=options.repeats).items():
            yield {"threads": threads, "way": name, "milliseconds": times, "passed": True}
