"""Where cost stops being linear, and that the reason given is one that the numbers show."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench_lines import MACHINE

from bench import scaling
from bench.scaling_page import page, reach, why, write_page


def point(
    value: int,
    milliseconds: float,
    *,
    axis: str = "candidates",
    gflop: float | None = None,
    gigabytes: float = 0.001,
) -> dict:
    """A line of float32 whose counted work is one GFLOP per unit unless said."""
    found = {
        "axis": axis,
        "value": value,
        "units": float(value),
        **{"S": 96, "T": 5, "depth": 6, "width": 192, "threads": 1, "tile": 48, "window": 2},
        "dtype": "float32",
        "passed": True,
    }
    found |= {
        "milliseconds": {"min": milliseconds, "q1": milliseconds, "q3": 1.2 * milliseconds},
        "gflop": float(value) if gflop is None else gflop,
        "peak_gflops": 2000.0,
    }
    return {**found, "isa": "avx2", "repeats": 3, "streamed_bytes": 1e9 * gigabytes}


def test_the_linear_stretch_ends_where_a_unit_costs_a_quarter_more() -> None:
    lines = [point(1, 3.0), point(2, 2.6), point(4, 4.2), point(8, 8.0), point(16, 19.0), point(32, 60.0)]
    found = reach(lines)
    assert (found.first["value"], found.best["value"], found.last["value"]) == (4, 8, 16)
    assert found.below is not None
    assert found.above is not None
    assert (found.below.line["value"], found.below.towards["value"]) == (2, 4)
    assert found.below.ratio == pytest.approx(1.3)
    assert found.above.ratio == pytest.approx(60 / 32)


def test_a_departure_is_counted_work_times_time_per_operation() -> None:
    found = reach([point(1, 1.0, axis="horizon"), point(2, 4.0, axis="horizon", gflop=3.0)])
    departure = found.above
    assert departure is not None
    assert (departure.ratio, departure.work, departure.time) == pytest.approx((2.0, 1.5, 4 / 3))
    assert "After block 2 the window slides" in why(departure, None)


def test_the_width_is_judged_per_operation_and_threads_by_their_sum() -> None:
    wide = [point(48, 1.0, axis="width", gflop=1.0), point(96, 4.0, axis="width", gflop=4.0)]
    assert (reach(wide).below, reach(wide).above) == (None, None)
    threads = [{**point(n, 10.0, axis="threads", gflop=5.0), "threads": n, "units": 1.0} for n in (1, 2)]
    departure = reach(threads).above
    assert departure is not None
    assert departure.ratio == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("below", "bandwidth", "words"),
    [
        (
            point(2, 8.0, gigabytes=0.4),
            {"L3": 100.0, "DRAM": 30.0},
            "read 400 MB of weights: at the 100 GB/s",
        ),
        (point(2, 8.0, gigabytes=0.4), {"L3": 1000.0, "DRAM": 30.0}, "8 candidates take no longer than 2"),
        (point(2, 8.0, gigabytes=0.4), None, "8 candidates take no longer than 2"),
        (point(2, 4.0), {"L3": 100.0, "DRAM": 30.0}, "do not explain"),
    ],
)
def test_a_reason_is_one_that_the_numbers_show(below: dict, bandwidth: dict | None, words: str) -> None:
    departure = reach([below, point(8, 8.0)]).below
    assert departure is not None
    assert words in why(departure, bandwidth)


def test_points_change_one_size_and_threads_end_at_the_machines() -> None:
    points = list(scaling.points(scaling.AXES, most_threads=3))
    assert {p.value for p in points if p.axis == "threads"} == {1, 2, 3}
    assert [(p.S, p.T) for p in points if p.axis == "horizon"] == [(96, t) for t in scaling.AXES["horizon"]]
    assert len(set(points)) == len(points)
    assert not [p for p in scaling.points(scaling.AXES, most_threads=1) if p.axis == "threads"]


def test_measured_points_agree_and_make_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling, "QUICK", {"candidates": (1, 2, 3, 5), "depth": (1,)})
    monkeypatch.setitem(scaling.FIXED, "depth", {"S": 2, "T": 2})
    monkeypatch.setitem(scaling.FIXED, "candidates", {"T": 4, "depth": 1, "width": 48})
    first, *_, lines = (
        list(found) for found in scaling.results(repeats=1, threads=1, quick=True, progress=False)
    )
    assert {line["axis"] for line in first} == {"candidates"}  # what an interruption would leave
    assert all("peak_gflops" in line for line in first)
    assert all(line["passed"] for line in lines), [line for line in lines if not line["passed"]]
    one, three = (next(x for x in lines if (x["axis"], x["value"]) == ("candidates", n)) for n in (1, 3))
    assert three["gflop"] == pytest.approx(3 * one["gflop"])
    assert one["streamed_bytes"] == three["streamed_bytes"]  # one tile
    content = {"machine": MACHINE, "results": lines}
    assert "\ncandidates: 4 blocks ahead, 1 layers, 48 wide, 1 thread\n" in scaling.table(lines)
    assert write_page(content, tmp_path) == [tmp_path / "scaling.md", tmp_path / "scaling.svg"]
    assert (tmp_path / "scaling.md").read_text() == page(content)
    candidates, depth = page(content).split("## Candidates")[1].split("## Depth")
    assert "best at" in candidates
    assert "best at" not in depth
    picture = ElementTree.parse(tmp_path / "scaling.svg").getroot()
    words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1", "2", "3", "5", "candidates"} <= set(words)
    assert "depth" not in words


def test_few_points_are_a_table_and_no_more(tmp_path: Path) -> None:
    content = {"machine": MACHINE, "results": [point(n, float(n)) for n in (1, 4, 16)]}
    assert write_page(content, tmp_path) == [tmp_path / "scaling.md"]
    assert "| 16 | 16 | 16 |" in page(content)
    assert "best at" not in page(content)
    assert ".svg" not in page(content)


def test_a_page_says_how_quiet_the_machine_was() -> None:
    lines = [point(n, float(n)) for n in (1, 2, 4, 8)]
    text = page({"machine": MACHINE, "results": lines})
    assert (
        "load 0.1 on 2 cores at the start; third quartiles are 1.20 times the first (median), 1.20 at" in text
    )
    assert "not to be trusted" not in text
    busy = page({"machine": {**MACHINE, "load": 3.1}, "results": lines})
    assert "**Machine busy (load 3.1 on 2 cores): ratios are not to be trusted.**" in busy
