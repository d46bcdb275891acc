"""The refit on a GPU: elites in order, and the bits of the reference, whatever the sizes and the order of threads."""

from __future__ import annotations

import math

import pytest
import sanitize
import torch
from torch import Tensor

from fastwm import ops, reference

# (B, S, T, A, k): one warp and less, several warps, all candidates elites, several blocks of numbers, more elites than a
# tile has rows, several chunks with the last one short, exactly one chunk, one more, and four keys a thread.
SHAPES = [
    (1, 1, 1, 1, 1),
    (5, 20, 3, 2, 4),
    (3, 37, 7, 3, 37),
    (2, 90, 13, 6, 30),
    (1, 300, 5, 10, 100),
    (2, 129, 1, 33, 65),
    (1, 5000, 2, 2, 30),
    (1, 1024, 1, 3, 1024),
    (1, 1025, 1, 3, 1),
]
SANITIZED = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in sanitize.SANITIZERS]


def example(B: int, S: int, T: int, A: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    actions = torch.randn(B, S, T, A, generator=random) * 3 + 100
    cost = torch.randn(B, S, generator=random)
    return actions, cost, torch.randn(B, T, A, generator=random), torch.rand(B, T, A, generator=random)


def updated(gpu: torch.device, *inputs: Tensor | int, **options: Tensor | float) -> tuple[Tensor, ...]:
    """What the kernel gives, on the CPU."""
    placed = [value.to(gpu) if isinstance(value, Tensor) else value for value in inputs]
    more = {name: value.to(gpu) if isinstance(value, Tensor) else value for name, value in options.items()}
    return tuple(result.cpu() for result in ops.cem_update(*placed, **more))  # type: ignore[arg-type]


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    names = ("mean", "std", "elites", "elite_cost", "non_finite", "best_cost", "best_actions")
    assert len(found) == len(expected)
    for name, ours, theirs in zip(names, found, expected, strict=False):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_of_the_reference(gpu: torch.device, schedule: object, shape: tuple[int, ...]) -> None:
    B, S, T, A, k = shape
    actions, cost, mean, std = example(B, S, T, A)
    cost[:, S // 2 + 1 :: 7] = cost[:, :1]  # ties
    cost[0, S // 2 + 2 :: 11] = math.nan
    cost[-1, S // 3 + 1 :: 13] = -math.inf
    plain = (actions, cost, mean, std, k)
    assert_equal(updated(gpu, *plain), reference.cem_update(*plain))
    options = {"momentum": 0.3, "min_std": 0.2, "best_cost": cost.nanmean(1), "best_actions": mean + 1}
    assert_equal(updated(gpu, *plain, **options), reference.cem_update(*plain, **options))


def test_more_elites_than_threads(gpu: torch.device) -> None:
    for S, k in ((1500, 1500), (4100, 1025), (5000, 4096)):
        actions, cost, mean, std = example(1, S, 1, 2, seed=S)
        cost[0, 5:70] = cost[0, 2]
        inputs = (actions, cost, mean, std, k)
        assert_equal(updated(gpu, *inputs, momentum=0.5), reference.cem_update(*inputs, momentum=0.5))
    with pytest.raises(ValueError, match="elite_count is 4097, expected at most 4096 on a GPU"):
        updated(gpu, actions, cost, mean, std, 4097)


@pytest.mark.parametrize("k", [1, 7, 64])
def test_elites_are_a_stable_sort_with_non_finite_last(gpu: torch.device, schedule: object, k: int) -> None:
    random = torch.Generator().manual_seed(k)
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, math.nan, math.inf, -math.inf])
    cost = values[torch.randint(len(values), (3, 64), generator=random)]
    cost[2] = math.nan
    actions = torch.arange(64.0).view(1, 64, 1, 1).expand(3, -1, -1, -1)
    zero = torch.zeros(3, 1, 1)
    _, _, elites, elite_cost, non_finite = updated(gpu, actions, cost, zero, zero, k)
    for b in range(3):
        key = [c if math.isfinite(c) else math.inf for c in cost[b].tolist()]
        assert elites[b].tolist() == sorted(range(64), key=lambda s: key[s])[:k]
    assert non_finite.tolist() == (~cost.isfinite()).sum(1).tolist()
    assert elite_cost[2] == math.inf


def test_the_best_seen_is_replaced_by_a_lower_finite_cost(gpu: torch.device, schedule: object) -> None:
    actions, cost, mean, std = example(6, 9, 3, 20)  # 60 numbers: two blocks
    cost[0] = math.nan
    cost[1, 4] = -9.0
    cost[2, 4] = -math.inf
    cost[3:, 7] = -3.0
    old, seen = torch.tensor([math.inf, -8.0, -9.0, math.inf, -3.0, math.nan]), mean + 50
    *_, best_cost, best_actions = updated(gpu, actions, cost, mean, std, 2, best_cost=old, best_actions=seen)
    assert best_cost.tolist()[:5] == [math.inf, -9.0, -9.0, -3.0, -3.0]
    assert best_cost[5].isnan()
    for b, taken in enumerate((None, 4, None, 7, None, None)):
        assert torch.equal(best_actions[b], seen[b] if taken is None else actions[b, taken])
    assert len(updated(gpu, actions, cost, mean, std, 2)) == 5


def test_an_environment_alone_is_what_it_is_in_a_batch(gpu: torch.device) -> None:
    actions, cost, mean, std = example(5, 70, 5, 9)
    batch = updated(gpu, actions, cost, mean, std, 20, best_cost=cost[:, 3], best_actions=mean)
    for b in range(5):
        own = [x[b : b + 1] for x in (actions, cost, mean, std)]
        alone = updated(gpu, *own, 20, best_cost=cost[b : b + 1, 3], best_actions=own[2])
        for one, two in zip(alone, batch, strict=True):
            assert torch.equal(one[0], two[b])


def test_inputs_are_left_as_they_were(gpu: torch.device) -> None:
    inputs = [x.to(gpu) for x in example(2, 40, 3, 2)]
    best = (inputs[1][:, 0].clone(), inputs[2] + 1)
    copies = [x.clone() for x in (*inputs, *best)]
    ops.cem_update(*inputs, 4, momentum=0.5, best_cost=best[0], best_actions=best[1])
    for before, after in zip(copies, (*inputs, *best), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("sanitizer", SANITIZED)
def test_sanitizers_have_nothing_to_say(gpu: torch.device, sanitizer: str) -> None:
    shapes = [(2, 50, 3, 5, 10), (1, 90, 1, 40, 70), (1, 33, 1, 2, 33), (1, 1, 1, 1, 1), (1, 1030, 1, 2, 9)]
    with sanitize.recorded() as calls:
        for B, S, T, A, k in [*shapes, (1, 1100, 1, 1, 1050)]:
            actions, cost, mean, std = example(B, S, T, A)
            cost[0, 3:9] = math.nan
            updated(gpu, actions, cost, mean, std, k, momentum=0.1, best_cost=cost[:, 0], best_actions=mean)
        updated(gpu, *example(1, 20, 2, 2), 3)
    sanitize.check(calls, sanitizer)
