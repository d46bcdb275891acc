"""Mixture CEM: one component is plain CEM; several find one of two ways where plain CEM averages them."""

from __future__ import annotations

import math

import pytest
import tiny_engine
import torch
import two_ways
from tiny_engine import TinyEngine

from fastwm import CEM, ActionPenalty, GoalDistance, MixtureCEM, Planner
from fastwm.planning import Iteration
from fastwm.planning.sampling import Sampling

B, K, T, A, E = 3, 2, 4, 2, 5


def problem() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return tiny_engine.problem(B, frames=K, A=A, E=E)


def planner(search: Sampling, **options) -> Planner:
    return Planner(TinyEngine(A, E, **options), search, T, cost=GoalDistance() + 1.0 * ActionPenalty())


# ---- two ways round ----


def test_of_two_ways_round_it_takes_one_where_cem_takes_their_average() -> None:
    """With as many candidates, elites and iterations."""
    plain = two_ways.outcome(CEM(samples=300, elites=60, iterations=5), 40)
    mixed = two_ways.outcome(MixtureCEM(samples=300, elites=60, iterations=5), 40)
    assert plain.collides.float().mean() > 0.5
    assert mixed.collides.float().mean() < 0.1
    assert plain.succeeds.float().mean() < 0.3
    assert mixed.succeeds.float().mean() > 0.7
    assert (mixed.cost < plain.cost).float().mean() > 0.8


def test_its_components_take_both_ways() -> None:
    """At the middle of the way, some component passes above and some below."""
    seen: list[Iteration] = []
    start = torch.tensor(two_ways.START).expand(20, 1, 2).contiguous()
    search = MixtureCEM(samples=300, elites=60, iterations=5)
    Planner(two_ways.Point(), search, 8, cost=two_ways.cost).plan(
        {"latents": start}, generator=3, callback=seen.append
    )
    means, _ = seen[-1].state.memory  # [B, M, T, A]
    height = means.cumsum(2)[..., 1].mean(2)  # [B, M]
    both = (height.amax(1) > 0.1) & (height.amin(1) < -0.1)
    assert both.float().mean() > 0.6


# ---- the algorithm ----


def test_a_single_component_is_plain_cem() -> None:
    for options in ({}, {"low": -0.4, "high": 0.6, "min_std": 0.05, "max_std": 0.6, "decay": 1.2}):
        obs, goal = problem()
        ours = planner(MixtureCEM(60, 8, 6, components=1, **options)).plan(obs, goal, generator=1)
        plain = planner(CEM(60, 8, 6, **options)).plan(obs, goal, generator=1)
        torch.testing.assert_close(ours.mean, plain.mean)
        torch.testing.assert_close(ours.std, plain.std)
        torch.testing.assert_close(ours.cost, plain.cost)


def test_every_component_is_refitted_to_its_own_elites() -> None:
    seen: list[Iteration] = []
    search = MixtureCEM(
        samples=61, elites=9, iterations=4, components=3, momentum=0.25, min_std=0.01, max_std=0.7
    )
    planner(search).plan(*problem(), generator=1, callback=seen.append)
    shares = [31, 18, 12]  # 6 each, and 43 by 4 : 2 : 1, rounded down, with what is left for the first
    for it in seen[1:]:
        means, stds = it.before.memory
        expected = []
        for m, (own, cost) in enumerate(
            zip(it.actions.split(shares, 1), it.cost.split(shares, 1), strict=True)
        ):
            assert torch.equal(own[:, 0], means[:, m]), "the first candidate of a component is its mean"
            chosen = cost.topk(3, largest=False)
            elites = own.gather(1, chosen.indices[:, :, None, None].expand(-1, -1, T, A))
            mean = 0.25 * means[:, m] + 0.75 * elites.mean(1)
            std = (0.25 * stds[:, m] + 0.75 * elites.std(1)).clamp(0.01, 0.7)
            expected.append((mean, std, chosen.values.mean(1)))
        mean, std, cost = (torch.stack(each, 1) for each in zip(*expected, strict=True))
        order = cost.argsort(1)
        for found, wanted in zip(it.state.memory, (mean, std), strict=True):
            wanted = wanted.gather(1, order[:, :, None, None].expand(-1, -1, T, A))
            torch.testing.assert_close(found, wanted)
        assert torch.equal(it.state.mean, it.state.memory[0][:, 0])
        assert torch.equal(it.state.std, it.state.memory[1][:, 0])
        torch.testing.assert_close(it.state.elite_cost, cost.amin(1))


def test_the_split_is_by_farthest_first_traversal() -> None:
    """Elites on a line: the best at 0, the farthest at 10, then the one in the middle of the largest gap, 4."""
    search = MixtureCEM(samples=8, elites=6, iterations=1, components=3)
    places = torch.tensor([0.0, 10.0, 4.0, 0.5, 9.0, 3.8, 50.0, -50.0])
    cost = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, math.nan]])
    state = search.start(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0))
    found = search.update(state, places.view(1, 8, 1, 1), cost)
    means, stds = found.memory
    # pairs (0, 0.5), (10, 9), (4, 3.8) of costs 0 + 3, 1 + 4, 2 + 5
    assert means.flatten().tolist() == pytest.approx([0.25, 9.5, 3.9])
    assert stds.flatten().tolist() == pytest.approx([0.5 / 2**0.5, 1 / 2**0.5, 0.2 / 2**0.5], rel=1e-4)
    assert found.elite_cost.item() == 1.5


def test_a_component_without_a_finite_cost_stays_as_it_was() -> None:
    search = MixtureCEM(samples=24, elites=6, iterations=2, components=3)
    means, stds = torch.arange(3.0).view(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    state = search.start(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))._replace(memory=(means, stds))
    actions = torch.randn(1, 24, 1, 1, generator=torch.Generator().manual_seed(0))
    cost = torch.rand(1, 24, generator=torch.Generator().manual_seed(1))
    cost[:, : search._shares(24)[0]] = math.nan  # the first component's
    found = search.update(state, actions, cost)
    assert found.memory[0][0, 2, 0, 0] == 0.0, "now the last one, and where it was"
    assert found.memory[1][0, 2, 0, 0] == 1.0
    assert found.elite_cost.isfinite().all()


def test_proposals_form_a_component() -> None:
    obs, goal = problem()
    optimum, _ = TinyEngine(A, E).optimum(obs, goal, T, penalty=1.0)
    proposals = optimum[:, None] + 0.01 * torch.randn(B, 8, T, A, generator=torch.Generator().manual_seed(0))
    plan = planner(MixtureCEM(60, 32, 1, components=4)).plan(obs, goal, generator=1, proposals=proposals)
    assert (plan.mean - optimum).abs().max() < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "components is 0, expected an integer of at least 1"),
        ({"elites": 7}, "elites is 7, expected at least 8, two for each component"),
        ({"keep": 2}, "keep is 2, expected none: MixtureCEM has no use for it"),
    ],
)
def test_options_that_make_no_search_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureCEM(**options)
