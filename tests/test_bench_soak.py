"""The soak and the table of deadlines, in small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import deadline, soak
from bench.models import demo_model
from fastwm.planning import Agent


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_soak_finds_nothing_wrong_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soak.json"
    assert soak.main(["--calls", "400", "--out", str(out)]) == 0
    (line,) = json.loads(out.read_text())["results"]
    assert line["calls"] == 400
    assert line["actions"] + sum(line["refused"].values()) == 400
    assert {name.split(",")[0] for name in line["refused"]} == {"ValueError", "TypeError"}
    assert line["wrong"] == []
    assert 0 < line["deadlines"] < 400
    assert {"complete", "fallback"} <= set(line["ends"])
    printed = capsys.readouterr().out
    assert f"400 calls: {line['actions']} actions" in printed
    assert "WRONG" not in printed


def test_a_soak_sees_what_must_not_happen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Agent.act

    def act(self, obs, goal=None, deadline=None):
        action = right(self, obs, goal, deadline)
        return action * 3 if deadline is None else action

    monkeypatch.setattr(Agent, "act", act)
    out = tmp_path / "soak.json"
    assert soak.main(["--calls", "200", "--out", str(out)]) == 1
    (line,) = json.loads(out.read_text())["results"]
    assert all("not within -1.0 and 1.0" in what for what in line["wrong"])


def test_the_table_of_deadlines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "model", tmp_path / "deadline.json"
    demo_model("mlp").save(model)
    arguments = [
        "--model",
        str(model),
        "--env",
        "two-room",
        "--episodes",
        "2",
        "--iterations",
        "3",
        "--threads",
        "1",
    ]
    assert deadline.main([*arguments, "--deadlines", "0.001", "2000", "--out", str(out)]) == 0
    none, all_of_it = json.loads(out.read_text())["results"]
    assert none["ends"] == {"fallback": none["calls"]}
    assert all_of_it["ends"] == {"complete": all_of_it["calls"]}
    assert none["late"] == none["calls"] == 40  # standing still for the whole of both episodes
    assert none["success"] == 0.0
    assert all_of_it["late"] == 0
    for line in (none, all_of_it):
        ms = line["milliseconds"]
        assert 0 < ms["p50"] <= ms["p99"] <= ms["worst"]
        assert line["interval"][0] <= line["success"] <= line["interval"][1]
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows[0].startswith("| 0.001 ms |")
    assert rows[0].endswith("| 0 % (0 to 66) | fallback 100 % |")
