"""Distance to the goal on a GPU: against float64, and that a cost depends on its own latents and goal alone."""

from __future__ import annotations

import math

import pytest
import sanitize
import torch
from close import assert_close
from torch import Tensor

from fastwm import ops, reference
from fastwm.ops.goal_cost import METRICS, REDUCTIONS

# E of one warp's load and less, of several with a rest, odd, a multiple of four; candidates that do not fill the last block.
SHAPES = [
    (1, 1, 1, 1),
    (1, 30, 5, 192),
    (3, 37, 2, 33),
    (2, 19, 3, 7),
    (5, 3, 1, 300),
    (2, 6, 4, 48),
    (1, 2, 1, 515),
]
SANITIZED = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in sanitize.SANITIZERS]


def example(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random), torch.randn(shape[0], shape[3], generator=random)


def cost_of(gpu: torch.device, latents: Tensor, goal: Tensor, *how: str) -> Tensor:
    """What the kernel gives, on the CPU."""
    return ops.goal_cost(latents.to(gpu), goal.to(gpu), *how).cpu()


def displaced(x: Tensor, device: torch.device) -> Tensor:
    """The same numbers at an address that is no multiple of 16 bytes."""
    room = torch.empty(x.numel() + 1, device=device)
    moved = room[1:].view(x.shape)
    moved.copy_(x)
    assert moved.data_ptr() % 16
    return moved


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_close_to_float64(gpu: torch.device, schedule: object, shape: tuple[int, ...], metric: str) -> None:
    latents, goal = example(shape)
    for reduce in REDUCTIONS:
        assert_close(
            f"{metric} {reduce}",
            cost_of(gpu, latents, goal, metric, reduce),
            reference.goal_cost(latents, goal, metric, reduce),
            reference.goal_cost(latents.double(), goal.double(), metric, reduce),
        )


@pytest.mark.parametrize("metric", METRICS)
def test_min_and_mean_read_every_step(gpu: torch.device, metric: str) -> None:
    latents, goal = example((2, 9, 4, 21))
    steps = torch.stack([cost_of(gpu, latents[:, :, t], goal, metric) for t in range(4)], dim=-1)
    assert torch.equal(cost_of(gpu, latents, goal, metric, "min"), steps.amin(-1))
    assert torch.equal(cost_of(gpu, latents, goal, metric, "last"), steps[..., -1])
    mean = steps[..., 0] + steps[..., 1] + steps[..., 2] + steps[..., 3]
    assert torch.equal(cost_of(gpu, latents, goal, metric, "mean"), mean / 4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("E", [20, 23, 192])
def test_a_cost_is_a_function_of_its_own_latents_and_goal(gpu: torch.device, metric: str, E: int) -> None:
    """Alone or in a batch, and wherever the latents lie: the ways of loading them add up in one order."""
    latents, goal = example((3, 18, 2, E))
    batch = cost_of(gpu, latents, goal, metric, "mean")
    for b, s in ((0, 0), (1, 9), (2, 17)):
        alone = cost_of(gpu, latents[b : b + 1, s : s + 1], goal[b : b + 1], metric, "mean")
        assert torch.equal(alone[0, 0], batch[b, s])
    moved = ops.goal_cost(displaced(latents, gpu), displaced(goal, gpu), metric, "mean")
    assert torch.equal(moved.cpu(), batch)


@pytest.mark.parametrize("metric", METRICS)
def test_a_number_that_is_not_finite_is_seen(gpu: torch.device, metric: str) -> None:
    latents, goal = example((1, 5, 3, 37))
    latents[0, 1, 0, 36] = math.nan
    latents[0, 2, 1, 5] = math.inf
    latents[0, 4, 1, 0] = math.nan
    for reduce, bad in (("last", []), ("mean", [1, 2, 4]), ("min", [1, 4])):
        cost = cost_of(gpu, latents, goal, metric, reduce)[0]
        assert cost[bad].isfinite().sum() == 0
        assert cost[[0, 3]].isfinite().all()
        if reduce == "last":
            assert cost.isfinite().all()
    assert cost_of(gpu, latents[:, 1:2, 0], goal, metric).isnan().all()


def test_a_zero_latent_is_at_cosine_distance_one(gpu: torch.device) -> None:
    goal = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    assert cost_of(gpu, torch.zeros(1, 2, 20), goal, "cosine").tolist() == [[1.0, 1.0]]
    assert cost_of(gpu, goal[:, None] * 3, goal, "cosine").abs().max() < 1e-6


def test_strided_latents_are_read_as_they_are_indexed(gpu: torch.device) -> None:
    latents, goal = example((2, 5, 3, 16))
    strided = latents.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(
        cost_of(gpu, strided, goal, "squared", "mean"), cost_of(gpu, latents, goal, "squared", "mean")
    )


def test_the_wrong_goal_is_refused(gpu: torch.device) -> None:
    with pytest.raises(ValueError, match=r"goal has shape \(3, 4\), expected \(2, 4\)"):
        cost_of(gpu, torch.zeros(2, 3, 4), torch.zeros(3, 4))


@pytest.mark.parametrize("sanitizer", SANITIZED)
def test_sanitizers_have_nothing_to_say(gpu: torch.device, sanitizer: str) -> None:
    with sanitize.recorded() as calls:
        for shape in ((2, 5, 3, 20), (1, 3, 2, 33), (1, 2, 2, 192), (1, 1, 1, 1)):
            latents, goal = example(shape)
            for metric in METRICS:
                cost_of(gpu, latents, goal, metric, "mean")
            ops.goal_cost(displaced(latents, gpu), displaced(goal, gpu), "squared", "last")
    sanitize.check(calls, sanitizer)
