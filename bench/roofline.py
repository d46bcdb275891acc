"""The roofline of LeWM's rollout on one thread: python -m bench.roofline measures memory and draws; --draw only draws.

Roofs: the peak of fused multiply-adds of each dtype, measured in the run of bench/results/rollout.json, and reading from L3
and DRAM. A point is a way of computing the rollout:
  up      counted minimal operations per second (bench/operations.py), the same count for everybody
  across  the same operations per byte that must come from beyond L2, counted in bench/traffic.py: fastwm's tiles read the
          packed weights at every step; operators run one by one read weights and inputs and write outputs
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from fastwm.demo.charts import Axis
from fastwm.engine.backend import default_threads
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor

from .bandwidth import bandwidth
from .charts import Plot, mark, next_tick, save_svg, text
from .machine import header
from .models import transformer
from .record import RESULTS, read, save
from .traffic import operator_traffic, tile_traffic

MODEL, THREADS = "lewm", 1
DEFAULT = {"B": 1, "S": 300, "T": 5, "K": 1}
SHAPES = {
    "fastwm": "circle",
    "torch eager": "square",
    "torch.compile": "diamond",
    "stable-worldmodel": "cross",
}
SHAPES |= {"openvino": "triangle", "onnxruntime": "triangle-down"}


def measure(rollout: dict) -> dict:
    """roofline.json: read bandwidths, and the bytes of each line of `rollout` that the picture shows."""
    counts = sorted({1, default_threads()})
    content = {"machine": header(), "results": [{"threads": n, "gigabytes": bandwidth(n)} for n in counts]}
    spec = import_model(transformer()).spec
    packed: dict[tuple[str, str], PackedPredictor] = {}
    traffic = []
    for line in shown(rollout):
        setting = {name: line[name] for name in DEFAULT}
        if line["engine"] == "fastwm":
            key = line["dtype"], line["isa"]
            if key not in packed:
                packed[key] = PackedPredictor(spec, dtype=key[0], isa=key[1])
            count = tile_traffic(packed[key], **setting, threads=line["threads"])
        else:
            count = operator_traffic(spec, line["dtype"], **setting)
        traffic.append({"way": line["way"], **setting, "threads": line["threads"], "bytes": count})
    return {**content, "traffic": traffic}


def shown(rollout: dict) -> list[dict]:
    """LeWM on one thread: fastwm's best instruction set in every setting, everybody else in the default one."""
    own = [
        x for x in rollout["results"] if x.get("model") == MODEL and x["threads"] == THREADS and x["passed"]
    ]
    best = next((isa for isa in rollout["machine"]["isas"] if any(x["isa"] == isa for x in own)), None)
    return [
        x
        for x in own
        if (x["isa"] == best if x["engine"] == "fastwm" else all(x[k] == v for k, v in DEFAULT.items()))
    ]


def points(rollout: dict, roofline: dict) -> list[dict]:
    """Lines of the picture, with `intensity` in operations per byte."""
    keys = ("way", "threads", *DEFAULT)
    counted = {tuple(entry[k] for k in keys): entry["bytes"] for entry in roofline["traffic"]}
    found = []
    for line in shown(rollout):
        if (count := counted.get(tuple(line[k] for k in keys))) is not None:
            found.append({**line, "intensity": 1e9 * line["gflop"] / count})
    return found


def roof(intensity: float, peak: float, gigabytes: float) -> float:
    """The most GFLOP/s at an intensity."""
    return min(peak, intensity * gigabytes)


# ---- the picture -----------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 58, 596, 64, 440


def draw(rollout: dict, roofline: dict, path: str | os.PathLike[str]) -> None:
    """Write the picture; ValueError unless both files are of one machine and hold something to show."""
    if rollout["machine"]["processor"] != roofline["machine"]["processor"]:
        raise ValueError(
            f"roofline.json is of {roofline['machine']['processor']!r}, rollout.json of {rollout['machine']['processor']!r}"
        )
    found = points(rollout, roofline)
    if not found:
        raise ValueError("rollout.json holds no line of LeWM on one thread: run python -m bench.run rollout")
    peaks = {
        d: max(x["peak_gflops"] for x in found if x["dtype"] == d)
        for d in DTYPES
        if any(x["dtype"] == d for x in found)
    }
    memory = next(line["gigabytes"] for line in roofline["results"] if line["threads"] == THREADS)
    plot = Plot(
        Axis(1, next_tick(1.8 * max(x["intensity"] for x in found)), LEFT, RIGHT, log=True),
        Axis(min(x["gflops"] for x in found) / 3, 1.5 * max(peaks.values()), BOTTOM, TOP, log=True),
    )
    title = f"LeWM's rollout on one core of an {rollout['machine']['processor']}"
    marks = plot.frame(
        title,
        "counted operations per byte from beyond L2; marks that would meet stand side by side",
        "G operations/s (GFLOP/s; of int8: integer)",
    )
    marks += _roofs(plot, peaks, memory)
    usual, others = [x for x in found if _usual(x)], [x for x in found if not _usual(x)]
    others.sort(key=lambda x: x["intensity"])
    sizes = sorted(set(map(_size, others)))
    places = _apart([(plot.x(x["intensity"]), plot.y(x["gflops"])) for x in [*usual, *others]])
    for x, place in zip([*usual, *others], places, strict=True):
        size = _size(x)
        name = f"{x['way']}{size and ', ' + size}: {x['gflops']:.0f} {unit(x['dtype'])}"
        if size:
            letter = f"<title>{name}</title>{_letter(sizes.index(size))}"
            marks.append(
                f'<text class="small middle {x["dtype"]}" x="{place[0]:.1f}" y="{place[1] + 4:.1f}">{letter}</text>'
            )
            continue
        ours = x["engine"] == "fastwm"
        style = f"{'solid' if ours else 'hollow'} {x['dtype']}"
        shape, width = SHAPES.get(x["engine"], "circle"), 6.5 if ours else 5.0
        marks.append(mark(*place, shape, style, size=width, title=name))
    save_svg(path, WIDTH, HEIGHT, title, [*marks, *_legend(usual, sizes)])


