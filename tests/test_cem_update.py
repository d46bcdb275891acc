"""The refit: elites, ties, non-finite costs, statistics against float64, and the same bits everywhere."""

from __future__ import annotations

import math

import pytest
import torch
from close import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwm import ops, reference
from fastwm.engine import backend

SHAPES = [(1, 1, 1, 1, 1), (1, 300, 5, 10, 30), (3, 37, 7, 3, 5), (2, 17, 13, 11, 17), (4, 64, 12, 2, 2)]


def example(B: int, S: int, T: int, A: int, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    actions = torch.randn(B, S, T, A, generator=random) * 3 + 100
    cost = torch.randn(B, S, generator=random)
    return actions, cost, torch.randn(B, T, A, generator=random), torch.rand(B, T, A, generator=random)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.1])
def test_close_to_float64(isa: str, shape, momentum: float) -> None:
    B, S, T, A, k = shape
    actions, cost, mean, std = example(B, S, T, A)
    new_mean, new_std, elites, elite_cost, non_finite = ops.cem_update(
        actions, cost, mean, std, k, momentum=momentum, min_std=0.01, isa=isa
    )
    best = cost.topk(k, dim=1, largest=False)
    assert torch.equal(elites, best.indices)

    def plain(dtype: torch.dtype):
        chosen = torch.stack([actions[b, best.indices[b]] for b in range(B)]).to(dtype)
        spread = chosen.std(dim=1) if k > 1 else torch.zeros_like(chosen[:, 0])
        return (
            momentum * mean.to(dtype) + (1 - momentum) * chosen.mean(dim=1),
            (momentum * std.to(dtype) + (1 - momentum) * spread).clamp(min=0.01),
            best.values.to(dtype).mean(dim=1),
        )

    for name, kernel, same, truth in zip(
        ("mean", "std", "cost"),
        (new_mean, new_std, elite_cost),
        plain(torch.float32),
        plain(torch.float64),
        strict=True,
    ):
        assert_close(name, kernel, same, truth)
    assert non_finite.tolist() == [0] * B


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_elites_are_a_stable_sort_with_non_finite_last(data) -> None:
    S = data.draw(st.integers(1, 40))
    k = data.draw(st.integers(1, S))
    number = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf]), st.floats(width=32)
    )
    costs = data.draw(st.lists(number, min_size=S, max_size=S))
    key = [c if math.isfinite(c) else math.inf for c in torch.tensor(costs).tolist()]
    expected = sorted(range(S), key=lambda s: key[s])[:k]  # stable: equal costs by index
    actions = torch.arange(S, dtype=torch.float32).view(1, S, 1, 1)
    zero = torch.zeros(1, 1, 1)
    for isa in backend.isas():
        mean, _, elites, elite_cost, non_finite = ops.cem_update(
            actions, torch.tensor([costs]), zero, zero, k, isa=isa
        )
        assert elites[0].tolist() == expected
        assert non_finite.item() == sum(not math.isfinite(c) for c in costs)
        assert mean.item() == pytest.approx(sum(expected) / k, rel=1e-6)
        finite = [key[s] for s in expected if math.isfinite(key[s])]
        assert elite_cost.item() == pytest.approx(
            sum(finite) / len(finite) if finite else math.inf, rel=1e-5, abs=1e-30
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_isa_gives_the_bits_of_the_reference(isa: str, shape) -> None:
    B, S, T, A, k = shape
    actions, cost, mean, std = example(B, S, T, A, seed=3)
    cost[0, S // 2] = math.nan
    options = {
        "momentum": 0.3,
        "min_std": 0.2,
        "best_cost": cost[:, 0].nan_to_num(1.0),
        "best_actions": mean + 1,
    }
    kernel = ops.cem_update(actions, cost, mean, std, k, **options, isa=isa)
    plain = reference.cem_update(actions, cost, mean, std, k, **options)
    for ours, theirs in zip(kernel, plain, strict=True):
        assert torch.equal(ours, theirs)


def test_the_best_seen_is_replaced_by_a_lower_finite_cost(isa: str) -> None:
    actions, cost, mean, std = example(6, 9, 3, 2)
    cost[0] = math.nan  # none is finite: the old one stays, whatever it is
    cost[1, 4] = -9.0
    cost[2, 4] = -math.inf  # counts as worst
    cost[3:, 7] = -3.0
    old, seen = torch.tensor([math.inf, -8.0, -9.0, math.inf, -3.0, math.nan]), mean + 50
    *_, best_cost, best_actions = ops.cem_update(
        actions, cost, mean, std, 2, best_cost=old, best_actions=seen, isa=isa
    )
    assert best_cost.tolist()[:5] == [math.inf, -9.0, -9.0, -3.0, -3.0]
    assert best_cost[5].isnan()  # nothing is below it
    for b, taken in enumerate((None, 4, None, 7, None, None)):
        assert torch.equal(best_actions[b], seen[b] if taken is None else actions[b, taken])
    assert len(ops.cem_update(actions, cost, mean, std, 2, isa=isa)) == 5


def test_batch_and_threads_do_not_change_a_bit(isa: str) -> None:
    actions, cost, mean, std = example(6, 90, 30, 12)
    batch = ops.cem_update(actions, cost, mean, std, 60, threads=2, isa=isa)  # enough work for two threads
    for one, two in zip(ops.cem_update(actions, cost, mean, std, 60, isa=isa), batch, strict=True):
        assert torch.equal(one, two)
    for b in range(6):
        alone = ops.cem_update(*(x[b : b + 1] for x in (actions, cost, mean, std)), 60, isa=isa)
        for one, two in zip(alone, batch, strict=True):
            assert torch.equal(one[0], two[b])


def test_one_elite_has_no_spread(isa: str) -> None:
    actions, cost, mean, std = example(2, 9, 3, 2)
    new_mean, new_std, elites, elite_cost, _ = ops.cem_update(actions, cost, mean, std, 1, isa=isa)
    assert torch.equal(new_mean, actions[torch.arange(2), elites[:, 0]])
    assert torch.equal(new_std, torch.zeros(2, 3, 2))
    assert torch.equal(elite_cost, cost.amin(1))
    assert ops.cem_update(actions, cost, mean, std, 1, min_std=0.5, isa=isa)[1].unique().tolist() == [0.5]


def test_momentum_keeps_the_old_distribution(isa: str) -> None:
    actions, cost, mean, std = example(2, 9, 3, 2)
    fresh = ops.cem_update(actions, cost, mean, std, 4, isa=isa)
    mixed = ops.cem_update(actions, cost, mean, std, 4, momentum=0.75, isa=isa)
    assert torch.allclose(mixed[0], 0.75 * mean + 0.25 * fresh[0], rtol=1e-6)
    assert torch.allclose(mixed[1], 0.75 * std + 0.25 * fresh[1], rtol=1e-6)


def test_inputs_are_left_as_they_were(isa: str) -> None:
    inputs = example(2, 9, 3, 2)
    copies = [x.clone() for x in inputs]
    ops.cem_update(*inputs, 4, momentum=0.5, isa=isa)
    for before, after in zip(copies, inputs, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"actions": torch.zeros(2, 5, 3)}, ValueError, "actions has shape"),
        ({"cost": torch.zeros(2, 4)}, ValueError, "cost has shape"),
        ({"cost": torch.zeros(2, 5, dtype=torch.float64)}, TypeError, "cost is torch.float64"),
        ({"cost": [[0.0] * 5] * 2}, TypeError, "cost is list"),
        ({"mean": torch.zeros(2, 3, 3)}, ValueError, "mean has shape"),
        ({"std": torch.zeros(1, 3, 4)}, ValueError, "std has shape"),
        ({"elite_count": 0}, ValueError, "elite_count is 0"),
        ({"elite_count": 6}, ValueError, "elite_count is 6"),
        ({"momentum": 1.0}, ValueError, "momentum is 1.0"),
        ({"min_std": -0.1}, ValueError, "min_std is -0.1"),
        ({"best_cost": torch.zeros(2)}, ValueError, "best_actions is None"),
        ({"best_actions": torch.zeros(2, 3, 4)}, ValueError, "best_cost is None"),
        (
            {"best_cost": torch.zeros(3), "best_actions": torch.zeros(2, 3, 4)},
            ValueError,
            "best_cost has shape",
        ),
        ({"best_cost": torch.zeros(2), "best_actions": torch.zeros(2, 4, 3)}, ValueError, "best_actions has"),
        ({"threads": -1}, ValueError, "threads is -1"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message) -> None:
    good = {"actions": torch.zeros(2, 5, 3, 4), "cost": torch.zeros(2, 5), "mean": torch.zeros(2, 3, 4)}
    good |= {"std": torch.ones(2, 3, 4), "elite_count": 2}
    with pytest.raises(error, match=message):
        ops.cem_update(**(good | change))
