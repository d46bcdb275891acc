"""The drop-in solvers against stable-worldmodel's own: the same seed, the same plans. In whichever generation is installed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip(
    "stable_worldmodel", reason="needs the `peers` extra: make test-peers", exc_type=ImportError
)

import gymnasium
import numpy as np
import torch
from real_lewm import SIZES, build
from stable_worldmodel.policy import PlanConfig
from swm import MAIN, OPTIONS, callbacks, cost_of, info_of, keyword, one_by_one, ready, solvers, space
from torch import Tensor, nn

import fastwm
from fastwm.integrations import stable_worldmodel as ours

pytestmark = pytest.mark.peers

A = SIZES["small"]["A"]
NAMES = list(OPTIONS)
LOGGER = "fastwm.integrations.stable_worldmodel.compiled"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch's threads wait for each other on a busy machine, at these sizes for most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(**SIZES["small"])


def same(ours: Any, theirs: Any, atol: float = 1e-4) -> None:
    """Values, types, dtypes, devices and shapes, through lists and dicts."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for name in theirs:
            same(ours[name], theirs[name], atol)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, atol)
    elif isinstance(theirs, Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=atol)  # and dtype, device
    else:
        assert ours == pytest.approx(theirs, rel=1e-5, abs=atol)


def warm(name: str, plan: Tensor) -> dict[str, Any]:
    """All blocks of a plan but the first, where the solver takes any."""
    return {} if name == "CategoricalCEMSolver" else {"init_action": plan[:, 1:]}


# ---- the same plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (3, 1), (3, 2), (3, 8)])
def test_two_plans_one_after_another(model: Any, name: str, n: int, batch_size: int) -> None:
    """The second begins where the first ended: its actions, and the random stream."""
    cost = cost_of(model)
    theirs = ready(solvers, name, one_by_one(cost), n, A, batch_size=batch_size)
    fast = ready(ours, name, cost, n, A, batch_size=batch_size)
    first = theirs.solve(info_of(n, A))
    same(fast.solve(info_of(n, A)), first)
    again = warm(name, first["actions"])
    same(fast(info_of(n, A, seed=1), **again), theirs(info_of(n, A, seed=1), **again))
    assert torch.equal(fast.torch_gen.get_state(), theirs.torch_gen.get_state())
    assert fast.engine is not None


