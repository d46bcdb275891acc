"""Fixtures of all tests: the instruction sets of this machine, and uninitialised memory that shows."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from fastwm.engine import backend

sys.path.append(
    str(Path(__file__).parents[1])
)  # for bench/; last, so that an installed fastwm is the one that is tested


def _isas() -> list[str]:
    try:
        return backend.isas()
    except ImportError:
        return []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nothing-skipped", action="store_true", help="a test that is skipped is a failure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("nothing_skipped"):
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}"
    return report


@pytest.fixture(params=_isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set that the build has and the machine runs."""
    return request.param


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that fastwm leaves uninitialised holds NaN (or the least integer), so that a number never
    written is seen."""

    def poison(tensor: torch.Tensor, caller: str) -> torch.Tensor:
        if caller.partition(".")[0] != "fastwm" or tensor.dtype == torch.bool:
            return tensor
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        return (
            tensor.fill_(torch.iinfo(tensor.dtype).min) if tensor.dtype != torch.uint8 else tensor.fill_(0xFF)
        )

    def poisoning(make):
        def wrapper(*arguments, **options):
            tensor = make(*arguments, **options)
            if torch.compiler.is_compiling():
                return tensor
            return poison(tensor, sys._getframe(1).f_globals.get("__name__", ""))

        return wrapper

    monkeypatch.setattr(torch, "empty", poisoning(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoning(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoning(torch.Tensor.new_empty))
