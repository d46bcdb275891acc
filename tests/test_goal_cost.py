"""Distance to the goal against float64, and that a cost depends on its own latents alone."""

from __future__ import annotations

import math

import pytest
import torch
from close import assert_close

from fastwm import ops, reference
from fastwm.ops.goal_cost import METRICS, REDUCTIONS

SHAPES = [(1, 1, 1, 1), (1, 300, 5, 192), (3, 37, 2, 33), (2, 19, 3, 7), (4, 5, 1, 100), (2, 16, 4, 48)]


def example(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random), torch.randn(shape[0], shape[3], generator=random)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_close_to_float64(isa: str, shape, metric: str, reduce: str) -> None:
    latents, goal = example(shape)
    kernel = ops.goal_cost(latents, goal, metric, reduce, isa=isa)
    assert_close(
        f"{metric} {reduce}",
        kernel,
        reference.goal_cost(latents, goal, metric, reduce),
        reference.goal_cost(latents.double(), goal.double(), metric, reduce),
    )


def test_squared_last_is_the_summed_squared_error() -> None:
    latents = torch.tensor([[[[9.0, 9.0], [1.0, 2.0]], [[0.0, 0.0], [3.0, -2.0]]]])
    assert ops.goal_cost(latents, torch.tensor([[1.0, 0.0]])).tolist() == [[4.0, 8.0]]


@pytest.mark.parametrize("metric", METRICS)
def test_min_and_mean_read_every_step(isa: str, metric: str) -> None:
    latents, goal = example((2, 9, 4, 21))
    steps = torch.stack([ops.goal_cost(latents[:, :, t], goal, metric, isa=isa) for t in range(4)], dim=-1)
    assert torch.equal(ops.goal_cost(latents, goal, metric, "min", isa=isa), steps.amin(-1))
    assert torch.equal(ops.goal_cost(latents, goal, metric, "last", isa=isa), steps[..., -1])
    mean = steps[..., 0] + steps[..., 1] + steps[..., 2] + steps[..., 3]
    assert torch.equal(ops.goal_cost(latents, goal, metric, "mean", isa=isa), mean / 4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_batch_position_and_threads_do_not_change_a_bit(isa: str, metric: str, reduce: str) -> None:
    latents, goal = example((3, 180, 5, 200))  # enough numbers for two threads when every step is read
    batch = ops.goal_cost(latents, goal, metric, reduce, threads=2, isa=isa)
    assert torch.equal(batch, ops.goal_cost(latents, goal, metric, reduce, isa=isa))
    for b, s in ((0, 0), (1, 90), (2, 179)):
        alone = ops.goal_cost(latents[b : b + 1, s : s + 1], goal[b : b + 1], metric, reduce, isa=isa)
        assert torch.equal(alone[0, 0], batch[b, s])


@pytest.mark.parametrize("metric", METRICS)
def test_a_number_that_is_not_finite_is_seen(isa: str, metric: str) -> None:
    latents, goal = example((1, 4, 3, 37))
    latents[0, 1, 0, 36] = math.nan
    latents[0, 2, 1, 5] = math.inf
    for reduce, bad in (("last", []), ("mean", [1, 2]), ("min", [1])):
        cost = ops.goal_cost(latents, goal, metric, reduce, isa=isa)[0]
        assert cost[bad].isfinite().sum() == 0
        assert cost[[0, 3]].isfinite().all()
        if reduce == "last":
            assert cost.isfinite().all()
    assert ops.goal_cost(latents[:, 1:2, 0], goal, metric, isa=isa).isnan().all()


def test_a_zero_latent_is_at_cosine_distance_one(isa: str) -> None:
    goal = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    assert ops.goal_cost(torch.zeros(1, 2, 20), goal, "cosine", isa=isa).tolist() == [[1.0, 1.0]]
    assert ops.goal_cost(goal[:, None] * 3, goal, "cosine", isa=isa).abs().max() < 1e-6


def test_strided_latents_are_read_as_they_are_indexed(isa: str) -> None:
    latents, goal = example((2, 5, 3, 16))
    strided = latents.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(
        ops.goal_cost(strided, goal, reduce="mean", isa=isa),
        ops.goal_cost(latents, goal, reduce="mean", isa=isa),
    )


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_flow_through_the_reference(metric: str) -> None:
    latents, goal = (x.double() for x in example((2, 3, 2, 5)))
    latents = latents.float().requires_grad_()
    ops.goal_cost(latents, goal.float(), metric, "mean").sum().backward()
    exact = latents.detach().double().requires_grad_()
    reference.goal_cost(exact, goal, metric, "mean").sum().backward()
    assert latents.grad is not None
    assert (latents.grad - exact.grad).abs().max() < 1e-5
    assert latents.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"latents": torch.zeros(2, 3)}, ValueError, "latents has shape"),
        ({"latents": torch.zeros(2, 0, 4)}, ValueError, "latents has shape"),
        ({"latents": torch.zeros(2, 3, 4, dtype=torch.bfloat16)}, TypeError, "latents is torch.bfloat16"),
        ({"goal": torch.zeros(3, 4)}, ValueError, "goal has shape"),
        ({"goal": torch.zeros(2, 4, dtype=torch.float64)}, TypeError, "goal is torch.float64"),
        ({"metric": "l2"}, ValueError, "metric is 'l2'"),
        ({"reduce": "max"}, ValueError, "reduce is 'max'"),
        ({"threads": 0}, ValueError, "threads is 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message) -> None:
    good = {"latents": torch.zeros(2, 3, 4), "goal": torch.zeros(2, 4)}
    with pytest.raises(error, match=message):
        ops.goal_cost(**(good | change))
