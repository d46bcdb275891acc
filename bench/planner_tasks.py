"""What plans in which task: searches with their budgets, and the closed loop that they run in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fastwm
from fastwm import (
    CEM,
    ICEM,
    MPPI,
    CategoricalCEM,
    GoalDistance,
    GradientDescent,
    MixtureCEM,
    Planner,
    PredictiveSampling,
    RandomShooting,
)
from fastwm.engine.engine import Engine
from fastwm.envs import world
from fastwm.evaluation import Policy
from fastwm.models import WorldModel
from fastwm.planning import Plan, Sampling, WarmStart

from .planner_worlds import Disc, FunctionWorld, Grid, Pendulum

PUBLISHED, PLAIN = "CEM as published", "plain"
BASELINE = (300, 30)  # candidates and iterations
ELITES = 10  # a published CEM refits to one candidate in as many


@dataclasses.dataclass(frozen=True)
class Way:
    """A planner of a task: one point of its method's line. engine: "" where the dynamics are a function."""

    method: str
    samples: int
    iterations: int
    make: Callable[[], Planner]
    engine: str = ""

    @property
    def name(self) -> str:
        return f"{self.method}, {self.samples} × {self.iterations}" + (
            f", {self.engine}" if self.engine else ""
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """A world with its ways. measure: "success" or "return". executed: blocks of a plan, before the next one.

    baseline: the name of the way that the others are compared with. timed: the same on other engines, first PyTorch's, of which
    times alone are measured: a planner that takes seconds for a plan takes hours for as many episodes.
    """

    name: str
    about: str
    measure: str
    world: Any
    ways: list[Way]
    baseline: str
    timed: tuple[Way, ...] = ()
    executed: int = 1
    pixels: bool = False  # what is seen; else states


class Loop(Policy):
    """Plans every `executed` blocks, as an `Agent` does: from what is left of the plan before, with the candidates kept.

    After an evaluation `candidates` holds how many each plan tried, in one environment.
    """

    def __init__(self, planner: Planner, name: str, *, executed: int = 1, sees_states: bool = True) -> None:
        self.name, self.sees_states = name, sees_states
        self._planner, self._executed = planner, executed

    def begin(self, goal: NDArray[Any], seed: int, first: int = 0) -> None:
        self._seed, self._goal = seed, self._planner.engine.encode(goal)[:, 0]
        self._places: NDArray[np.int64] | None = None  # of the episodes in the last plan
        self._last: Plan | None = None
        self.candidates: list[int] = []

    def act(self, decision: int, episodes: NDArray[np.int64], seen: NDArray[Any]) -> NDArray[np.float32]:
        which = torch.as_tensor(episodes)
        seed = int(np.random.default_rng((self._seed, decision)).integers(2**63))
        plan = self._planner.plan(
            seen,
            self._goal[which],
            warm_start=self._rest(episodes),
            generator=seed,
            environments=which,
        )
        search = self._planner.optimizer
        self.candidates.append(sum(search.population(i) for i in range(plan.iterations)))
        self._last, self._places = plan, episodes
        return plan.actions[:, : self._executed].flatten(1).numpy()

    def _rest(self, episodes: NDArray[np.int64]) -> WarmStart | None:
        """Of the episodes that go on, which are some of the last plan's."""
        if self._last is None or self._places is None:
            return None
        rows = torch.as_tensor(np.searchsorted(self._places, episodes))
        mean, std, kept = self._last.rest(self._executed)
        return WarmStart(mean[rows], std[rows], None if kept is None else kept[rows])


# ---- the searches ------------------------------------------------------------------------------------------------------------


def searches(method: str, samples: int, elites: int, iterations: int, **common: Any) -> Sampling:
    """A search by the name of its method; common: the options of drawing candidates.

    A mixture refits to at least 8 elites, as it has four components.
    """
    drawn = {k: v for k, v in common.items() if k != "min_std"}  # for searches that do not refit it
    if method == "CEM":
        return CEM(samples, elites, iterations, **common)
    if method == "iCEM":
        red = {"noise_exponent": 2.0} | common
        return ICEM(samples, elites, iterations, keep=min(5, elites), **red)
    if method == "MPPI":
        return MPPI(samples, iterations, temperature=0.3, relative=True, **drawn)
    if method == "predictive sampling":
        return PredictiveSampling(samples, iterations, **drawn)
    if method == "random shooting":
        return RandomShooting(samples, iterations, **drawn)
    if method == "mixture CEM":
        return MixtureCEM(samples, max(8, elites), iterations, **common)
    if method == "gradient descent":
        return GradientDescent(samples, iterations, **drawn)
    if method == "categorical CEM":
        return CategoricalCEM(samples, elites, iterations, return_best=True, **common)
    raise ValueError(f"method is {method!r}, expected one of {', '.join((*METHODS, CATEGORICAL))}")


METHODS = ("CEM", "iCEM", "MPPI", "predictive sampling", "random shooting", "mixture CEM", "gradient descent")
CATEGORICAL = "categorical CEM"
# Candidates × iterations: of searches that narrow their draws, of those that spend all candidates at once; restarts × steps.
NARROWING = ((8, 1), (16, 1), (16, 2), (32, 2), (64, 2), (128, 2), (128, 4))
AT_ONCE = ((8, 1), (16, 1), (32, 1), (64, 1), (128, 1), (256, 1))
DESCENTS = ((4, 5), (8, 10))
# Of tasks that need more.
WIDE = ((32, 3), (64, 3), (64, 5), (128, 5), (300, 5), (300, 10))
WIDE_DESCENTS = ((4, 5), (8, 10), (8, 20), (8, 40))
WIDE_AT_ONCE = ((96, 1), (320, 1), (640, 1), (1500, 1), (3000, 1))


def budgets(method: str, *, wide: bool = False, quick: bool = False) -> tuple[tuple[int, int], ...]:
    """Of a method's line."""
    if method == "gradient descent":
        found = WIDE_DESCENTS if wide else DESCENTS
    elif method == "random shooting" or (method == "predictive sampling" and not wide):
        found = WIDE_AT_ONCE if wide else AT_ONCE
    else:
        found = WIDE if wide else NARROWING
        if method == "mixture CEM":
            found = tuple(pair for pair in found if pair[0] >= 16 and pair[1] > 1)
    return found[len(found) // 2 :][:1] if quick else found


# ---- the tasks ---------------------------------------------------------------------------------------------------------------

TASKS = ("rooms", "pendulum", "grid", "disc")


def rooms(model: WorldModel, *, threads: int, quick: bool = False) -> Task:
    """Two rooms from pixels; the published search plans 5 blocks ahead, by the last one's distance."""
    here = world("two-room-steps")
    exact = fastwm.compile(model, backend="cpu", dtype="float32", threads=threads)
    auto = fastwm.compile(model, backend="cpu", threads=threads)
    plain = fastwm.compile(model, backend="torch", dtype="float32", threads=threads)
    low, high = here.action_low.tolist(), here.action_high.tolist()

    def published(engine: Engine, samples: int, iterations: int) -> Way:
        search = CEM(samples, max(2, samples // ELITES), iterations)
        label = f"{engine.info()['backend']} {engine.dtype}"
        return Way(PUBLISHED, samples, iterations, partial(Planner, engine, search, 5), label)

    def recommended(method: str, samples: int, iterations: int) -> Way:
        base = Planner.recommended(auto, low=low, high=high)
        names = ("std", "min_std", "low", "high", "steps", "noise_exponent")
        common = {name: getattr(base.optimizer, name) for name in names}
        search = searches(method, samples, max(2, samples // 16), iterations, **common)
        make = partial(Planner, auto, search, base.horizon, cost=GoalDistance(reduce="min"))
        return Way(method, samples, iterations, make, f"cpu {auto.dtype}")

    ways = [published(auto, *BASELINE)]
    if not quick:
        ways = [published(auto, 64, 6), published(auto, 300, 3), *ways]
    methods = METHODS[:1] if quick else METHODS
    ways += [recommended(m, *pair) for m in methods for pair in budgets(m, quick=quick)]
    if not quick:
        ways.append(recommended("CEM", *BASELINE))
    about = (
        "A LeWM in its published form (one block of 5 actions per prediction) sees pictures; the goal is in the other room. "
        "The published search plans 5 blocks ahead by the distance of the last; every other way has the horizon, the cost, the "
        "bounds and the noise of `fastwm.Planner.recommended`, and its own search."
    )
    baseline = published(auto, *BASELINE).name
    timed = (published(plain, *BASELINE), published(exact, *BASELINE))
    return Task("rooms", about, "success", here, ways, baseline, timed, pixels=True)


ABOUT = {
    "pendulum": "Swinging up from hanging, true dynamics as a function of the state, 25 decisions ahead, a plan at every one "
    "of 100 decisions; the return is gymnasium's.",
    "grid": "A goal behind a wall, five moves, true dynamics; an action's largest number is the move, so that searches that "
    "draw numbers can take part; the baseline is categorical. 16 moves ahead.",
    "disc": "Two ways round a disc, true dynamics; one plan of 8 steps, executed as it is. A success touches the goal, and "
    "never the disc.",
}
# Options of drawing candidates, of every search but the baseline; the disc has none, as its point is what searches share.
# Found by experiment on the pendulum with CEM, MPPI and predictive sampling: twice the std loses up to a tenth of the return.
COMMON: dict[str, dict[str, Any]] = {
    "pendulum": {"low": -2.0, "high": 2.0, "min_std": 0.1, "noise_exponent": 1.0},
    "grid": {"noise_exponent": 2.0},
    "disc": {},
}
SHARE = {"pendulum": 16, "grid": 10, "disc": 5}  # one candidate in as many is an elite


def known(name: str, *, quick: bool = False) -> Task:
    """A task whose dynamics are a function; the baseline is plain CEM, on the grid categorical CEM."""
    here: FunctionWorld = {"pendulum": Pendulum, "grid": Grid, "disc": Disc}[name]()

    def way(method: str, search: Sampling) -> Way:
        std = 0.5 if name == "disc" else 1.0
        make = partial(
            Planner.from_function,
            here.predict,
            here.cost,
            search,
            here.horizon,
            state_dim=here.state_dim,
            action_dim=here.action_dim,
            action_std=std,
        )
        return Way(method, search.samples, search.iterations, make)

    def searched(method: str, samples: int, elites: int, iterations: int) -> Way:
        more = {"categories": here.action_dim} if method == CATEGORICAL else {}
        return way(method, searches(method, samples, elites, iterations, **more, **COMMON[name]))

    samples, iterations = BASELINE
    first = samples // ELITES
    bounds = {k: v for k, v in COMMON[name].items() if k in ("low", "high")}
    plain = CEM(samples, first, iterations, **bounds)
    methods = METHODS
    if name == "grid":  # an argmax has no gradient
        plain = CategoricalCEM(samples, first, iterations, categories=here.action_dim)
        methods = (CATEGORICAL, *(m for m in METHODS if m != "gradient descent"))
    ways = [way(f"{PLAIN} {methods[0]}", plain)]
    for method in methods[: 1 if quick else None]:
        for s, i in budgets(method, wide=name != "pendulum", quick=quick):
            ways.append(searched(method, s, max(2, s // SHARE[name]), i))
    executed = here.horizon if name == "disc" else 1
    measure = "return" if name == "pendulum" else "success"
    return Task(name, ABOUT[name], measure, here, ways, ways[0].name, executed=executed)
