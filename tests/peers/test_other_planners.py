"""The searches against independent implementations of them: given the same draws, the same distribution."""

from __future__ import annotations

import pytest
import tiny_engine
import torch
from tiny_engine import TinyEngine
from torch import Tensor

from fastwm import CEM, MPPI, Planner
from fastwm.planning.noise import power_law

pytestmark = pytest.mark.peers

S, T, E = 64, 5, 3


def needs(package: str):  # type: ignore[no-untyped-def]
    return pytest.importorskip(
        package, reason=f"needs {package}, of the `peers` extra: make test-peers", exc_type=ImportError
    )


def problem(B: int, A: int) -> tuple[TinyEngine, Tensor, Tensor]:
    """An engine, latents [B, E] and goals [B, E]."""
    obs, goal = tiny_engine.problem(B, frames=1, A=A, E=E)
    return TinyEngine(A, E), obs["latents"][:, 0], goal


def path_cost(goal: Tensor):  # type: ignore[no-untyped-def]
    """The sum over the steps of the squared distance to the goal: [B, S]"""
    return lambda latents, actions: (latents - goal[:, None, None]).square().sum((2, 3))


def normal(*shape: int) -> Tensor:
    """Draws of which candidate 0's are 0: ours is the mean."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    noise[:, :, 0] = 0
    return noise


@pytest.mark.parametrize("bounds", [{}, {"low": -0.8, "high": 0.6}], ids=["free", "bounded"])
def test_mppi_has_the_weighted_mean_of_pytorch_mppi(
    monkeypatch: pytest.MonkeyPatch, bounds: dict[str, float]
) -> None:
    """pytorch_mppi.MPPI: the nominal actions after one command from zero, the same noise given to both."""
    pytorch_mppi = needs("pytorch_mppi")
    A, scale, temperature = 2, 1.3, 4.0
    engine, start, goal = problem(1, A)
    noise = normal(1, 1, S, T, A)
    peer = pytorch_mppi.MPPI(
        lambda state, action: state + action @ engine.matrix,
        lambda state, action: (state - goal).square().sum(-1),
        E,
        scale**2 * torch.eye(A),
        num_samples=S,
        horizon=T,
        lambda_=temperature,
        U_init=torch.zeros(T, A),
        **(
            {"u_min": torch.full((A,), bounds["low"]), "u_max": torch.full((A,), bounds["high"])}
            if bounds
            else {}
        ),
    )
    monkeypatch.setattr(peer, "_sample_noise", lambda shape: scale * noise[0, 0])
    peer.command(start[0], shift_nominal_trajectory=False)
    search = MPPI(S, 1, temperature=temperature, std=scale, **bounds)
    plan = Planner(engine, search, T, cost=path_cost(goal)).plan({"latents": start[:, None]}, noise=noise)
    assert plan.mean.abs().max() > 0.1
    torch.testing.assert_close(plan.mean[0], peer.U, rtol=0, atol=1e-5)


def test_icem_has_the_distribution_of_pytorch_icem(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch_icem.iCEM: mean and std after five iterations with elites kept and momentum, the same noise given to both."""
    pytorch_icem = needs("pytorch_icem")
    A, iterations, elites, keep = (
        1,
        5,
        10,
        4,
    )  # it takes a deviation per action only where there is one action
    engine, start, goal = problem(1, A)
    noise = normal(iterations, 1, S, T, A)
    peer = pytorch_icem.iCEM(
        lambda state, action: state + action @ engine.matrix,
        lambda states, actions: (states - goal).square().sum((1, 2)),
        E,
        A,
        sigma=torch.tensor([1.4]),
        num_samples=S,
        num_elites=elites,
        horizon=T,
        elites_keep_fraction=keep / elites,
        alpha=0.2,
        warmup_iters=iterations,
    )
    rounds = iter(noise[:, 0])

    def sample(state: Tensor, count: int) -> Tensor:
        drawn = next(rounds)
        return peer.mean + peer.std * torch.cat([drawn[:1], drawn[S - count + 1 :]])

    monkeypatch.setattr(peer, "sample_action_sequences", sample)
    peer.command(start[0], shift_nominal_trajectory=False)
    search = CEM(S, elites, iterations, keep=keep, momentum=0.2, std=1.4)
    plan = Planner(engine, search, T, cost=path_cost(goal)).plan({"latents": start[:, None]}, noise=noise)
    torch.testing.assert_close(plan.mean[0], peer.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(plan.std[0], peer.std, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("steps", [6, 15])
def test_coloured_noise_is_correlated_as_that_of_colorednoise(steps: int, exponent: float) -> None:
    """colorednoise.powerlaw_psd_gaussian, which pytorch_icem draws from: the correlation of every two steps."""
    colorednoise = needs("colorednoise")
    count = 40_000
    drawn = colorednoise.powerlaw_psd_gaussian(exponent, (count, steps), random_state=3)
    factor = power_law(steps, exponent).double()
    difference = torch.corrcoef(torch.from_numpy(drawn).T) - factor @ factor.T
    assert difference.abs().max() < 5 / count**0.5


# ---- torchrl ----


def torchrl_env(engine: TinyEngine, goal: Tensor):  # type: ignore[no-untyped-def]
    """The engine's world as an environment of TorchRL: the state's reward is minus its squared distance to the goal."""
    needs("torchrl")
    from tensordict import TensorDict
    from torchrl.data import Composite, Unbounded
    from torchrl.envs import EnvBase

    class Env(EnvBase):
        batch_locked = False

        def __init__(self) -> None:
            super().__init__()
            self.observation_spec = Composite(state=Unbounded(E), goal=Unbounded(E))
            self.state_spec = self.observation_spec.clone()
            self.action_spec = Unbounded(engine.action_dim)
            self.reward_spec = Unbounded(1)

        def _reset(self, given=None, **options):  # type: ignore[no-untyped-def]
            raise AssertionError("planning starts from a given state")

        def _step(self, given):  # type: ignore[no-untyped-def]
            state = given["state"] + given["action"] @ engine.matrix
            reward = -(state - given["goal"]).square().sum(-1, keepdim=True)
            done = torch.zeros_like(reward, dtype=torch.bool)
            found = {
                "state": state,
                "goal": given["goal"],
                "reward": reward,
                "done": done,
                "terminated": done,
            }
            return TensorDict(found, given.shape)

        def _set_seed(self, seed):  # type: ignore[no-untyped-def]
            raise AssertionError("nothing here is random")

    return Env()


def first_actions(
    planner, start: Tensor, goal: Tensor, noise: Tensor, monkeypatch: pytest.MonkeyPatch
) -> Tensor:  # type: ignore[no-untyped-def]
    """What a planner of TorchRL does first [B, A], with `noise` for its draws."""
    from tensordict import TensorDict

    rounds = iter(noise)
    given = TensorDict({"state": start, "goal": goal}, [len(start)])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, **options: next(rounds).view(shape))
        found = planner(given)["action"]
    assert next(rounds, None) is None, "all noise was taken"
    return found


@pytest.mark.parametrize("B", [1, 3])
def test_cem_has_the_mean_of_torchrl(monkeypatch: pytest.MonkeyPatch, B: int) -> None:
    """torchrl.modules.CEMPlanner: the first action of the mean after four iterations, the same noise given to both."""
    modules = needs("torchrl.modules")
    A, iterations, elites = 2, 4, 9
    engine, start, goal = problem(B, A)
    noise = normal(iterations, B, S, T, A)
    peer = modules.CEMPlanner(
        torchrl_env(engine, goal),
        planning_horizon=T,
        optim_steps=iterations,
        num_candidates=S,
        top_k=elites,
    )
    found = first_actions(peer, start, goal, noise, monkeypatch)
    search = CEM(S, elites, iterations)
    plan = Planner(engine, search, T, cost=path_cost(goal)).plan({"latents": start[:, None]}, noise=noise)
    torch.testing.assert_close(plan.mean[:, 0], found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("B", [1, 3])
def test_elite_mppi_has_the_mean_of_torchrl(monkeypatch: pytest.MonkeyPatch, B: int) -> None:
    """torchrl.modules.MPPIPlanner, its temperature an inverse one: the first action of the mean after four iterations."""
    modules = needs("torchrl.modules")
    A, iterations, elites, temperature = 2, 4, 20, 5.0
    engine, start, goal = problem(B, A)
    noise = normal(iterations, B, S, T, A)

    class Returns(torch.nn.Module):
        """The advantage of the first state: the rewards of all steps."""

        def forward(self, rollout):  # type: ignore[no-untyped-def]
            rewards = rollout["next", "reward"]
            return rollout.set("advantage", rewards.sum(-2, keepdim=True).expand_as(rewards))

    peer = modules.MPPIPlanner(
        torchrl_env(engine, goal),
        Returns(),
        temperature=1 / temperature,
        planning_horizon=T,
        optim_steps=iterations,
        num_candidates=S,
        top_k=elites,
    )
    found = first_actions(peer, start, goal, noise, monkeypatch)
    search = MPPI(S, iterations, temperature=temperature, elites=elites, refit_std=True)
    plan = Planner(engine, search, T, cost=path_cost(goal)).plan({"latents": start[:, None]}, noise=noise)
    torch.testing.assert_close(plan.mean[:, 0], found, rtol=0, atol=1e-4)
