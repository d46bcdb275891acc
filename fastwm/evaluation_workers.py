"""The episodes of an evaluation shared out among processes here, or among a Ray cluster's: the result is the serial one.

An episode is a function of (seed, its number) alone, so it does not matter who runs it. Decisions' times are the workers' own.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import numpy as np
from tqdm import tqdm

from fastwm.envs import World
from fastwm.evaluation import Evaluation, Policy, evaluate

SHARES = 4  # of each worker: enough for a progress bar and for workers of unequal speed

Part = tuple[int, int]
Options = dict[str, Any]


def evaluate_in_workers(
    world: World,
    make_policy: Callable[[], Policy],
    *,
    workers: int,
    ray: bool = False,
    episodes: int = 100,
    seed: int = 0,
    budget: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """`evaluate(world, make_policy(), ...)`, its episodes shared out among `workers` processes.

    make_policy: called once in each worker; it has to be pickled, so a function of a module or a `functools.partial` of one.
    ray: workers are Ray's, of the cluster that `ray.init()` finds, or of one that it starts here.
    Raises ValueError for `workers` below 1, ImportError where Ray is asked for and missing, and what `evaluate` raises.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers is {workers!r}, expected an integer of at least 1")
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}")
    workers = min(workers, episodes)
    size = math.ceil(episodes / min(episodes, SHARES * workers))
    parts = [(first, min(first + size, episodes)) for first in range(0, episodes, size)]
    options = {"episodes": episodes, "seed": seed, "budget": budget}
    run = _by_ray if ray else _by_processes
    found: dict[Part, Evaluation] = {}
    with tqdm(total=episodes, unit="episode", desc="evaluate", disable=not progress) as bar:
        for part, result in run(world, make_policy, workers, parts, options):
            found[part] = result
            bar.set_description(f"evaluate {result.policy}")
            bar.update(part[1] - part[0])
    return _joined([found[part] for part in parts])


def _joined(results: list[Evaluation]) -> Evaluation:
    fields = ("success", "decisions", "states", "goals", "decision_ms")
    joined = {name: np.concatenate([getattr(result, name) for result in results]) for name in fields}
    return Evaluation(results[0].policy, **joined)


class _Worker:
    """A policy of its own, made for its first episodes, so that what goes wrong comes back as their error."""

    def __init__(self, world: World, make_policy: Callable[[], Policy]) -> None:
        self.world, self.make_policy = world, make_policy
        self.policy: Policy | None = None

    def run(self, part: Part, options: Options) -> tuple[Part, Evaluation]:
        self.policy = self.policy or self.make_policy()
        return part, evaluate(self.world, self.policy, part=part, **options)


_worker: _Worker  # of this process


def _begin(world: World, make_policy: Callable[[], Policy]) -> None:
    global _worker
    _worker = _Worker(world, make_policy)


def _run(part: Part, options: Options) -> tuple[Part, Evaluation]:
    return _worker.run(part, options)


Results = Iterator[tuple[Part, Evaluation]]


def _by_processes(
    world: World, make_policy: Callable[[], Policy], workers: int, parts: list[Part], options: Options
) -> Results:
    spawned = multiprocessing.get_context("spawn")  # a fork would share the threads' locks with its parent
    with ProcessPoolExecutor(workers, spawned, _begin, (world, make_policy)) as pool:
        futures = [pool.submit(_run, part, options) for part in parts]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _by_ray(
    world: World, make_policy: Callable[[], Policy], workers: int, parts: list[Part], options: Options
) -> Results:
    try:
        import ray
        from ray.util import ActorPool
    except ModuleNotFoundError as error:
        raise ImportError("evaluation on Ray needs the package ray: pip install 'fastwm[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, configure_logging=False)
    try:
        actor = ray.remote(num_cpus=1)(_Worker)
        pool = ActorPool([actor.remote(world, make_policy) for _ in range(workers)])
        yield from pool.map_unordered(lambda worker, part: worker.run.remote(part, options), parts)
    finally:
        if started:
            ray.shutdown()
