"""Categorical CEM: draws of the right frequency, the best of all plans, probabilities that are the elites' frequencies."""

from __future__ import annotations

import itertools

import pytest
import tiny_engine
import torch
from tiny_engine import TinyEngine

from fastwm import CategoricalCEM, GoalDistance, Planner
from fastwm.planning import Iteration
from fastwm.planning.draws import Draws

B, E = 3, 5


def planner(search: CategoricalCEM, A: int, T: int) -> Planner:
    return Planner(TinyEngine(A, E), search, T)


def problem(A: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return tiny_engine.problem(B, frames=2, A=A, E=E)


def one_hot_everywhere(actions: torch.Tensor, sizes: tuple[int, ...]) -> bool:
    parts = actions.split(sizes, dim=-1)
    return bool(((actions == 0) | (actions == 1)).all()) and all((p.sum(-1) == 1).all() for p in parts)


# ---- draws ----


def draws(seed: int = 3) -> Draws:
    return Draws(seed, torch.arange(1))


@pytest.mark.parametrize("noise_exponent", [0.0, 2.0], ids=["white", "red"])
def test_categories_are_drawn_as_often_as_they_are_likely(noise_exponent: float) -> None:
    """Chi-square of every variable at every step; noise that is correlated over the horizon leaves each as it was."""
    likely = torch.tensor([[0.5, 0.3, 0.2, 0.999, 0.001], [0.05, 0.05, 0.9, 0.4, 0.6]])[None]  # [1, T, 3 + 2]
    search = CategoricalCEM(categories=(3, 2), noise_exponent=noise_exponent)
    count = 50_000
    drawn = search.draw(likely, likely, count + 1, draws(), 0)[0, 1:]
    assert one_hot_everywhere(drawn, (3, 2))
    for t, part in itertools.product(range(2), (slice(0, 3), slice(3, 5))):
        expected = likely[0, t, part].double() * count
        found = drawn[:, t, part].double().sum(0)
        chi_square = ((found - expected).square() / expected).sum()
        freedom = torch.tensor((len(found) - 1) / 2).double()
        assert torch.special.gammaincc(freedom, chi_square / 2) > 1e-3, (t, part)


def test_variables_and_steps_are_drawn_independently() -> None:
    uniform = torch.full((1, 3, 4), 0.5)
    search = CategoricalCEM(categories=(2, 2))
    drawn = search.draw(uniform, uniform, 40_000, draws(), 0)[0, 1:, :, ::2].flatten(1)  # [S, 6]
    correlation = torch.corrcoef(drawn.T) - torch.eye(6)
    assert correlation.abs().max() < 5 / 40_000**0.5


def test_the_first_candidate_is_the_most_likely_one() -> None:
    likely = torch.tensor([[[0.2, 0.5, 0.3, 0.6, 0.4]]])
    drawn = CategoricalCEM(categories=(3, 2)).draw(likely, likely, 4, draws(), 0)
    assert drawn[0, 0, 0].tolist() == [0, 1, 0, 1, 0]


def test_a_category_of_probability_zero_is_never_drawn() -> None:
    likely = torch.tensor([[[0.0, 1.0, 0.0]]])
    noise = torch.tensor([-40.0, 0.0, 40.0])[torch.randint(3, (1, 1, 500, 1, 3))]
    search = CategoricalCEM(categories=3)
    drawn = search.draw(likely, likely, 500, Draws(0, torch.arange(1), noise), 0)
    assert (drawn == torch.tensor([0.0, 1.0, 0.0])).all()


def test_held_draws_choose_the_same_category_again() -> None:
    seen: list[Iteration] = []
    search = CategoricalCEM(60, 10, 3, categories=3, steps=2, hold=2)
    planner(search, A=6, T=3).plan(*problem(6), generator=1, callback=seen.append)
    for it in seen:
        first, second = search.numbers(it.actions).unbind(-2)
        assert torch.equal(first, second)
        assert (first != first[:, :1]).any()


# ---- the search ----


def every_plan(search: CategoricalCEM, A: int, T: int) -> torch.Tensor:
    """[N, T, A]"""
    sizes = [*search.categories] * search.steps * T
    numbers = torch.tensor(list(itertools.product(*(range(n) for n in sizes))))
    return search.one_hot(numbers.view(-1, T, search.steps, len(search.categories)))


@pytest.mark.parametrize(
    ("categories", "steps", "T"), [(4, 1, 5), ((2, 3), 2, 2), ((3, 1), 1, 4)], ids=["one", "blocks", "of one"]
)
def test_it_finds_the_best_of_all_plans(categories, steps: int, T: int) -> None:
    search = CategoricalCEM(200, 20, 15, categories=categories, steps=steps, return_best=True)
    A = sum(search.categories) * steps
    obs, goal = problem(A)
    everything = every_plan(search, A, T).expand(B, -1, -1, -1)
    engine = TinyEngine(A, E)
    latents = engine.rollout(obs["latents"], everything, obs["past_actions"], keep="all")
    cost = (latents - goal[:, None, None]).square().sum(-1).mean(2)  # [B, N]
    path = GoalDistance(reduce="mean")  # the last step alone is as far after the same actions in any order
    plan = Planner(engine, search, T, cost=path).plan(obs, goal, generator=1)
    assert one_hot_everywhere(plan.actions, search.categories * steps)
    torch.testing.assert_close(plan.stats["best_cost"], cost.amin(1), rtol=1e-5, atol=1e-5)
    rows = (everything == plan.actions[:, None]).flatten(2).all(2)
    assert torch.equal(rows.nonzero()[:, 1], cost.argmin(1)), "the only plan that is as good"


def test_without_best_seen_the_plan_is_the_most_likely() -> None:
    search = CategoricalCEM(200, 20, 15, categories=(2, 3))
    plan = planner(search, 5, 3).plan(*problem(5), generator=1)
    assert torch.equal(plan.actions[..., :2].argmax(-1), plan.mean[..., :2].argmax(-1))
    assert torch.equal(plan.actions[..., 2:].argmax(-1), plan.mean[..., 2:].argmax(-1))
    assert one_hot_everywhere(plan.actions, (2, 3))
    torch.testing.assert_close(plan.std, (plan.mean * (1 - plan.mean)).sqrt())


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_probabilities_are_the_elites_frequencies(momentum: float) -> None:
    seen: list[Iteration] = []
    search = CategoricalCEM(50, 7, 4, categories=(2, 3), smoothing=0.05, momentum=momentum)
    planner(search, 5, 3).plan(*problem(5), generator=1, callback=seen.append)
    for it in seen:
        elites = it.cost.argsort(dim=1, stable=True)[:, :7, None, None].expand(-1, -1, 3, 5)
        frequency = it.actions.gather(1, elites).mean(1)
        ones = torch.tensor([2.0, 2.0, 3.0, 3.0, 3.0])
        smoothed = (frequency + 0.05) / (1 + 0.05 * ones)
        expected = momentum * it.before.mean + (1 - momentum) * smoothed
        torch.testing.assert_close(it.state.mean, expected)
        assert (it.state.mean >= 0.05 / (1 + 0.05 * ones) - 1e-6).all()


def test_the_warm_start_and_the_actions_mean_are_smoothed() -> None:
    warm = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 0.0]]]).expand(B, 1, 5)
    engine = TinyEngine(5, E)
    engine.action_mean = torch.tensor([0.2, 0.2, 0.6, 0.5, 0.5])
    seen: list[Iteration] = []
    search = CategoricalCEM(20, 5, 1, categories=(3, 2), spread=0.3, smoothing=0.0)
    Planner(engine, search, 2).plan(*problem(5), generator=1, warm_start=warm, callback=seen.append)
    expected = torch.tensor([[0.1, 0.1, 0.8, 0.85, 0.15], [0.24, 0.24, 0.52, 0.5, 0.5]])
    torch.testing.assert_close(seen[0].before.mean, expected.expand(B, 2, 5))
    seen.clear()
    planner(search, 5, 2).plan(*problem(5), generator=1, callback=seen.append)
    thirds = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.5, 0.5])
    torch.testing.assert_close(seen[0].before.mean, thirds.expand(B, 2, 5))