def unit(dtype: str) -> str:
    return "Gop/s" if dtype == "int8" else "GFLOP/s"


def _usual(line: dict) -> bool:
    return not _size(line)


def _apart(places: Sequence[tuple[float, float]], room: float = 13.0) -> list[tuple[float, float]]:
    """Places on the page, moved to the right until no two are closer than a mark is wide."""
    found: list[tuple[float, float]] = []
    for x, y in places:
        while any(abs(x - u) < room - 0.1 and abs(y - v) < room for u, v in found):
            x += room
        found.append((x, y))
    return found


def _size(line: dict) -> str:
    """What is not as in DEFAULT."""
    return ", ".join(f"{name} {line[name]}" for name, value in DEFAULT.items() if line[name] != value)


def _letter(i: int) -> str:
    return chr(ord("a") + i)


def _roofs(plot: Plot, peaks: dict[str, float], memory: dict[str, float]) -> list[str]:
    marks = []
    highest = max(peaks.values())
    for level, gigabytes in memory.items():
        low, high = max(plot.x.low, plot.y.low / gigabytes), min(plot.x.high, highest / gigabytes)
        marks.append(
            plot.line(
                [(low, roof(low, highest, gigabytes)), (high, roof(high, highest, gigabytes))],
                "plain thin dashed",
            )
        )
        x, y = plot.x(low), plot.y(roof(low, highest, gigabytes))
        rise = (plot.y(roof(high, highest, gigabytes)) - y) / (plot.x(high) - x)
        turned = f'<g transform="translate({x + 8:.1f} {y + 8 * rise - 7:.1f}) rotate({math.degrees(math.atan(rise)):.1f})">'
        marks.append(f"{turned}{text(0, 0, f'{level}, {gigabytes:.0f} GB/s', 'muted small halo')}</g>")
    slowest = max(memory.values())
    for dtype, peak in peaks.items():
        marks.append(plot.line([(max(plot.x.low, peak / slowest), peak), (plot.x.high, peak)], dtype))
        left = (
            plot.x(max(plot.x.low, peak / min(memory.values()))) + 14
        )  # to the right of the last slope, left of the marks
        label = f"{dtype}: {peak:.0f} {unit(dtype)}"
        marks.append(text(left, plot.y(peak) - 6, label, f"small halo {dtype}"))
    return marks


def _legend(usual: list[dict], sizes: list[str]) -> list[str]:
    """The ways in the default setting, fastest first, and what the letters mean."""
    left, y = RIGHT + 30, TOP + 4
    marks = [
        text(left - 6, y, "300 candidates, 5 blocks", "muted small"),
        text(WIDTH - 14, y, "Gop/s", "muted small end"),
    ]
    for x in sorted(usual, key=lambda x: -x["gflops"]):
        y += 21
        ours = x["engine"] == "fastwm"
        style = f"{'solid' if ours else 'hollow'} {x['dtype']}"
        marks.append(mark(left, y - 4, SHAPES.get(x["engine"], "circle"), style, size=6 if ours else 4.5))
        marks.append(text(left + 14, y, f"{x['engine']} {x['dtype']}", "small"))
        marks.append(text(WIDTH - 14, y, f"{x['gflops']:.0f}", "small end"))
    if sizes:
        marks.append(text(left - 6, y + 24, "fastwm at other sizes:", "muted small"))
    for i, size in enumerate(sizes):
        marks.append(text(left - 6 + i % 2 * 120, y + 42 + i // 2 * 17, f"{_letter(i)}: {size}", "small"))
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="draw again from the files that are there")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="of rollout.json, for the rest"
    )
    arguments = parser.parse_args()
    rollout = read(arguments.out / "rollout.json")
    if not arguments.draw:
        save(arguments.out / "roofline.json", measure(rollout))
    draw(rollout, read(arguments.out / "roofline.json"), arguments.out / "roofline.svg")
    print(f"wrote {arguments.out / 'roofline.svg'}")


if __name__ == "__main__":
    main()
