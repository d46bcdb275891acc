"""The command that runs the rungs: what fails fails it, and so does a rung without tests."""

from __future__ import annotations

from pathlib import Path

import ladder
import pytest

TESTS = """
import pytest

def test_right(record_property):
    record_property("kernel", '{"kernel": "a|b", "registers": 32, "spills": null}')

def test_wrong():
    assert 1 == 2, "one is not two"

@pytest.mark.skip(reason="no")
def test_left_out():
    pass
"""


@pytest.fixture
def rung(tmp_path: Path) -> ladder.Rung:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return ladder.Rung("some", "nothing", (str(tmp_path / "test_some.py"),))


def test_what_fails_is_counted_and_named(rung: ladder.Rung) -> None:
    outcome = ladder.climb(rung, [])
    assert outcome.counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert not outcome.passed
    assert len(outcome.failures) == 1
    assert outcome.failures[0].startswith("test_some::test_wrong - AssertionError: one is not two")
    assert outcome.tables == {"kernel": [{"kernel": "a|b", "registers": 32, "spills": None}]}


def test_arguments_for_pytest_reach_it(rung: ladder.Rung) -> None:
    outcome = ladder.climb(rung, ["-k", "right"])
    assert outcome.passed
    assert outcome.counts == {"passed": 1, "failed": 0, "skipped": 0}


def test_a_rung_without_tests_fails(rung: ladder.Rung) -> None:
    outcome = ladder.climb(rung, ["-k", "nothing_is_called_so"])
    assert not outcome.passed
    assert outcome.failures == ["some: pytest ended with 5, no tests"]


def test_without_a_gpu_a_rung_for_it_is_left_out(rung: ladder.Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "why_not_gpu", lambda: "there is none")
    outcome = ladder.climb(rung._replace(device=True), [])
    assert outcome.passed
    assert outcome.left_out == "there is none"
    assert ladder.summary([outcome])[0][""] == "no GPU"
    asked = ladder.climb(rung._replace(device=True), [], asked=True)
    assert not asked.passed
    assert asked.failures == ["some: there is none"]


@pytest.mark.parametrize("device", [False, True])
def test_only_a_rung_for_it_sees_the_gpu(
    device: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "why_not_gpu", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    seen = "0" if device else ""
    (tmp_path / "test_some.py").write_text(
        "import os\n\ndef test_it():\n"
        f"    assert os.environ['CUDA_VISIBLE_DEVICES'] == {seen!r}\n"
        "    assert 'TRITON_INTERPRET' not in os.environ\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    made = ladder.Rung("some", "nothing", (str(tmp_path / "test_some.py"),), device=device)
    assert ladder.climb(made, []).failures == []


def test_the_page_has_every_table() -> None:
    machine = {"processor": "P", "cores": 2, "load": 0.1, "commit": "c", "torch": "t"}
    tables = {
        "kernel": [{"kernel": "a|b", "registers": 32, "spills": None}],
        "mutant": [{"stem": "s", "fault": "f", "rungs": {"values": "off by one", "thread": None}}],
    }
    content = {
        "machine": machine,
        "triton": "3",
        "results": [{"rung": "r", "seconds": 1.5}],
        "tables": tables,
    }
    lines = ladder.page(content).splitlines()
    assert "| rung | seconds |" in lines
    assert "| r | 1.5 |" in lines
    assert "| stem | fault | values | ttsem | address | thread |" in lines
    assert "| s | f | seen |  |  | - |" in lines
    assert "| a\\|b | 32 |  |" in lines
    assert lines.count("</details>") == 2
    assert any("empty: it was not asked to see it" in line for line in lines)
