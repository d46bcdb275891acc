"""The roofline: bytes as they are counted, roofs as they are measured."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import specs
from bench_lines import MACHINE, line, rollout

from bench import bandwidth, roofline
from bench.traffic import operator_traffic, tile_traffic, weight_bytes
from fastwm.engine.pack import PackedPredictor

SIZES = {"E": 24, "W": 33, "L": 2, "H": 2, "D": 12, "M": 40}


def test_weights_are_read_once_or_at_every_step() -> None:
    spec = specs.transformer(0, **SIZES)
    first, second = (dense.weight.numel() for dense in spec.action)
    action = 4 * first + 2 * second
    once, each = weight_bytes(spec, "bfloat16")
    assert once == action + 2 * 2 * (33 * 6 * 33)
    assert each == 2 * (
        2 * (33 * 72 + 24 * 33 + 2 * 33 * 40) + 24 * 33 + sum(d.weight.numel() for d in spec.head)
    )
    assert weight_bytes(spec, "float32")[1] == 2 * each


def test_a_tile_reads_all_weights_at_every_step(isa: str) -> None:
    spec = specs.transformer(0, **SIZES)
    packed = PackedPredictor(spec, dtype="float32", isa=isa)
    once, each = weight_bytes(spec, "float32")
    tile = packed.bound.tile(3, 500, 4, 1, 1)
    expected = -(-1500 // tile) * (once + 4 * each)
    assert tile_traffic(packed, B=3, S=500, T=4, K=1, threads=1) == expected
    assert tile_traffic(packed, B=1, S=1, T=1, K=1, threads=1) == once + each


def test_operators_move_their_inputs_and_outputs_too() -> None:
    spec = specs.transformer(0, **SIZES)
    one, two = (operator_traffic(spec, "float32", B=1, S=n, T=1, K=1) for n in (1, 2))
    weights = sum(weight_bytes(spec, "float32"))
    layer = (33 + 6 * 33) + (33 + 72) + (24 + 33) + 2 * (33 + 40)
    head = sum(sum(dense.weight.shape) for dense in spec.head)
    assert one == weights + 4 * (2 * layer + head)
    assert two - one == one - weights
    sliding = operator_traffic(spec, "float32", B=1, S=1, T=4, K=1)
    assert sliding == 4 * weights + 4 * ((1 + 2 + 3 + 3) * 2 * layer + 4 * head)  # the window holds 3


def test_the_roof_is_the_lower_of_memory_and_arithmetic() -> None:
    assert roofline.roof(2.0, peak=100.0, gigabytes=30.0) == 60.0
    assert roofline.roof(4.0, peak=100.0, gigabytes=30.0) == 100.0


def test_the_picture_shows_one_thread_of_the_best_instruction_set(tmp_path: Path) -> None:
    content = rollout(only="float32")
    shown = roofline.shown(content)
    assert {x["isa"] for x in shown if x["engine"] == "fastwm"} == {"avx512_bf16"}, (
        "of the machine that measured"
    )
    assert {x["threads"] for x in shown} == {1}
    assert {(x["S"], x["T"]) for x in shown if x["engine"] != "fastwm"} == {(300, 5)}
    traffic = [{**{k: x[k] for k in ("way", "threads", "B", "S", "T", "K")}, "bytes": 1e9} for x in shown]
    memory = {
        "machine": MACHINE,
        "results": [{"threads": 1, "gigabytes": {"L3": 90.0, "DRAM": 30.0}}],
        "traffic": traffic,
    }
    assert all(x["intensity"] == x["gflop"] for x in roofline.points(content, memory))
    roofline.draw(content, memory, tmp_path / "roofline.svg")
    picture = ElementTree.parse(tmp_path / "roofline.svg").getroot()
    words = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"float32: 276 GFLOP/s", "L3, 90 GB/s", "torch.compile float32"} <= words
    assert {"a: B 50", "h: T 10"} <= words  # fastwm at other sizes, by letters
    assert {"a", "h"} <= {title.tail for title in picture.iter("{http://www.w3.org/2000/svg}title")}
    with pytest.raises(ValueError, match="other processor"):
        roofline.draw(
            content, {**memory, "machine": {**MACHINE, "processor": "other processor"}}, tmp_path / "no.svg"
        )
    with pytest.raises(ValueError, match="no line of LeWM"):
        roofline.draw(
            {**content, "results": [line("fastwm avx2", "float32", 1.0, model="small")]},
            memory,
            tmp_path / "no.svg",
        )


def test_integers_are_not_floating_point_operations() -> None:
    assert [roofline.unit(dtype) for dtype in ("float32", "bfloat16", "int8")] == [
        "GFLOP/s",
        "GFLOP/s",
        "Gop/s",
    ]


def test_marks_that_would_meet_stand_side_by_side() -> None:
    found = roofline._apart([(10, 50), (12, 52), (11, 49), (12, 90)], room=5)
    assert found == [(10, 50), (17, 52), (26, 49), (12, 90)]


def test_bandwidth_is_of_each_level_and_leaves_pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(bandwidth, "cache_bytes", lambda level, default: 1 << 16)
    before = torch.get_num_threads()
    found = bandwidth.bandwidth(2, seconds=0.02, repeats=3)
    assert set(found) == {"L3", "DRAM"}
    assert all(rate > 0 for rate in found.values())
    assert torch.get_num_threads() == before


def test_cache_sizes_are_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, (level, kind, size) in enumerate((("1", "Data", "48K"), ("2", "Unified", "2048K"))):
        (tmp_path / f"index{index}").mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (tmp_path / f"index{index}" / name).write_text(f"{value}\n")
    monkeypatch.setattr(bandwidth, "CACHES", tmp_path)
    assert bandwidth.cache_bytes(2, 7) == 2 << 20
    assert bandwidth.cache_bytes(3, 7) == 7
