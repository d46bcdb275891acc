"""Plans at a fixed rate: what counts as late, missed and skipped, on a clock that is told what to do."""

from __future__ import annotations

import statistics
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import agreement, latency
from bench.latency import Timings, at_rate, quantile, summary
from bench.latency_picture import draw, tail


class Clock:
    """Seconds that pass only in `sleep`, `late` too long each time, and in `plan`."""

    def __init__(self, durations: list[float], late: float = 0.0) -> None:
        self.now, self.late, self.durations = 100.0, late, list(durations)
        self.starts: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late

    def plan(self) -> None:
        self.starts.append(self.now)
        self.now += self.durations.pop(0)


def run(durations: list[float], *, period: float = 0.05, late: float = 0.0) -> tuple[Timings, Clock]:
    clock, timings = Clock(durations, late), Timings()
    at_rate(clock.plan, len(durations), period, timings, clock=clock, sleep=clock.sleep)
    return timings, clock


def test_plans_in_time_start_at_every_tick() -> None:
    timings, clock = run([0.01, 0.05, 0.04])
    assert clock.starts == pytest.approx([100.05, 100.10, 100.15])
    assert timings.plan == pytest.approx([0.01, 0.05, 0.04])
    assert timings.late == pytest.approx([0, 0, 0], abs=1e-9)
    assert (timings.missed, timings.skipped) == (0, 0)


def test_a_late_plan_misses_and_skips_the_ticks_that_pass() -> None:
    timings, clock = run([0.06, 0.01, 0.17, 0.01])
    assert clock.starts == pytest.approx([100.05, 100.15, 100.20, 100.40])
    assert (timings.missed, timings.skipped) == (2, 1 + 3)


def test_a_late_wake_up_is_not_plan_time_but_may_miss() -> None:
    timings, _ = run([0.048, 0.01], late=0.003)
    assert timings.plan == pytest.approx([0.048, 0.01])
    assert timings.late == pytest.approx([0.003, 0.003])
    assert timings.missed == 1
    assert summary(timings)["milliseconds"]["wake_p99"] == pytest.approx(3.0)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_the_least_value_with_that_share_at_or_below_it(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-6
    below = [value for value in ordered if value < found]
    assert not below or len(below) < share * len(ordered) + 1e-6


def test_the_summary_of_a_thousand_plans() -> None:
    plans = [i / 1e3 for i in range(1, 1001)]
    found = summary(Timings(plan=plans[::-1], late=[0.0] * 1000, missed=7, skipped=9))
    times = found["milliseconds"]
    assert [times[name] for name in ("p50", "p95", "p99", "max")] == [500, 950, 990, 1000]
    assert times["jitter"] == pytest.approx(1e3 * statistics.pstdev(plans), abs=1e-3)
    assert (found["plans"], found["missed"], found["skipped"]) == (1000, 7, 9)
    assert found["curve"][0] == [0, 1]
    assert found["curve"][-1] == [1, 1000]


def test_a_backend_that_does_not_agree_makes_no_plans(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = agreement.engine_costs

    def wrong(planner, *arguments):  # type: ignore[no-untyped-def]
        return real(planner, *arguments) * (torch.nan if planner.engine.dtype == "bfloat16" else 1)

    monkeypatch.setattr(agreement, "engine_costs", wrong)
    first, *_, lines = latency.results(
        plans=10, rate=500, threads=1, models=("demo-two-room",), progress=False
    )
    assert [line["plans"] for line in first if "plans" in line] == [1, 1]  # what an interruption would leave
    passed = {line["way"]: line["passed"] for line in lines}
    assert not passed.pop("fastwm cpu bfloat16")
    assert all(passed.values())
    assert {"fastwm cpu float32", "fastwm torch float32", "PyTorch float32"} <= set(passed)
    for line in lines:
        assert ("milliseconds" in line) == line["passed"]
        if line["passed"]:
            assert line["plans"] == (10 if line["way"].startswith("fastwm cpu") else 2)
    assert "fastwm cpu bfloat16    parity failed" in latency.table(lines)
    draw({"results": lines}, tmp_path / "latency.svg")
    picture = ElementTree.parse(tmp_path / "latency.svg").getroot()
    words = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {
        "demo-two-room",
        "fastwm cpu float32 (10 plans)",
        "PyTorch float32 (2 plans)",
        "period 2 ms",
    } <= words
    assert not any("fastwm cpu bfloat16" in word for word in words if word)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw({"results": [line for line in lines if not line["passed"]]}, tmp_path / "no.svg")


@pytest.mark.parametrize("count", [1, 10, 50, 200, 1000])
def test_a_curve_ends_at_the_slowest_of_its_plans(count: int) -> None:
    plans = [i / 1e3 for i in range(1, count + 1)]
    line = summary(Timings(plan=plans, late=[0.0] * count))
    points = tail(line)
    assert points[-1][0] == count  # milliseconds
    assert min(share for _, share in points) >= max(1 / count, 1e-3) - 1e-9
    for t, share in points[:-1]:
        assert share >= sum(1e3 * plan > t + 1e-6 for plan in plans) / count - 1e-9


def test_percentiles_of_few_plans_are_dashes() -> None:
    def row(count: int) -> str:
        line = {"model": "m", "rate": 20.0, "threads": 1, "way": "fastwm cpu int8", "passed": True}
        plans = Timings(plan=[1e-3 * i for i in range(1, count + 1)], late=[0.0] * count)
        return latency.table([{**line, **summary(plans)}]).splitlines()[2]

    assert row(100).split()[3:6] == ["50.00", "95.00", "99.00"]
    assert row(99).split()[3:6] == ["50.00", "95.00", "–"]
    assert row(19).split()[3:6] == ["10.00", "–", "–"]


def test_what_cannot_be_measured_is_refused() -> None:
    for plans, rate in ((0, 20.0), (10, 0.0), (10, float("nan")), (10, -1.0)):
        with pytest.raises(ValueError, match=r"(plans|rate) is"):
            latency.check(plans, rate)
