"""The demo: the comparison with PyTorch, what is drawn, what a second run does, and the whole of it."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import random_model

import fastwm
from fastwm.cli import main
from fastwm.demo import DemoSettings, Search, run_demo
from fastwm.demo.charts import Axis, Series, line_chart
from fastwm.demo.compare import compare, parity_error, plain_plan
from fastwm.demo.curves import read_log
from fastwm.demo.load import Spent, _work, others, spent
from fastwm.demo.playback import body_columns, choose_episodes, fit_probe, png_uri
from fastwm.demo.report import _figures, _time
from fastwm.demo.settings import _KNOWN
from fastwm.demo.table import duration, summary_table
from fastwm.engine.pack import DTYPES
from fastwm.envs import WORLDS, world
from fastwm.evaluation import Evaluation

TINY = {
    "steps": 12,
    "episodes": 30,
    "validations": 3,
    "evaluation_episodes": 4,
    "threads": 1,
    "timed_plans": 2,
    "search": Search(samples=12, iterations=2, horizon=5),
}


# ---- settings


def test_every_world_has_settings() -> None:
    assert set(_KNOWN) == set(WORLDS) - {"two-room-steps"}
    with pytest.raises(ValueError, match="expected one of push, two-room, got"):
        DemoSettings.of("moon")


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(0.2, 3))
def test_the_search_is_cems(samples: int, std: float) -> None:
    """In its units: std in standard deviations of the training actions, as the command line says."""
    engine = fastwm.compile(random_model(), dtype="float32", threads=1)
    optimizer = Search(samples=samples, std=std).planner(engine, world("push")).optimizer
    assert 1 <= optimizer.elites <= samples
    assert (optimizer.std, optimizer.min_std) == (std, Search().min_std)


# ---- one plan, engine and PyTorch


def pictures(size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(2))


@pytest.mark.parametrize("predictor", ["adaln", "mlp"])
def test_the_plain_plan_is_the_planners(predictor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same draws, both arrive at the same actions."""
    model = random_model(predictor=predictor)
    engine = fastwm.compile(model, dtype="float32", threads=1)
    planner = Search(samples=40, iterations=3, horizon=4).planner(engine, world("push"))
    start, goal = pictures()
    noise = torch.randn(3, 1, 40, 4, 2, generator=torch.Generator().manual_seed(1))
    draws = iter(noise[:, 0].clone())
    monkeypatch.setattr(torch, "randn", lambda *shape: next(draws))
    plain = plain_plan(planner, model, torch.from_numpy(start), torch.from_numpy(goal))
    torch.testing.assert_close(plain, planner.plan(start, goal, noise=noise).mean[0], rtol=1e-3, atol=1e-4)


def test_no_time_is_measured_unless_the_costs_agree() -> None:
    model, other = random_model(), random_model()
    with torch.no_grad():
        other.pred_proj.fc2.weight.mul_(1.01)
    engine = fastwm.compile(model, dtype="float32", threads=1)

    def planner_of(engine: fastwm.Engine) -> fastwm.Planner:
        return Search(samples=16, iterations=2, horizon=3).planner(engine, world("push"))

    same = compare(model, engine, planner_of, *pictures(), repeats=2)
    assert same.parity
    assert same.milliseconds.keys() == {("engine", "float32"), ("torch", "float32")}
    assert all(0 < q1 <= median <= q3 for q1, median, q3 in same.quartiles.values())
    assert same.milliseconds == {name: median for name, (_, median, _) in same.quartiles.items()}
    assert same.load_average >= 0
    different = compare(other, engine, planner_of, *pictures(), repeats=2)
    assert not different.parity
    assert different.milliseconds == {}
    assert (
        parity_error(planner_of(engine), other, *pictures())
        > 1e-4
        > parity_error(planner_of(engine), model, *pictures())
    )


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float32"])
def test_a_narrow_engine_is_timed_beside_pytorchs_best(dtype: str) -> None:
    model = random_model()
    engine = fastwm.compile(model, dtype=dtype, threads=1)
    search = Search(samples=16, iterations=2, horizon=3)
    found = compare(
        model, engine, lambda engine: search.planner(engine, world("push")), *pictures(), repeats=1
    )
    ways = {("engine", "float32"), ("torch", "float32"), ("engine", dtype), ("torch", "bfloat16")}
    assert found.milliseconds.keys() == ways


def test_work_of_others_is_counted_and_own_is_not() -> None:
    before = Spent(clock=10.0, all_work=100.0, own_work=5.0, processors=2)
    assert others(before, Spent(14.0, 108.0, 7.0, 2)) == pytest.approx(1.5)
    assert others(before, Spent(14.0, 101.9, 7.0, 2)) == 0.0  # ticks are coarse
    assert others(None, before) is others(before, None) is None
    stat = [
        "cpu 99 99 99 99 99 99 99 99 0 0\n",
        "cpu0 1 2 4 100 200 8 16 32 64 128\n",
        "cpu1 9 9 9 9 9 9 9 9 0 0\n",
    ]
    assert _work(stat, {0}) == 1 + 2 + 4 + 8 + 16 + 32
    if (now := spent()) is not None:
        assert 0 < now.processors <= os.cpu_count()
        assert now.all_work > 0