def test_groups_of_batches_change_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments that are searched at once: a matter of memory alone."""
    plans = []
    for at_once in (1, 4, 64):
        monkeypatch.setattr("fastwm.integrations.stable_worldmodel.solver.ENVIRONMENTS_AT_ONCE", at_once)
        plans.append(ready(ours, "CEMSolver", cost_of(model), 7, A, batch_size=2).solve(info_of(7, A)))
    same(plans[1], plans[0], atol=0.0)
    same(plans[2], plans[0], atol=0.0)


def test_every_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    monkeypatch.setenv("FASTWM_ISA", isa)
    fast, theirs = (ready(module, "CEMSolver", cost_of(model), 2, A) for module in (ours, solvers))
    same(fast.solve(info_of(2, A)), theirs.solve(info_of(2, A)))


@pytest.mark.parametrize("name", NAMES)
def test_action_blocks_and_fewer_environments(name: str) -> None:
    model = build(**{**SIZES["small"], "A": 6})
    plans = []
    for module in (ours, solvers):
        solver = ready(module, name, cost_of(model), 5, 6, block=3)
        assert (solver.n_envs, solver.horizon) == (5, 4)
        plans.append([solver.solve(info_of(n, 6)) for n in (2, 5, 1)])
        assert module is solvers or solver.engine is not None
    same(*plans)
    assert plans[0][0]["actions"].shape == (2, 4, 3 if name == "CategoricalCEMSolver" else 6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("K", [2, 3, 4])
def test_history(model: Any, name: str, K: int) -> None:
    """Several frames, also more than the window of 3 reaches."""
    fast, theirs = (ready(module, name, cost_of(model), 2, A, T=5) for module in (ours, solvers))
    same(fast.solve(info_of(2, A, K=K)), theirs.solve(info_of(2, A, K=K)))
    same(fast.solve(info_of(2, A, K=1)), theirs.solve(info_of(2, A, K=1)))
    assert fast.engine is not None


def test_a_window_of_one_frame() -> None:
    model = build(**SIZES["one head"])
    fast, theirs = (ready(module, "CEMSolver", cost_of(model), 2, 1, T=5) for module in (ours, solvers))
    same(fast.solve(info_of(2, 1, K=3, seed=1)), theirs.solve(info_of(2, 1, K=3, seed=1)))
    assert fast.engine is not None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ICEMSolver", {"return_mean": False}),
        ("ICEMSolver", {"n_elite_keep": 0, "alpha": 0.0, "noise_beta": 0.0}),
        ("ICEMSolver", {"n_elite_keep": 20}),
        ("MPPISolver", {"topk": None}),
        ("MPPISolver", {"topk": 300}),
        ("CEMSolver", {"topk": 48}),
        ("CategoricalCEMSolver", {"smoothing": 0.0, "alpha": 0.0}),
    ],
)
def test_settings(model: Any, name: str, options: dict[str, Any]) -> None:
    fast, theirs = (ready(module, name, cost_of(model), 2, A, **options) for module in (ours, solvers))
    same(fast.solve(info_of(2, A)), theirs.solve(info_of(2, A)))


def test_settings_may_change_between_plans(model: Any) -> None:
    fast, theirs = (ready(module, "CEMSolver", cost_of(model), 1, A) for module in (ours, solvers))
    for solver in (fast, theirs):
        solver.num_samples, solver.topk, solver.n_steps = 30, 5, 3
    same(fast.solve(info_of(1, A)), theirs.solve(info_of(1, A)))


def test_a_first_mean_outside_the_bounds(model: Any) -> None:
    """iCEM's momentum carries it on, candidates are clipped all the same."""
    begin = {"init_action": torch.full((1, 2, A), 3.0)}
    fast, theirs = (ready(module, "ICEMSolver", cost_of(model), 1, A) for module in (ours, solvers))
    same(fast.solve(info_of(1, A), **begin), theirs.solve(info_of(1, A), **begin))


def test_icem_of_one_block_and_cem_of_one_elite(model: Any) -> None:
    """Theirs has an IndexError for the first, and a NaN for the std of the second, of which its actions are then the mean."""
    plan = ready(ours, "ICEMSolver", cost_of(model), 1, A, T=1).solve(info_of(1, A))
    assert plan["actions"].isfinite().all()
    fast, theirs = (ready(module, "CEMSolver", cost_of(model), 1, A, topk=1) for module in (ours, solvers))
    plan, expected = fast.solve(info_of(1, A)), theirs.solve(info_of(1, A))
    same(plan["actions"], expected["actions"])
    assert torch.equal(plan["var"][0], torch.zeros(1, 4, A))


def test_what_else_their_encoder_reads(model: Any) -> None:
    """Bytes are cast, the last goal frame counts, and "goal_pixels" goes before "goal"."""
    info = info_of(2, A)
    info["pixels"] = (info["pixels"] * 40).abs().to(torch.uint8)
    info["goal_pixels"] = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    info["goal_id"] = torch.arange(2)
    fast, theirs = (ready(module, "CEMSolver", cost_of(model), 2, A) for module in (ours, solvers))
    same(fast.solve(info), theirs.solve(info))
    assert fast.engine is not None


@pytest.mark.skipif(not MAIN, reason="objectives are of the main branch")
def test_objectives(model: Any) -> None:
    from stable_worldmodel.planning import ControlPenalty, GoalMSE, ShootingCostEvaluator, WeightedSum

    terms = [
        (0.5, GoalMSE(reduction="mean")),
        (2.0, WeightedSum([(1.0, GoalMSE()), (0.1, ControlPenalty())])),
    ]
    for objective in (GoalMSE(reduction="mean"), WeightedSum(terms)):
        cost = ShootingCostEvaluator(model, objective)
        fast, theirs = (ready(module, "CEMSolver", cost, 2, A, batch_size=2) for module in (ours, solvers))
        same(fast.solve(info_of(2, A)), theirs.solve(info_of(2, A)))
        assert fast.engine is not None


