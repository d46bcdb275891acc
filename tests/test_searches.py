"""Every search by sampling, and the options that they share."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import pytest
import tiny_engine
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engine import TinyEngine

import fastwm
from fastwm import (
    CEM,
    ICEM,
    MPPI,
    ActionPenalty,
    GoalDistance,
    GradientDescent,
    MixtureCEM,
    Planner,
    PredictiveSampling,
    RandomShooting,
    ops,
    reference,
)
from fastwm.planning import Iteration, Sampling, State
from fastwm.planning.draws import Draws
from fastwm.planning.noise import autoregressive, power_law
from fastwm.planning.search import _where

B, K, T, A, E = 3, 2, 4, 2, 5

SEARCHES: dict[str, Sampling] = {
    "cem": CEM(samples=60, elites=8, iterations=6),
    "icem": ICEM(samples=60, elites=8, iterations=6),
    "mppi": MPPI(samples=60, iterations=6, temperature=1.0),
    "elite mppi": MPPI(samples=60, iterations=6, elites=8, relative=True, refit_std=True, min_std=0.01),
    "predictive": PredictiveSampling(samples=60, iterations=6),
    "shooting": RandomShooting(samples=60, iterations=6),
    "options": CEM(
        samples=60,
        elites=8,
        iterations=6,
        keep=3,
        decay=1.3,
        tolerance=0.5,
        max_std=0.8,
        low=-0.9,
        high=1.1,
        noise_exponent=1.0,
    ),
    "gradient": GradientDescent(samples=7, iterations=30),
    "gradient, options": GradientDescent(
        samples=7, iterations=30, tolerance=0.06, trust_region=1.5, low=-0.9
    ),
    "mixture": MixtureCEM(samples=60, elites=9, iterations=6, components=3),
    "mixture, options": MixtureCEM(
        samples=60,
        elites=9,
        iterations=6,
        components=2,
        momentum=0.1,
        decay=1.3,
        tolerance=0.5,
        min_std=0.05,
        correlation=0.3,
        return_best=True,
    ),
}


def problem(batch: int = B, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return tiny_engine.problem(batch, frames=K, A=A, E=E, seed=seed)


def planner(search: Sampling, **options) -> Planner:
    return Planner(TinyEngine(A, E, **options), search, T, cost=GoalDistance() + 1.0 * ActionPenalty())


def one(obs: dict[str, torch.Tensor], b: int) -> dict[str, torch.Tensor]:
    return {name: value[b : b + 1] for name, value in obs.items()}


# ---- every search ----


@pytest.mark.parametrize("name", SEARCHES)
def test_a_plan_is_better_than_the_mean_and_no_better_than_the_optimum(name: str) -> None:
    obs, goal = problem()
    search = planner(SEARCHES[name])
    plan = search.plan(obs, goal, generator=1)
    costs = []
    for actions in (plan.actions, torch.zeros_like(plan.actions)):
        latents = search.engine.rollout(obs["latents"], actions[:, None], obs["past_actions"])
        costs.append(search.cost(latents, actions[:, None], search.goal(goal, B))[:, 0])
    _, least = search.engine.optimum(obs, goal, T, penalty=1.0)
    assert (costs[0] >= 0.999 * least).all()
    share = {"mppi": 0.8, "predictive": 0.8, "shooting": 0.9}.get(
        name, 0.5
    )  # those that do not narrow their search get less far
    assert (costs[0] - least).sum() < share * (costs[1] - least).sum()


@pytest.mark.parametrize("name", SEARCHES)
def test_what_a_deadline_ends_is_the_best_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time passes within the third iteration: what that one refits does not count, its best candidate does."""
    obs, goal = problem()
    search = planner(dataclasses.replace(SEARCHES[name], return_best=True, tolerance=0.0))
    seen: list[Iteration] = []
    search.plan(obs, goal, generator=1, callback=seen.append)
    now = [0.0]
    monkeypatch.setattr("fastwm.planning.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(TinyEngine):
        def rollout(self, *arguments, **options):  # type: ignore[no-untyped-def]
            now[0] += 100.0 if len(again) == 2 else 1.0
            return super().rollout(*arguments, **options)

    again: list[Iteration] = []
    slow = Planner(Slow(A, E), search.optimizer, T, cost=search.cost)
    cut = slow.plan(obs, goal, generator=1, deadline=10.0, callback=again.append)
    assert cut.stats["end"] == "cut"
    assert cut.iterations == 2
    assert torch.equal(cut.mean, seen[1].state.mean)
    candidates = torch.cat([it.actions for it in seen[:3]], dim=1)
    least, place = torch.cat([it.cost for it in seen[:3]], dim=1).min(dim=1)
    assert torch.equal(cut.stats["best_cost"], least)
    assert torch.equal(cut.actions, candidates[torch.arange(B), place])


@pytest.mark.parametrize("name", ["cem", "icem", "elite mppi"])
def test_a_long_search_finds_the_optimum(name: str) -> None:
    obs, goal = problem()
    search = {
        "cem": CEM(samples=400, elites=40, iterations=60, std=2.0),
        "icem": ICEM(samples=400, elites=40, iterations=60, std=2.0, decay=1.02, noise_exponent=0.5),
        "elite mppi": MPPI(400, 60, temperature=2.0, elites=40, relative=True, refit_std=True, std=2.0),
    }[name]
    plan = planner(search).plan(obs, goal, generator=1)
    optimum, _ = TinyEngine(A, E).optimum(obs, goal, T, penalty=1.0)
    assert (plan.mean - optimum).abs().max() < 0.03


@pytest.mark.parametrize("name", SEARCHES)
def test_an_environment_alone_plans_what_it_plans_in_a_batch(name: str) -> None:
    obs, goal = problem()
    search = planner(SEARCHES[name], threads=2)
    together = search.plan(obs, goal, generator=5)
    for b in range(B):
        alone = planner(SEARCHES[name]).plan(one(obs, b), goal[b : b + 1], generator=5, environments=[b])
        for field in ("actions", "mean", "std", "cost"):
            assert torch.equal(getattr(alone, field)[0], getattr(together, field)[b]), field
        assert torch.equal(alone.stats["best_cost"][0], together.stats["best_cost"][b])


@pytest.mark.parametrize("name", SEARCHES)
def test_candidates_of_no_finite_cost_change_nothing(name: str) -> None:
    """NaN for every third candidate: the plan is finite, and made of the others."""

    class Broken(fastwm.GoalDistance):
        def __call__(self, latents, actions, goal, *, threads=1):  # type: ignore[no-untyped-def]
            cost = super().__call__(latents, actions, goal, threads=threads)
            count = cost.shape[1]
            broken = torch.tensor([math.nan, math.inf, -math.inf]).repeat(count)[: len(range(0, count, 3))]
            return torch.where(torch.arange(count) % 3 == 0, broken.repeat_interleave(3)[:count], cost)

    obs, goal = problem()
    plan = Planner(TinyEngine(A, E), SEARCHES[name], T, cost=Broken()).plan(obs, goal, generator=1)
    assert plan.actions.isfinite().all()
    assert plan.std.isfinite().all()
    assert plan.cost.isfinite().all()
    assert (plan.stats["non_finite"] > 0).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_an_environment_without_a_finite_cost_is_named(name: str) -> None:
    """By an engine that takes finite actions alone, as a compiled one does, in a search of several iterations."""

    class Strict(TinyEngine):
        def rollout(self, context, actions, *arguments, **options):  # type: ignore[no-untyped-def]
            assert actions.isfinite().all()
            return super().rollout(context, actions, *arguments, **options)

    def cost(latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        broken = torch.tensor([1.0, math.nan, 1.0])[:, None]
        return broken * (latents.square().sum((-1, -2)) + actions.square().sum((-1, -2)))

    obs, _ = problem()
    with pytest.raises(RuntimeError, match=r"environment\(s\) \[1\]"):
        Planner(Strict(A, E), SEARCHES[name], T, cost=cost).plan(obs, generator=1)


@pytest.mark.parametrize("hold", [1, 2])
@pytest.mark.parametrize("noise", [{}, {"correlation": 0.5}, {"noise_exponent": 1.5}], ids=str)
def test_the_default_dtype_changes_nothing(hold: int, noise: dict) -> None:
    obs, goal = problem()
    made = planner(CEM(samples=20, elites=4, iterations=2, hold=hold, **noise))
    expected = made.plan(obs, goal, generator=1)
    autoregressive.cache_clear(), power_law.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        plan = made.plan(obs, goal, generator=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(plan.actions, expected.actions)
    assert plan.cost.dtype == torch.float32


def test_noise_beyond_float64_is_refused() -> None:
    obs, goal = problem()
    with pytest.raises(ValueError, match="expected a smaller noise_exponent"):
        planner(CEM(20, 4, 1, noise_exponent=1000.0)).plan(obs, goal)


def test_gradients_are_refused_where_there_are_none() -> None:
    obs, goal = problem()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"):
        planner(SEARCHES["gradient"]).plan(obs, goal)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(SEARCHES)),
    low=st.floats(-2, 1),
    width=st.floats(0, 2),
    seed=st.integers(0, 2**31),
)
def test_candidates_stay_within_bounds(name: str, low: float, width: float, seed: int) -> None:
    search = dataclasses.replace(SEARCHES[name], low=low, high=low + width)
    seen: list[torch.Tensor] = []
    obs, goal = problem(batch=1)
    proposals = 10 * torch.randn(1, 3, T, A, generator=torch.Generator().manual_seed(seed))
    plan = planner(search).plan(
        obs, goal, generator=seed, proposals=proposals, callback=lambda it: seen.append(it.actions)
    )
    bounds = torch.tensor([low, low + width])  # float32, as the candidates are
    for actions in (*seen, plan.actions):
        assert (actions >= bounds[0] - 1e-6).all()
        assert (actions <= bounds[1] + 1e-6).all()


# ---- options that are shared ----


def test_kept_candidates_are_tried_again() -> None:
    seen: list[Iteration] = []
    obs, goal = problem()
    planner(CEM(samples=30, elites=6, iterations=3, keep=4)).plan(
        obs, goal, generator=1, callback=seen.append
    )
    for before, after in itertools.pairwise(seen):
        best = before.cost.topk(4, largest=False).indices
        expected = before.actions.gather(1, best[:, :, None, None].expand(-1, -1, T, A))
        assert torch.equal(after.actions[:, 1:5], expected)
        assert (after.cost.amin(1) <= before.cost.amin(1)).all()


def test_the_population_decays_to_twice_the_elites() -> None:
    seen: list[Iteration] = []
    obs, goal = problem()
    search = CEM(samples=50, elites=6, iterations=9, decay=1.5)
    planner(search).plan(obs, goal, generator=1, callback=seen.append)
    assert [it.actions.shape[1] for it in seen] == [50, 33, 22, 14, 12, 12, 12, 12, 12]
    first = planner(CEM(samples=50, elites=6, iterations=1)).plan(obs, goal, generator=1)
    assert torch.equal(seen[0].state.mean, first.mean)


def test_proposals_take_the_place_of_draws() -> None:
    seen: list[Iteration] = []
    obs, goal = problem()
    optimum, _ = TinyEngine(A, E).optimum(obs, goal, T, penalty=1.0)
    search = planner(PredictiveSampling(samples=20, iterations=2))
    plan = search.plan(obs, goal, generator=1, proposals=optimum[:, None], callback=seen.append)
    assert torch.equal(plan.actions, optimum)
    for it in seen:
        assert it.actions.shape[1] == 20
        assert torch.equal(it.actions[:, 1], optimum)


def test_a_search_that_has_converged_stays_as_it_is() -> None:
    """The environment without cost never converges; the others do, and are what they are alone."""
    seen: list[Iteration] = []
    obs, goal = problem()
    search = CEM(samples=100, elites=10, iterations=40, tolerance=0.2)
    plan = planner(search).plan(obs, goal, generator=1, callback=seen.append)
    assert plan.iterations == len(seen) < 40
    ends = []
    for b in range(B):
        alone = planner(search).plan(one(obs, b), goal[b : b + 1], generator=1, environments=[b])
        assert torch.equal(alone.mean[0], plan.mean[b])
        assert alone.std.max() <= 0.2
        ends.append(alone.iterations)
    assert max(ends) == plan.iterations
    assert min(ends) < max(ends), "the environments end at different times, or this shows nothing"


def test_an_environment_that_has_converged_keeps_all_of_its_state() -> None:
    def state(value: float) -> State:
        full = torch.full((2, 1, 1), value)
        memory = (full, full[:, 0, 0] > 1.0)
        none = torch.zeros(2, dtype=torch.int64)
        return State(full, full, none[:, None], full[:, 0, 0], none, kept=full[:, None], memory=memory)

    mixed = _where(torch.tensor([True, False]), state(2.0), state(1.0))
    for field in (mixed.mean, mixed.std, mixed.elite_cost, mixed.kept, mixed.memory[0]):
        assert field.flatten().tolist() == [2.0, 1.0]
    assert mixed.memory[1].tolist() == [True, False]


def test_a_warm_start_takes_the_std_where_it_is_asked_to() -> None:
    obs, goal = problem()
    first = planner(CEM(samples=60, elites=8, iterations=3)).plan(obs, goal, generator=1)
    seen: list[Iteration] = []
    search = CEM(samples=2000, elites=8, iterations=1, warm_std=True)
    planner(search).plan(obs, goal, warm_start=first, generator=2, callback=seen.append)
    spread = seen[0].actions[:, 1:].std(1)
    assert torch.allclose(spread[:, :-1], first.std[:, 1:], rtol=0.15)
    assert torch.allclose(spread[:, -1], torch.ones(B, A), rtol=0.15)


def test_the_std_stays_below_its_ceiling() -> None:
    obs, goal = problem()
    plan = planner(CEM(samples=60, elites=30, iterations=2, std=5.0, max_std=0.25)).plan(
        obs, goal, generator=1
    )
    assert plan.std.max() == 0.25


BAD = {
    "keep": (lambda: CEM(samples=20, elites=5, keep=6), "keep is 6, expected at most elites = 5"),
    "keep all": (lambda: CEM(samples=2, elites=2, keep=2), "keep is 2, expected less than 2"),
    "keep the mean": (lambda: PredictiveSampling(samples=5, keep=2), "keep is 2, expected none"),
    "keep of shooting": (lambda: RandomShooting(samples=5, keep=2), "keep is 2, expected none"),
    "keep more than elites": (
        lambda: MPPI(samples=5, elites=2, keep=3),
        "keep is 3, expected at most elites = 2",
    ),
    "both noises": (lambda: CEM(correlation=0.5, noise_exponent=1.0), "expected one of them"),
    "decay": (lambda: CEM(decay=0.5), "decay is 0.5, expected a number of at least 1"),
    "max_std": (lambda: CEM(min_std=1.0, max_std=0.5), "max_std is 0.5, expected at least min_std = 1.0"),
    "max_std nan": (lambda: CEM(max_std=math.nan), "max_std is nan"),
    "tolerance": (lambda: CEM(tolerance=1.0), "tolerance is 1.0, expected 0 <= tolerance < 1"),
    "temperature": (lambda: MPPI(temperature=0.0), "temperature is 0.0, expected a positive number"),
    "mppi elites": (lambda: MPPI(samples=5, elites=6), "elites is 6, expected at most samples = 5"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_what_makes_no_search_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_noise_is_correlated_over_the_environment_steps_of_all_blocks(steps: int) -> None:
    """Steps inside a block are as far apart as steps of two blocks; numbers of one step are independent."""
    blocks, wide = 2, 12
    search = CEM(correlation=0.8, steps=steps)
    zero, one = torch.zeros(1, blocks, wide), torch.ones(1, blocks, wide)
    drawn = search.draw(zero, one, 40_001, Draws(3, torch.arange(1)), 0)[0, 1:]
    rows = drawn.view(-1, blocks * steps, wide // steps).double()  # [S, environment steps, numbers of one]
    apart = (torch.arange(blocks * steps)[:, None] - torch.arange(blocks * steps)).abs()
    for number in range(wide // steps):
        covariance = torch.cov(rows[:, :, number].T).view_as(apart)
        assert (covariance - 0.8**apart).abs().max() < 5 * math.sqrt(2 / 40_000)
    if wide > steps:
        assert (rows[:, :, 0] * rows[:, :, 1]).mean(0).abs().max() < 5 / math.sqrt(40_000)


@pytest.mark.parametrize("hold", [2, 3, 4, 100])
@pytest.mark.parametrize("options", [{}, {"correlation": 0.6}, {"noise_exponent": 1.0}])
def test_held_draws_are_repeated_and_otherwise_what_they_were(hold: int, options: dict) -> None:
    """3 blocks of 2 steps: runs of `hold` steps share one draw; draws are correlated as those of as many steps without."""
    search = CEM(steps=2, hold=hold, **options)
    zero, one = torch.zeros(1, 3, 4), torch.ones(1, 3, 4)
    drawn = search.draw(zero, one, 20_001, Draws(3, torch.arange(1)), 0)[0, 1:].view(-1, 6, 2)
    runs = drawn.split(hold, dim=1)
    for run in runs:
        assert torch.equal(run, run[:, :1].expand_as(run))
    first = torch.stack([run[:, 0] for run in runs], dim=1).double()  # [S, draws, 2]
    factor = CEM(**options).factor(len(runs)) if options else torch.eye(len(runs))
    assert factor is not None
    expected = (factor @ factor.T).double()
    for number in range(2):
        covariance = torch.cov(first[:, :, number].T).view_as(expected)
        assert (covariance - expected).abs().max() < 5 * math.sqrt(2 / 20_000)


def test_a_held_draw_moves_around_a_mean_that_is_not_held() -> None:
    mean = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    search = CEM(steps=2, hold=2, low=-9.0, high=9.0)
    drawn = search.draw(mean, torch.ones(1, 3, 4), 50, Draws(3, torch.arange(1)), 0)
    noise = (drawn - mean[:, None]).view(50, 3, 2, 2)
    torch.testing.assert_close(noise[:, :, 0], noise[:, :, 1])
    assert torch.equal(drawn[:, 0], mean)
    assert noise[1:].abs().min() > 0


def test_steps_that_do_not_divide_a_block_are_refused() -> None:
    with pytest.raises(
        ValueError, match="steps is 3, expected a divisor of 2, the numbers in an action block"
    ):
        planner(CEM(steps=3)).plan(*problem())


# ---- the update of MPPI ----


def test_mppi_weighs_candidates_by_their_cost() -> None:
    random = torch.Generator().manual_seed(0)
    actions, cost = torch.randn(B, 40, T, A, generator=random), 1e3 * torch.rand(B, 40, generator=random)
    state = MPPI().start(torch.zeros(B, T, A), torch.ones(B, T, A))
    weights = torch.softmax(-cost.double() / 50.0, 1)[:, :, None, None]
    mean = (weights * actions).sum(1)
    found = MPPI(samples=40, temperature=50.0).update(state, actions, cost)
    torch.testing.assert_close(found.mean, mean.float())
    assert torch.equal(found.std, state.std)
    found = MPPI(samples=40, temperature=50.0, refit_std=True).update(state, actions, cost)
    expected = (weights * (actions - mean[:, None]).square()).sum(1).sqrt()
    torch.testing.assert_close(found.std, expected.float())


def test_mppi_carries_its_distribution_on() -> None:
    random = torch.Generator().manual_seed(0)
    actions, cost = torch.randn(B, 40, T, A, generator=random), torch.rand(B, 40, generator=random)
    plain, carried = (MPPI(40, temperature=0.1, refit_std=True, momentum=m) for m in (0.0, 0.25))
    state = plain.start(torch.full((B, T, A), 3.0), torch.full((B, T, A), 2.0))
    new, mixed = plain.update(state, actions, cost), carried.update(state, actions, cost)
    torch.testing.assert_close(mixed.mean, 0.25 * state.mean + 0.75 * new.mean)
    torch.testing.assert_close(mixed.std, 0.25 * state.std + 0.75 * new.std)


@pytest.mark.parametrize("search", [PredictiveSampling, RandomShooting])
def test_momentum_is_refused_where_there_is_none(search) -> None:
    with pytest.raises(ValueError, match=r"momentum is 0\.5, expected none"):
        search(momentum=0.5)


def test_mppi_of_costs_that_overflow_an_exponential() -> None:
    actions = torch.arange(4.0).view(1, 4, 1, 1)
    state = MPPI().start(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    found = MPPI(samples=4, temperature=1e-3).update(
        state, actions, torch.tensor([[1e30, 3.0, 3.0, math.inf]])
    )
    assert found.mean.item() == 1.5


# ---- noise ----


@pytest.mark.parametrize("T", [1, 2, 5, 12, 25])
def test_autoregressive_noise_has_its_covariance(T: int) -> None:
    factor = autoregressive(T, 0.7).double()
    expected = 0.7 ** (torch.arange(T)[:, None] - torch.arange(T)).abs().double()
    assert (factor @ factor.T - expected).abs().max() < 1e-6


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("T", [2, 5, 12, 25])
def test_coloured_noise_has_its_spectrum(T: int, exponent: float) -> None:
    """The power of every frequency, exactly, and unit variance at every step."""
    factor = power_law(T, exponent).double()
    covariance = factor @ factor.T
    assert (covariance.diagonal() - 1).abs().max() < 1e-5
    waves = torch.fft.fft(torch.eye(T, dtype=torch.complex128), norm="ortho")
    power = (waves @ covariance.to(torch.complex128) @ waves.conj().T).diagonal().real
    frequency = torch.fft.fftfreq(T, dtype=torch.float64).abs()
    slope = (power[1:] / power[1]) * (frequency[1:] / frequency[1]) ** exponent
    assert (slope - 1).abs().max() < 1e-4
    assert power[0] == pytest.approx(power[1].item(), rel=1e-4)


@pytest.mark.parametrize("noise", [autoregressive(7, 0.6), power_law(7, 2.0)], ids=["autoregressive", "red"])
def test_candidates_have_the_noise_of_the_factor(isa: str, noise: torch.Tensor) -> None:
    zero, one = torch.zeros(1, 7, 2), torch.ones(1, 7, 2)
    drawn = ops.cem_sample(zero, one, 100_000, 3, 0, factor=noise, isa=isa)
    assert torch.equal(drawn[:, :50], reference.cem_sample(zero, one, 50, 3, 0, factor=noise))
    rows = drawn[0, 1:].double()
    expected = noise.double() @ noise.double().T
    assert (torch.cov(rows[:, :, 0].T) - expected).abs().max() < 5 * math.sqrt(2 / 100_000)
    assert (rows[:, :, 0] * rows[:, :, 1]).mean(0).abs().max() < 5 / math.sqrt(100_000)
