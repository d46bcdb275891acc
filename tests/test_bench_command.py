"""`fastwm bench`: refusals before anything is measured, files that an interruption leaves, and doubts that are said."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_lines import MACHINE

from bench import command, kernels, machine, record, timing
from fastwm.cli import _parser

LINE = {"kernel": "goal_cost", "size": "300 × 192", "engine": "fastwm", "dtype": "float32", "passed": True}
TIMES = {"min": 1.0, "median": 1.1, "q1": 1.0, "q3": 1.2, "max": 2.0}
FOUND = {"relative_cost_error": None, "milliseconds": TIMES}
ROWS = [{**LINE, **FOUND, "engine": engine} for engine in ("fastwm", "PyTorch")]


def bench(*arguments: str) -> int:
    everything = ["bench", *arguments]
    return command.run(_parser(everything).parse_args(everything))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that were measured, in no time; the one called "stop" is interrupted."""
    names: list[str] = []

    def results(wanted: tuple[str, ...], **_: object) -> Iterator[list[dict]]:
        for name in wanted:
            names.append(name)
            if name == "stop":
                raise KeyboardInterrupt
            yield ROWS

    monkeypatch.setattr(kernels, "results", results)
    monkeypatch.setattr(kernels, "KERNELS", {"goal_cost": None, "cem_update": None, "stop": None})
    return names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "50"], "--rate goes with --latency"),
        (["--plans", "5"], "--plans goes with --latency"),
        (["--scaling", "--rate", "3"], "--rate goes with --latency"),
        (["--latency", "--repeats", "9"], "--latency repeats nothing"),
        (["--json", "/dev/full"], "/dev/full is not a regular file"),
    ],
)
def test_what_would_have_no_effect_is_refused(arguments: list[str], words: str, measured: list[str]) -> None:
    with pytest.raises(ValueError, match=words):
        bench(*arguments)
    assert not measured


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch, measured: list[str]) -> None:
    monkeypatch.setenv("FASTWM_BACKEND", "torch")
    with pytest.raises(ValueError, match="FASTWM_BACKEND is 'torch'"):
        bench("goal_cost")
    assert not measured


def test_places_that_cannot_be_written_are_refused_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("/dev/stdout")
    for option, place in (("--out", "file"), ("--json", "file/x.json"), ("--json", "link"), ("--json", "")):
        with pytest.raises((ValueError, OSError), match=str(tmp_path / place.removesuffix("/x.json"))):
            bench("goal_cost", option, str(tmp_path / place))
    assert (tmp_path / "file").read_text() == "kept"
    assert (tmp_path / "link").is_symlink()

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "tmp123"))

    monkeypatch.setattr(record.tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space") as caught:
        bench("goal_cost", "--json", str(tmp_path / "new.json"))
    assert caught.value.filename == str(tmp_path / "new.json")
    assert not measured


def test_a_failed_write_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", ".found.json.1.tmp")

    monkeypatch.setattr(record, "write_atomically", full)
    with pytest.raises(OSError, match="No space") as caught:
        record.save(tmp_path / "found.json", {})
    assert caught.value.filename == str(tmp_path / "found.json")


def test_an_interruption_leaves_what_was_found(
    tmp_path: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench("goal_cost", "stop", "--out", str(tmp_path / "new" / "folder"))
    found = json.loads((tmp_path / "new" / "folder" / "kernels.json").read_text())
    assert found["partial"] is True
    assert found["results"] == ROWS
    assert bench("goal_cost", "cem_update", "--out", str(tmp_path)) == 0
    whole = json.loads((tmp_path / "kernels.json").read_text())
    assert "partial" not in whole
    assert len(whole["results"]) == 4
    assert f"wrote {tmp_path / 'kernels.json'}\n" in capsys.readouterr().out


def test_a_busy_machine_is_said_on_the_screen_and_in_the_file(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "header", lambda: {**MACHINE, "load": 3.1})
    bench("goal_cost", "--threads", "3", "--json", str(tmp_path / "found.json"))
    printed, found = capsys.readouterr(), json.loads((tmp_path / "found.json").read_text())
    doubt = "machine busy (load 3.1 on 2 cores): ratios are not to be trusted"
    assert printed.out.count(doubt) == 1
    assert found["doubts"] == [doubt]
    assert "3 threads, more threads than processors," in printed.out
    assert printed.err == ""  # no bar where there is no terminal


def test_doubts_are_load_and_quartiles_that_are_far_apart() -> None:
    even, uneven = ({"milliseconds": {**TIMES, "q3": q3}} for q3 in (1.5, 1.51))
    assert machine.doubts({**MACHINE, "load": 1.0}, [even, {"passed": False}]) == []
    assert len(machine.doubts({**MACHINE, "load": 1.1}, [uneven])) == 2
    (doubt,) = machine.doubts(MACHINE, [even, uneven])
    assert "third quartile up to 1.5 times the first, 1 of 2 times" in doubt


def test_a_slow_first_call_does_not_make_a_turn_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine was busy when the turn began: 20 ms once, then 10 µs a call."""
    now, calls = [0.0], [0]

    def way() -> None:
        calls[0] += 1
        now[0] += 0.02 if calls[0] == 1 else 1e-5

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert timing._turn(way) == pytest.approx(1e-5)
    assert calls[0] * 1e-5 >= timing.TURN


def test_the_commit_is_the_last_that_touched_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("csrc", "fastwm", "bench"):
        (tmp_path / name).mkdir()
    for name in ("csrc/a.cpp", "fastwm/a.py", "CMakeLists.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "machine.py"))
    who = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a",
    }

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", *arguments], cwd=tmp_path, check=True, capture_output=True, env={**os.environ, **who}
        )

    def commit() -> None:
        git("add", "--all")
        git("commit", "--message", "some")

    git("init")
    commit()
    first = machine._commit()
    assert len(first) == 12
    (tmp_path / "README.md").write_text("results")
    assert machine._commit() == first
    commit()
    assert machine._commit() == first
    (tmp_path / "csrc" / "a.cpp").write_text("changed")
    assert machine._commit() == f"{first}+changes"
    commit()
    assert machine._commit() not in (first, f"{first}+changes")
