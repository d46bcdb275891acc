"""Every Triton kernel compiles for every target, and what comes out keeps its budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from triton_fixtures import INTERPRETED, ttsem

pytest.importorskip("triton")

import aot
import guard_kernels as kernels

if INTERPRETED:
    pytest.skip("compiling needs kernels that are not interpreted", allow_module_level=True)
pytestmark = pytest.mark.skipif(ttsem() is not None, reason="nothing is launched")

SCALE = aot.Variant(
    kernels.scale,
    types={"x": "*fp32", "y": "*fp32", "n": "i32:16"},
    constants={"BLOCK": 1024, "FAULTY": False},
)


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("variant", aot.variants(), ids=str)
def test_budget(variant: aot.Variant, target: int | str, record_property: Callable) -> None:
    compiled = aot.compile_for(variant, target)
    record_property("compiled", json.dumps(compiled.row()))
    assert aot.violations(compiled) == []


def test_a_budget_that_is_broken_is_named() -> None:
    mean = aot.Budget(registers=8, shared=-1, wide_loads=1.1, copies=1, tensor_cores=("HMMA",), occupancy=1.1)
    found = aot.violations(aot.compile_for(replace(SCALE, budget=mean), 90))
    for what in (
        "registers ",
        "shared 0, at most -1",
        "wide_loads 1, at",
        "copies 0, at",
        "no HMMA",
        "occupancy 1, at",
    ):
        assert any(f"scale sm_90: {what}" in line for line in found), (what, found)


def test_budget_of_one_target() -> None:
    variant = replace(SCALE, but={80: {"registers": 8}})
    assert aot.violations(aot.compile_for(variant, 90)) == []
    assert len(aot.violations(aot.compile_for(variant, 80))) == 1


def test_without_divisibility_it_is_another_kernel() -> None:
    plain = replace(
        SCALE, types={"x": "*fp32:4", "y": "*fp32:4", "n": "i32"}, budget=aot.Budget(wide_loads=1.0)
    )
    assert aot.violations(aot.compile_for(plain, 90)) == ["scale sm_90: wide_loads 0, at least 1.0"]


def test_a_parameter_forgotten_is_named() -> None:
    with pytest.raises(ValueError, match="parameter n must be in"):
        aot.compile_for(replace(SCALE, types={"x": "*fp32", "y": "*fp32"}), 90)