def test_the_plain_plan_refuses_a_search_it_does_not_know() -> None:
    model = random_model()
    planner = fastwm.Planner(fastwm.compile(model, dtype="float32", threads=1), fastwm.CEM(8, 2, 2), 3)
    with pytest.raises(ValueError, match="plain plan"):
        plain_plan(planner, model, *(torch.from_numpy(picture) for picture in pictures()))


# ---- what is drawn


class LinearEncoder:
    """Latents that are a fixed invertible map of the pictures' first pixels."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self.action_mean = torch.zeros(2)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[..., 0, :2, 0].float() @ self.matrix


class OnePixelEpisodes:
    """Frames whose first two pixels are the state."""

    def __init__(self, states: np.ndarray) -> None:
        self.states = states

    def windows(self, length: int) -> np.ndarray:
        return np.arange(len(self.states))

    def batch(self, starts: np.ndarray, length: int) -> dict[str, np.ndarray]:
        pixels = np.zeros((len(starts), 1, 2, 2, 3), np.uint8)
        pixels[:, 0, 0, :2, 0] = self.states[starts]
        return {"pixels": pixels, "state": self.states[starts][:, None].astype(np.float32)}


def test_the_probe_reads_states_that_are_linear_in_the_latents() -> None:
    rng = np.random.default_rng(0)
    states = rng.integers(0, 64, (200, 2)).astype(np.float32)
    encoder = LinearEncoder(torch.tensor([[1.0, 0.4, -0.3], [0.2, -1.0, 0.7]]))
    probe = fit_probe(encoder, OnePixelEpisodes(states))  # type: ignore[arg-type]
    latents = torch.from_numpy(states[:20]) @ encoder.matrix
    np.testing.assert_allclose(probe(latents), states[:20], atol=0.05)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 8))
def test_the_shown_episodes_are_the_first_and_one_failure(success: list[bool], count: int) -> None:
    n = len(success)
    found = Evaluation(
        "planner", np.array(success), np.ones(n, int), np.zeros((n, 2, 2)), np.zeros((n, 2)), np.ones(n)
    )
    chosen = choose_episodes(found, count)
    assert len(chosen) == len(set(chosen)) == min(count, n)
    assert chosen[:-1] == list(range(len(chosen) - 1))
    if count > 1 and not all(success):
        assert not all(success[i] for i in chosen)


def test_bodies_are_found_by_the_names_of_the_state() -> None:
    assert body_columns(world("push")) == {"agent": [0, 1], "puck": [2, 3]}
    assert body_columns(world("two-room")) == {"agent": [0, 1]}


def decode(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


def test_pictures_survive_as_data() -> None:
    picture, _ = pictures()
    assert np.array_equal(decode(png_uri(picture)), picture)


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e5), st.booleans())
def test_ticks_are_within_the_axis_and_in_order(low: float, ratio: float, log: bool) -> None:
    axis = Axis(low, low * ratio, 300, 20, log)
    ticks = axis.ticks()
    places = [axis(tick) for tick in ticks]
    assert len(ticks) <= 12
    assert places == sorted(places, reverse=True)
    assert all(20 - 1e-6 <= place <= 300 + 1e-6 for place in places)


def test_a_line_goes_through_its_points_and_around_gaps() -> None:
    chart = line_chart(
        [Series("a <b>", [0, 1, 2, 3], [0.0, 2.0, None, 1.0], "first")], label="x & y", y_label="loss"
    )
    (path,) = re.findall(r'class="line first" d="M([^"]*)"', chart)
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert len(points) == 3
    (x0, y0), (x1, y1), (x3, y3) = points
    assert x3 - x0 == pytest.approx(3 * (x1 - x0), abs=0.3)
    assert y0 - y3 == pytest.approx((y0 - y1) / 2, abs=0.2)
    assert "a &lt;b&gt;" in chart
    assert "x &amp; y" in chart


def test_an_empty_chart_says_so() -> None:
    assert "No measurements" in line_chart([Series("a", [], [], "first")], label="", y_label="")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.04, "0.0 s"), (9.94, "9.9 s"), (31.4, "31 s"), (59.7, "1 min"), (125, "2 min 5 s")],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


# ---- the whole of it


@pytest.fixture(scope="module", params=["two-room", "push"])
def tiny_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DemoSettings, Path, dict]:
    """A demo too short to learn anything."""
    settings = DemoSettings.of(request.param, **TINY)
    out = tmp_path_factory.mktemp("demo")
    return settings, out, run_demo(settings, out, progress=False)


def test_the_summary_holds_what_it_promises(tiny_run: tuple[DemoSettings, Path, dict]) -> None:
    settings, out, summary = tiny_run
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["episodes"] == 4
    for policy in ("planner", "expert", "random"):
        low, high = summary[f"interval_{policy}"]
        assert 0 <= low <= summary[f"success_{policy}"] <= high <= 1
    assert summary["plan_ms_engine"] > 0
    assert summary["plan_ms_torch"] > 0
    for way in ("engine", "torch"):
        first, third = summary["plan_ms_quartiles"][f"{way} float32"]
        assert first <= summary[f"plan_ms_{way}"] <= third
    assert summary["load"].keys() == {"busy_with_others", "average", "processors"}
    assert summary["parity_error"] <= summary["parity_tolerance"] == 1e-4
    assert summary["train_seconds"] > 0
    assert len(read_log(out / "model" / "validation.csv")) == settings.validations
    assert fastwm.load(out / "model").config == settings.model_config(2)
    assert all(len(line) <= 80 for line in summary_table(summary).splitlines()[:-1])


def timed(summary: dict, *, engine: float, torch: float, narrow: float, bfloat16: float, busy: float) -> dict:
    """The summary with these medians of one plan, in int8 and bfloat16 beside float32."""
    ways = {"engine": engine, "torch": torch, "engine_int8": narrow, "torch_bfloat16": bfloat16}
    names = ("engine float32", "torch float32", "engine int8", "torch bfloat16")
    load = {"busy_with_others": busy, "average": 1.0, "processors": 2}
    return {
        **{name: value for name, value in summary.items() if not name.startswith("plan_ms")},
        **{f"plan_ms_{name}": value for name, value in ways.items()},
        "plan_ms_quartiles": {
            name: [0.9 * ms, 1.1 * ms] for name, ms in zip(names, ways.values(), strict=True)
        },
        "engine": {**summary["engine"], "dtype": "int8"},
        "load": load,
    }


@pytest.mark.parametrize(("bfloat16", "beside", "ratio"), [(5.0, "bfloat16", "2.5"), (9.0, "float32", "3.0")])
def test_int8_is_beside_pytorchs_fastest(
    tiny_run: tuple[DemoSettings, Path, dict], bfloat16: float, beside: str, ratio: str
) -> None:
    _, _, summary = tiny_run
    found = timed(summary, engine=4.0, torch=6.0, narrow=2.0, bfloat16=bfloat16, busy=0.0)
    lines = summary_table(found).splitlines()
    (row,) = [line for line in lines if line.startswith("  int8")]
    assert row.split()[-2:] == [beside, ratio]
    assert "2 (1.8 to 2.2)" in row
    assert all(len(line) <= 80 for line in lines[:-1])
    chart = re.findall(r'<div class="row (\w+)"><b>(\w+ \w+)</b>', _time(found))
    assert chart == [
        ("main", "engine float32"),
        ("other", "PyTorch float32"),
        ("main", "engine int8"),
        ("other", f"PyTorch {beside}"),
    ]
    assert "in int8" in _figures(found)
    assert f'<dd class="n">{ratio}<small> ×' in _figures(found)
    assert "busy" not in summary_table(found) + _time(found) + _figures(found)


def test_times_of_a_busy_machine_are_not_to_be_trusted(tiny_run: tuple[DemoSettings, Path, dict]) -> None:
    _, _, summary = tiny_run
    found = timed(summary, engine=4.0, torch=6.0, narrow=2.0, bfloat16=5.0, busy=1.2)
    warning = "achine busy (load 1.2 of others on 2 processors): times are not to be trusted"
    for text in (summary_table(found), _time(found), _figures(found)):
        assert warning in text
    unknown = {**found, "load": {**found["load"], "busy_with_others": None}}
    assert "busy" not in summary_table(unknown)


def test_the_table_shows_no_time_where_costs_differ(tiny_run: tuple[DemoSettings, Path, dict]) -> None:
    _, _, summary = tiny_run
    table = summary_table({**summary, "plan_ms_engine": None, "parity_error": 0.5})
    assert "not timed" in table
    assert " ms" not in table


class Page(html.parser.HTMLParser):
    """Which tags a page opens and closes, and what they refer to."""

    VOID = frozenset({"meta", "link", "img", "input", "circle", "line", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [
            value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass


def test_the_film_shows_the_first_episodes(tiny_run: tuple[DemoSettings, Path, dict]) -> None:
    _, out, _ = tiny_run
    with Image.open(out / "episodes.gif") as film:
        assert film.size == (4 * 192 + 3 * 8, 192)
        assert film.n_frames >= 2
        first = np.array(film.convert("RGB"), int)
        film.seek(film.n_frames - 1)
        assert np.abs(first - np.array(film.convert("RGB"), int)).max() > 100


def test_the_report_is_whole_and_asks_nothing_of_the_network(
    tiny_run: tuple[DemoSettings, Path, dict],
) -> None:
    settings, out, _ = tiny_run
    report = (out / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(report)
    assert page.open == []
    assert page.references == ["data:,"]
    assert not re.search(r"https?:|@import|url\(", report)
    assert "$" not in re.sub(r"\$\{", "", report)  # no placeholder is left
    (data,) = re.findall(r'id="playback">(.*?)</script>', report)
    shown = json.loads(data)
    assert len(shown["episodes"]) == 4
    for episode in shown["episodes"]:
        decisions = len(episode["paths"])
        assert decode(episode["frames"]).shape == (64 * (decisions + 1), 64, 3)
        assert decode(episode["goal"]).shape == (64, 64, 3)
        assert len(episode["distance"]) == decisions + 1
        for paths, arrival in zip(episode["paths"], episode["arrivals"], strict=True):
            assert np.shape(paths) == (len(shown["bodies"]), settings.search.horizon + 1, 2)
            assert 1 <= arrival <= settings.search.horizon


def test_a_second_run_reuses_and_agrees(tiny_run: tuple[DemoSettings, Path, dict]) -> None:
    settings, out, first = tiny_run
    kept = [out / "episodes.h5", out / "model" / "checkpoint.safetensors"]
    before = [path.stat().st_mtime_ns for path in kept]
    second = run_demo(settings, out, progress=False)
    assert [path.stat().st_mtime_ns for path in kept] == before
    for name, value in first.items():
        if name.startswith(
            ("success", "interval", "decisions", "health", "parity", "train_seconds", "settings")
        ):
            assert second[name] == value, name


def test_other_settings_need_a_fresh_start(tiny_run: tuple[DemoSettings, Path, dict], tmp_path: Path) -> None:
    settings, out, first = tiny_run
    for name, value in {"steps": 13, "episodes": 31, "seed": 1}.items():
        with pytest.raises(ValueError, match=rf"{name} {getattr(settings, name)} -> {value}\).*--fresh"):
            run_demo(DemoSettings.of(settings.world, **{**TINY, name: value}), out, progress=False)
    (out / "notes.txt").write_text("mine")
    fresh = run_demo(settings, out, fresh=True, progress=False)
    assert (out / "notes.txt").read_text() == "mine"
    assert {k: v for k, v in fresh.items() if k.startswith(("success", "decisions_", "health"))} == {
        k: v for k, v in first.items() if k.startswith(("success", "decisions_", "health"))
    }


def test_the_readmes_examples_run(
    tiny_run: tuple[DemoSettings, Path, dict],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = tiny_run
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    examples = [
        example.replace("runs/demo", str(out))
        for example in re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    ]
    acted: list[np.ndarray] = []
    act = fastwm.Agent.act
    monkeypatch.setattr(
        fastwm.Agent, "act", lambda *given, **options: acted.append(act(*given, **options)) or acted[-1]
    )
    ten_lines, planning, own_model, on_a_gpu = (compile(e, "README.md", "exec") for e in examples)
    first: dict = {}
    exec(ten_lines, first)
    assert 1 <= len(acted) <= 20
    assert all(action.shape == (2,) and np.abs(action).max() <= 1 for action in acted)
    assert f"reached after {len(acted)} decisions; the last plan took " in capsys.readouterr().out
    decisions = len(acted)
    exec(planning, first)
    assert len(acted) == decisions + 1
    assert np.abs(acted[-1]).max() <= 1
    assert first["agent"].plan.stats["end"] in capsys.readouterr().out
    names: dict = {}
    exec(own_model, names)
    assert names["contexts"].shape == (30, 1, 192)  # 30 episodes
    assert names["engine"].info()["threads"] == 2
    assert names["engine"].dtype in capsys.readouterr().out
    if torch.cuda.is_available():
        exec(on_a_gpu, {})
    else:
        with pytest.raises((ImportError, RuntimeError), match=r"_cuda|backend 'cuda'"):
            exec(on_a_gpu, {})


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text('{"recipe": ')
    with pytest.raises(ValueError, match=r"ledger\.json is damaged"):
        run_demo(DemoSettings.of("push", **TINY), tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]


@pytest.mark.slow
def test_the_two_room_demo_learns_to_walk_through_the_door(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--env", "two-room", "--out", str(tmp_path), "--quiet"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["episodes"] >= 100
    assert summary["success_planner"] >= 0.9
    assert summary["interval_planner"][0] > summary["interval_random"][1] + 0.5
    assert str(tmp_path / "report.html") in capsys.readouterr().out