@pytest.mark.parametrize("noise_exponent", [0.0, 1.0])
def test_an_environment_alone_plans_what_it_plans_in_a_batch(noise_exponent: float) -> None:
    obs, goal = problem(10)
    search = CategoricalCEM(
        67, 9, 5, categories=(2, 3), steps=2, noise_exponent=noise_exponent, keep=2, decay=1.2
    )
    together = planner(search, 10, 3).plan(obs, goal, generator=5)
    for b in range(B):
        one = {name: value[b : b + 1] for name, value in obs.items()}
        alone = planner(search, 10, 3).plan(one, goal[b : b + 1], generator=5, environments=[b])
        for field in ("actions", "mean", "std", "cost"):
            assert torch.equal(getattr(alone, field)[0], getattr(together, field)[b]), field


def test_a_plan_made_without_time_is_one_hot() -> None:
    """The warm start, then the likeliest category of the training actions; and proposals become one-hot."""
    engine = TinyEngine(3, E)
    engine.action_mean = torch.tensor([0.2, 0.3, 0.5])
    seen: list[Iteration] = []
    search = Planner(engine, CategoricalCEM(20, 5, 2, categories=3), 2)
    warm = torch.tensor([[[1.0, 0.0, 0.0]]]).expand(B, 1, 3)
    plan = search.plan(*problem(3), warm_start=warm, deadline=0.0)
    assert plan.stats["end"] == "fallback"
    assert plan.actions[0].tolist() == [[1, 0, 0], [0, 0, 1]]
    proposals = torch.tensor([0.1, 0.7, 0.2]).expand(B, 1, 2, 3)
    search.plan(*problem(3), generator=1, proposals=proposals, callback=seen.append)
    assert all((it.actions[:, 1] == torch.tensor([0.0, 1.0, 0.0])).all() for it in seen)


def test_one_hot_blocks_and_category_numbers() -> None:
    search = CategoricalCEM(categories=(2, 3), steps=2)
    numbers = torch.tensor([[[1, 2], [0, 0]], [[0, 1], [1, 0]]])  # [T, steps, variables]
    blocks = torch.tensor([[0, 1, 0, 0, 1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0, 1, 1, 0, 0]]).float()
    assert torch.equal(search.one_hot(numbers), blocks)
    assert torch.equal(search.numbers(blocks), numbers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": 0}, "categories is 0, expected a positive integer or several"),
        ({"categories": 2.5}, "categories is 2.5"),
        ({"categories": ()}, r"categories is \(\)"),
        ({"categories": (2, True)}, "categories is"),
        ({"categories": 2, "smoothing": -0.1}, "smoothing is -0.1"),
        ({"categories": 2, "spread": 1.5}, "spread is 1.5, expected 0 <= spread <= 1"),
        ({"categories": 2, "low": 0.0}, "low is 0.0, expected none: CategoricalCEM has no use for it"),
        ({"categories": 2, "samples": 5, "elites": 6}, "elites is 6, expected at most samples = 5"),
    ],
)
def test_options_that_make_no_search_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CategoricalCEM(**options)


def test_an_engine_of_other_actions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"categories are \(2, 3\) and steps is 1: 5 numbers .*expected 6"):
        planner(CategoricalCEM(categories=(2, 3)), 6, 2).plan(*problem(6))
