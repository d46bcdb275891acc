"""A solver on the GPU (emulated where there is none) when something else happens: threads, modes, failures, new shapes."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import specs
import torch

pytest.importorskip("triton", reason="the GPU's rollout needs triton")

import fastwm
from fastwm import CEM, Cost, GoalDistance, Planner
from fastwm.engine.cuda import device as devices
from fastwm.engine.cuda import graph
from fastwm.planning import clock

SPEC = specs.transformer(0, E=16, A=2, L=1, H=1, D=16, M=16)
LATENTS, GOAL = torch.randn(2, 1, 16), torch.randn(2, 16)
SEARCH = CEM(6, 2, 1)


@pytest.fixture
def engines(gpu) -> dict[str, fastwm.Engine]:
    imported = specs.imported(SPEC)
    return {name: fastwm.compile(imported, backend=name, dtype="float32") for name in ("cpu", "cuda")}


def plan(planner: Planner, seed: int, **options) -> fastwm.Plan:  # type: ignore[no-untyped-def]
    return planner.plan({"latents": LATENTS}, GOAL, generator=seed, **options)


def assert_same(ours: fastwm.Plan, theirs: fastwm.Plan) -> None:
    torch.testing.assert_close(ours.actions, theirs.actions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.cost, theirs.cost, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("planners", [1, 2])
def test_two_threads_plan_at_once(engines, planners: int) -> None:
    made = [Planner(engines["cuda"], SEARCH, 1) for _ in range(planners)] * (3 - planners)
    ready = threading.Barrier(2)

    def run(place: int) -> list[fastwm.Plan]:
        ready.wait()
        return [plan(made[place], 10 * place + call) for call in range(2)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, range(2)))
    for place in range(2):
        for call in range(2):
            assert_same(found[place][call], plan(Planner(engines["cpu"], SEARCH, 1), 10 * place + call))


def test_replicas_plan_what_one_engine_plans(engines) -> None:
    two = [
        fastwm.compile(specs.imported(SPEC), backend="cuda", dtype="float32"),
        engines["cuda"],
    ]
    shared, alone = Planner(fastwm.Replicas(two), SEARCH, 1), Planner(engines["cpu"], SEARCH, 1)
    for seed in range(2):
        assert_same(plan(shared, seed), plan(alone, seed))


def test_a_graph_of_inference_mode_serves_plans_outside_of_it(engines) -> None:
    planner = Planner(engines["cuda"], SEARCH, 1)
    with torch.inference_mode():
        inside = plan(planner, 1)
    assert torch.equal(plan(planner, 1).actions, inside.actions)


def test_the_callers_default_device_and_dtype_change_nothing(engines) -> None:
    options = {"low": -1.0, "high": 1.0, "steps": 2}
    for search in (CEM(6, 2, 1, hold=2, correlation=0.31, **options), CEM(6, 2, 1, noise_exponent=1.3)):
        cost = GoalDistance(reduce="min") + fastwm.ActionPenalty()
        try:
            torch.set_default_device("meta")
            torch.set_default_dtype(torch.float64)
            found = plan(Planner(engines["cuda"], search, 2, cost=cost), 1)
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)
        assert_same(found, plan(Planner(engines["cpu"], search, 2, cost=cost), 1))


def test_a_cost_of_ones_own_is_asked_in_every_plan(engines) -> None:
    """Its numbers on the host may change: a graph would not see it."""

    class Towards(Cost):
        target = 0.0

        def __call__(self, latents, actions, goal, *, threads=1):  # type: ignore[no-untyped-def]
            return (actions - self.target).square().sum((2, 3))

    cost = Towards()
    planner = Planner(engines["cuda"], SEARCH, 1, cost=cost)
    for target in (1.0, -1.0):
        cost.target = target
        assert_same(plan(planner, 1), plan(Planner(engines["cpu"], SEARCH, 1, cost=cost), 1))


@pytest.mark.parametrize("deadline", [None, 1000.0])
def test_an_interrupted_plan_leaves_nothing_behind(engines, deadline: float | None) -> None:
    planner, started = Planner(engines["cuda"], SEARCH, 1), []

    def interrupt(name, kernel):  # type: ignore[no-untyped-def]
        started.append(name)
        if started.count("mlp") == 2:  # the work was done once, and is being captured
            raise KeyboardInterrupt
        return kernel

    devices.watchers.append(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            plan(planner, 1, deadline=deadline)
    finally:
        devices.watchers.remove(interrupt)
    assert not devices.watchers
    assert not planner._solver._graphs
    assert_same(plan(planner, 1, deadline=deadline), plan(Planner(engines["cpu"], SEARCH, 1), 1))


def test_a_capture_is_no_part_of_an_iterations_time(engines, monkeypatch) -> None:
    """Or no iteration would be expected to fit the deadlines of the next plans."""
    late = [0.0]

    def capture(*given):  # type: ignore[no-untyped-def]
        late[0] += 1000.0
        return graph_capture(*given)

    graph_capture = graph.capture
    monkeypatch.setattr(graph, "capture", capture)
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + late[0]))
    planner = Planner(engines["cuda"], SEARCH, 1)
    found = plan(planner, 1, deadline=2000.0)
    assert found.stats["end"] == "complete"
    assert found.elapsed > 1000.0
    assert found.stats["iteration_p99"] < 500.0
    assert all(pace < 500.0 for pace in planner._pace.values())


def test_iterations_of_many_sizes_are_captured_once(engines, monkeypatch) -> None:
    monkeypatch.setattr("fastwm.planning.solve.GRAPHS", 2)
    search = CEM(12, 2, 4, decay=1.4)  # 12, 8, 6, 4 candidates
    planner = Planner(engines["cuda"], search, 1)
    found = []
    for seed in range(2):
        assert_same(plan(planner, seed, deadline=1000.0), plan(Planner(engines["cpu"], search, 1), seed))
        found.append(list(planner._solver._graphs.values()))
    assert len(found[0]) == 4
    assert found[1] == found[0]


class _Stream:
    def wait_stream(self, other: object) -> None: ...


def test_a_capture_is_on_a_stream_of_its_device_and_lets_other_threads_work(monkeypatch) -> None:
    """PyTorch's own stream for captures is one of whatever device captured first."""
    device, streams, options = torch.device("cuda", 1), [], {}

    def stream(where: torch.device) -> _Stream:
        streams.append((where, _Stream()))
        return streams[-1][1]

    def begin(graph: object, **given: object) -> contextlib.AbstractContextManager:
        options.update(given)
        return contextlib.nullcontext()

    cuda = SimpleNamespace(
        Stream=stream,
        current_stream=lambda where: _Stream(),
        stream=contextlib.nullcontext,
        CUDAGraph=object,
        graph=begin,
    )
    monkeypatch.setattr(graph.torch, "cuda", cuda)
    assert graph.capture(lambda: 7, device)[1] == 7
    assert [where for where, _ in streams] == [device]
    assert options == {"stream": streams[0][1], "capture_error_mode": "thread_local"}