def test_narrow_engine(model: Any) -> None:
    """Not their plans, but plans as good: judged by their own cost."""
    cost = cost_of(model)
    fast, theirs = (
        ready(ours, "CEMSolver", cost, 1, A, dtype="bfloat16"),
        ready(solvers, "CEMSolver", cost, 1, A),
    )
    assert fast.engine.dtype == "bfloat16"
    assert fast.solve(info_of(1, A))["costs"] == pytest.approx(theirs.solve(info_of(1, A))["costs"], rel=0.05)


# ---- callbacks -------------------------------------------------------------------------------------------------------------


class Everything(callbacks.Callback):
    """Keeps all that it is told."""

    def compute(self, **state: Any) -> dict[str, Any]:
        return copy.deepcopy(state)


@pytest.mark.parametrize("name", ["CEMSolver", "ICEMSolver", "CategoricalCEMSolver"])
def test_callbacks(model: Any, name: str) -> None:
    kinds = [callbacks.BestCostRecorder, callbacks.MeanCostRecorder, callbacks.EliteCostRecorder, Everything]
    if name != "CategoricalCEMSolver":
        kinds += [callbacks.VarNormRecorder, callbacks.MeanShiftRecorder, callbacks.EliteSpreadRecorder]
    cost = cost_of(model)
    found = []
    for module, given in ((ours, cost), (solvers, one_by_one(cost))):
        made = [kind("none") for kind in kinds]
        solver = ready(module, name, given, 3, A, batch_size=2, callbacks=made)
        solver.solve(info_of(3, A))
        found.append(solver.solve(info_of(3, A)))  # a callback starts anew with each solve
        assert module is solvers or solver.engine is not None
    same(*found)
    history = found[0]["callbacks"]["Everything"]
    assert [len(batch) for batch in history] == [5, 5]
    assert len(history[1][0]["costs"]) == 1


# ---- costs that the engine does not know -----------------------------------------------------------------------------------


class Toy:
    """A cost with levels, so that candidates tie, that reads tensors, arrays and lists."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))
        self.seen: list[dict[str, Any]] = []

    def parameters(self) -> Any:
        return iter([self.weight])

    def get_cost(self, info: dict[str, Any], actions: Tensor) -> Tensor:
        assert actions.dtype == self.weight.dtype
        self.seen.append(
            {k: getattr(v, "shape", v) for k, v in info.items()} | {"dtype": info["pixels"].dtype}
        )
        target = info["pixels"][..., 0, 0, 0, 0] + torch.as_tensor(info["id"])
        distance = (actions - target[..., None, None]).square().sum((2, 3))
        return (4 * distance).round() / 4


class ToyActor(Toy):
    """With an actor for the blocks that a warm start does not reach."""

    def get_action(self, info: dict, horizon: int = 1, prefix_actions: Tensor | None = None) -> Tensor:
        begun = 0 if prefix_actions is None else prefix_actions.shape[1]
        return torch.full((len(info["id"]), horizon, A), 0.1 * begun + 0.3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [Toy, ToyActor])
def test_any_cost(name: str, kind: type[Toy], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    toys, found = [kind(), kind()], []
    for module, toy in zip((ours, solvers), toys, strict=True):
        solver = ready(module, name, toy, 3, A, batch_size=2)
        first = solver.solve(info_of(3, A))
        found.append([first, solver.solve(info_of(2, A), **warm(name, first["actions"][:2]))])
    same(*found, atol=1e-6)
    assert toys[0].seen == toys[1].seen
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert "get_cost" in line
    assert kind.__name__ in line


@pytest.mark.parametrize("name", ["CEMSolver", "MPPISolver", "CategoricalCEMSolver"])
def test_double_precision(name: str) -> None:
    """Drawn in the model's dtype, searched in float32."""
    fast, theirs = (ready(module, name, Toy(torch.float64), 2, A) for module in (ours, solvers))
    same(fast.solve(info_of(2, A)), theirs.solve(info_of(2, A)))


def test_bfloat16_models_run_on_the_engine(model: Any) -> None:
    """Drawn in bfloat16, searched in float32: plans as good by their cost, which rounds more. Theirs needs autocast."""
    cost = cost_of(copy.deepcopy(model).to(torch.bfloat16))
    for name in NAMES:
        with torch.autocast("cpu", torch.bfloat16):
            fast = ready(ours, name, cost, 1, A)
            plan = fast.solve(info_of(1, A))
            assert fast.engine is not None
            if name != "ICEMSolver":  # theirs has no Fourier transform of bfloat16
                expected = ready(solvers, name, cost, 1, A).solve(info_of(1, A))
                assert plan["actions"].dtype == expected["actions"].dtype
                assert plan["costs"] == pytest.approx(expected["costs"], rel=0.05)


def changed(model: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    model = copy.deepcopy(model)
    if how == "subclass":
        model.__class__ = type("Mine", (type(model),), {})
    elif how == "training":
        model.training = True  # its parts' are not, so that it still has one cost
    elif how == "replaced method":
        encode = model.encode
        model.encode = lambda info: encode(info)
    elif how == "another version":  # their code is not what it was: only the numbers tell
        rollout = type(model).rollout

        def other(self: Any, info: dict, actions: Tensor) -> dict:
            info = rollout(self, info, actions)
            info["predicted_emb"] = 1.5 * info["predicted_emb"]
            return info

        monkeypatch.setattr(type(model), "rollout", other)
    return model


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("subclass", "Mine"),
        ("training", "eval()"),
        ("replaced method", "encode was replaced"),
        ("another version", "another version"),
    ],
)
def test_a_changed_model_runs_through_get_cost(
    model: Any, how: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cost = cost_of(changed(model, how, monkeypatch))
    fast, theirs = (ready(module, "CEMSolver", cost, 1, A) for module in (ours, solvers))
    for seed in (0, 1):
        same(fast.solve(info_of(1, A, seed=seed)), theirs.solve(info_of(1, A, seed=seed)))
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert why in line
    with pytest.raises(ValueError, match="asked for"):
        ready(ours, "CEMSolver", cost, 1, A, backend="cpu").solve(info_of(1, A))


def test_weights_that_change_are_compiled_again(model: Any) -> None:
    model = copy.deepcopy(model)
    fast, theirs = (ready(module, "CEMSolver", cost_of(model), 1, A) for module in (ours, solvers))
    before = fast.solve(info_of(1, A))
    same(before, theirs.solve(info_of(1, A)))
    with torch.no_grad():
        model.predictor.pos_embedding += torch.randn(model.predictor.pos_embedding.shape)
    after = fast.solve(info_of(1, A))
    same(after, theirs.solve(info_of(1, A)))
    assert fast.engine is not None
    assert abs(after["costs"][0] - before["costs"][0]) > 1e-3


# ---- accelerate ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_goes_on_where_theirs_is(model: Any, name: str) -> None:
    theirs = ready(solvers, name, cost_of(model), 2, A, n_steps=4)
    theirs.solve(info_of(2, A))
    fast = ours.accelerate(theirs, threads=1)
    assert type(fast) is getattr(ours, name)
    assert fast.engine.threads == 1
    same(fast.solve(info_of(2, A, seed=1)), theirs.solve(info_of(2, A, seed=1)))


def test_accelerate_keeps_callbacks_and_an_unconfigured_solver(model: Any) -> None:
    recorder = callbacks.BestCostRecorder()
    theirs = solvers.ICEMSolver(**{keyword(): cost_of(model)}, alpha=0.4, callbacks=[recorder], batch_size=3)
    fast = ours.accelerate(theirs)
    assert fast.callbacks == [recorder]
    assert (fast.alpha, fast.batch_size, fast.noise_beta) == (0.4, 3, 2.0)
    with pytest.raises(RuntimeError, match="not configured"):
        fast.solve(info_of(1, A))


class Goal(gymnasium.Wrapper):
    """The goal image: the negative of the first observation."""

    def reset(self, **options: Any) -> Any:
        obs, info = self.env.reset(**options)
        self.goal = 255 - info["pixels"]
        return obs, {**info, "goal": self.goal}

    def step(self, action: Any) -> Any:
        *rest, info = self.env.step(action)
        return (*rest, {**info, "goal": self.goal})


def test_their_evaluation_takes_the_same_actions() -> None:
    """World.evaluate over two environments of two rooms, with the policy as it is and accelerated."""
    from stable_worldmodel import World
    from stable_worldmodel.policy import WorldModelPolicy

    model = build(**{**SIZES["small"], "A": 4})
    history = {"history_len": 2} if MAIN else {}

    def scale(image: Any) -> Tensor:
        return torch.as_tensor(image).float() / 127 - 1

    def evaluate(accelerated: bool) -> tuple[list[np.ndarray], dict]:
        solver = solvers.CEMSolver(**{keyword(): cost_of(model)}, num_samples=32, n_steps=3, topk=6)
        config = PlanConfig(horizon=4, receding_horizon=2, action_block=2, **history)
        policy = WorldModelPolicy(solver, config, transform={"pixels": scale, "goal": scale})
        if accelerated:
            policy = ours.accelerate(policy, backend="cpu")  # a cost that is not on the engine would raise
        world = World(
            "swm/TwoRoom-v1", num_envs=2, image_shape=(8, 8), max_episode_steps=10, extra_wrappers=[Goal]
        )
        world.set_policy(policy)
        taken, act = [], policy.get_action

        def record(info: dict, **options: Any) -> np.ndarray:
            taken.append(act(info, **options).copy())
            return taken[-1]

        policy.get_action = record
        results = world.evaluate(episodes=3, seed=0)
        world.close()
        return taken, results

    (theirs, results), (fast, fast_results) = evaluate(False), evaluate(True)
    assert len(fast) == len(theirs) >= 10
    np.testing.assert_allclose(fast, theirs, rtol=0, atol=1e-4)
    assert np.ptp(theirs) > 0.1
    assert fast_results["success_rate"] == results["success_rate"]


def test_their_protocol(model: Any) -> None:
    for name in NAMES:
        assert isinstance(ready(ours, name, cost_of(model), 1, A), solvers.Solver)


def test_the_code_on_the_page() -> None:
    from docs_code import ROOT, run

    if MAIN:
        pytest.skip("the page's code is for the release")
    run(ROOT / "docs" / "stable_worldmodel.md")


# ---- wrong inputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"cost": None, "model": None}, TypeError, "cost"),
        ({"cost": Toy(), "model": Toy()}, TypeError, "cost"),
        ({"dtype": "float16"}, ValueError, "dtype is 'float16'"),
        ({"backend": "gpu"}, ValueError, "backend is 'gpu'"),
        ({"threads": 0}, ValueError, "threads is 0"),
    ],
)
def test_wrong_settings(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ours.CEMSolver(**{"cost": Toy(), **options})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CEMSolver", {"topk": 49}, "topk is 49, expected 1 <= topk <= num_samples = 48"),
        ("CEMSolver", {"n_steps": 0}, "n_steps is 0"),
        ("CEMSolver", {"batch_size": 0}, "batch_size is 0"),
        ("ICEMSolver", {"alpha": 1.0}, "alpha is 1.0"),
        ("ICEMSolver", {"n_elite_keep": -1}, "n_elite_keep is -1"),
        ("MPPISolver", {"temperature": 0.0}, "temperature is 0.0"),
        ("CategoricalCEMSolver", {"smoothing": -1.0}, "smoothing is -1.0"),
    ],
)
def test_settings_that_cannot_search(model: Any, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready(ours, name, cost_of(model), 1, A, **options).solve(info_of(1, A))


def without(name: str) -> dict[str, Any]:
    info = info_of(2, A)
    del info[name]
    return info


@pytest.mark.parametrize(
    ("info", "more", "kind", "message"),
    [
        ({}, {}, ValueError, "no environment"),
        (without("pixels"), {}, ValueError, "'pixels'"),
        (without("goal"), {}, ValueError, "'goal'"),
        (info_of(2, A) | {"pixels": np.zeros((2, 1, 3, 8, 8))}, {}, TypeError, "pixels'\\] is ndarray"),
        (info_of(2, A) | {"pixels": torch.zeros(2, 3, 8, 8)}, {}, ValueError, "\\(2, 3, 8, 8\\)"),
        (info_of(2, A) | {"goal": torch.full((2, 1, 3, 8, 8), np.nan)}, {}, ValueError, "goal.*finite"),
        (info_of(2, A) | {"goal": torch.zeros(3, 1, 3, 8, 8)}, {}, ValueError, "3 environments, expected 2"),
        (info_of(2, A), {"init_action": torch.zeros(2, 5, A)}, ValueError, "init_action has shape"),
        (info_of(2, A), {"init_action": torch.zeros(3, 2, A)}, ValueError, "init_action has shape"),
        (info_of(2, A), {"init_action": np.zeros((2, 2, A))}, TypeError, "init_action is ndarray"),
    ],
)
def test_wrong_information(
    model: Any, info: dict[str, Any], more: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        ready(ours, "CEMSolver", cost_of(model), 2, A).solve(info, **more)


def test_history_that_does_not_fit(model: Any) -> None:
    solver = ready(ours, "CEMSolver", cost_of(model), 1, A, T=2)
    info = info_of(1, A, K=3)
    info.pop("action_history", None)
    kind, message = (TypeError, "action_history.*is NoneType") if MAIN else (ValueError, "horizon is 2")
    with pytest.raises(kind, match=message):
        solver.solve(info)
    if MAIN:
        with pytest.raises(ValueError, match=r"action_history.*\(1, 1, 2\), expected \(1, 2, 2\)"):
            solver.solve(info | {"action_history": torch.zeros(1, 1, A)})


def test_actions_of_another_size(model: Any) -> None:
    with pytest.raises(ValueError, match="expected the model's 2"):
        ready(ours, "CEMSolver", cost_of(model), 1, 3).solve(info_of(1, 3))


class Bad:
    """A cost that returns whatever it is given."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def get_cost(self, info: dict, actions: Tensor) -> Any:
        return self.result


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (1.0, TypeError, "get_cost returned float"),
        (torch.zeros(1, 3), ValueError, "get_cost returned shape"),
        (torch.full((1, 48), torch.nan), RuntimeError, "every candidate"),
    ],
)
def test_costs_that_are_none(result: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ready(ours, "CEMSolver", Bad(result), 1, A).solve(info_of(1, A))
    with pytest.raises(TypeError, match="no get_cost"):
        ready(ours, "CEMSolver", object(), 1, A).solve(info_of(1, A))


def test_spaces(model: Any) -> None:
    with pytest.raises(TypeError, match="Discrete"):
        ours.CategoricalCEMSolver(cost_of(model)).configure(
            action_space=space("CEMSolver", 1, A), n_envs=1, config=PlanConfig(1, 1)
        )


def test_accelerate_refuses_what_it_does_not_know(model: Any) -> None:
    class Mine(solvers.CEMSolver):
        pass

    given = {keyword(): cost_of(model)}
    for thing in (
        solvers.GradientSolver(**given, n_steps=1),
        Mine(**given),
        ours.CEMSolver(**given),
        object(),
    ):
        with pytest.raises(TypeError, match="solver_or_policy is"):
            ours.accelerate(thing)


# ---- the recommended search in a solver's place ---------------------------------------------------------------------------


def test_the_recommended_search_is_the_planners(model: Any) -> None:
    n, T = 3, 6
    config = PlanConfig(horizon=T, receding_horizon=1, action_block=1)
    solver = ours.RecommendedSolver(
        **{keyword(): cost_of(model)}, low=-0.8, high=1.2, dtype="float32", threads=1
    )
    solver.configure(action_space=space("CEMSolver", n, A), n_envs=n, config=config)
    info = info_of(n, A)
    found = solver(info)
    assert found["actions"].shape == (n, T, A) == (solver.n_envs, solver.horizon, solver.action_dim)
    assert ((found["actions"] >= -0.8) & (found["actions"] <= 1.2)).all()
    engine = fastwm.compile(model, dtype="float32", threads=1)
    planner = fastwm.Planner.recommended(engine, low=-0.8, high=1.2, horizon=T, seed=1234)
    expected = planner.plan({"pixels": info["pixels"]}, {"pixels": info["goal"]})
    assert torch.equal(found["actions"], expected.actions)
    rest = solver.solve(info, found["actions"][:, 1:])
    again = planner.plan({"pixels": info["pixels"]}, {"pixels": info["goal"]}, warm_start=expected)
    assert torch.equal(rest["actions"], again.actions)


def test_the_recommended_search_needs_the_engine() -> None:
    with pytest.raises(ValueError, match="the engine cannot plan with this cost"):
        ours.RecommendedSolver(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="and not both"):
        ours.RecommendedSolver()
