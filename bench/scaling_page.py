"""The scaling page: where cost stops being linear, by how much, and what the counts say about it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastwm.demo.charts import Axis

from .charts import HUES, Plot, legend_line, next_tick, save_svg, text
from .machine import doubts
from .record import write

LINEAR = 1.25  # cost per unit, against the best of the dtype, that still counts as linear

FEW = 4  # points of an axis, below which a page concludes nothing

# axis: what a unit is, what its values are.
UNITS = {
    "candidates": ("ms per candidate", "candidates"),
    "horizon": ("ms per block", "blocks ahead"),
    "depth": ("ms per layer", "layers"),
    "width": ("ms per counted GFLOP", "numbers in a latent"),
    "threads": ("ms × threads", "threads"),
}

# Why, by hand: (axis, side of the best point, cause). The cause is decided by the data, in this order:
#   work    more counted operations per unit explain more than half of the departure
#   memory  reading the weights at the bandwidth measured for one thread would take at least MEMORY of the time
#   rows    the next point towards the best takes no longer in all, though it has more units
#   other   none of these
WHY = {
    (
        "candidates",
        "below",
        "rows",
    ): "{next} candidates take no longer than {value}: all weights pass whatever the rows, and with so few rows they are "
    "waited for.",
    (
        "horizon",
        "above",
        "work",
    ): "After block {window} the window slides, every place in it holds another frame, and keys and values "
    "are made again for the whole window instead of one token.",
    ("depth", "below", "work"): "Conditioning, action encoder and head are paid once, whatever the depth.",
    (
        "width",
        "below",
        "other",
    ): "Norms, activations and softmax are not counted; they grow with the width, matrix products "
    "with its square.",
}
BY_CAUSE = {
    "memory": "All tiles together read {megabytes:.0f} MB of weights: at the {l3:.0f} GB/s at which one thread reads L3, that "
    "is {share:.0%} of the time.",
    "other": "The counts do not explain it.",
    "work": "That is counted work.",
    "rows": "{next} take no longer than {value}.",
}
MEMORY = 0.3
NO_LONGER = 1.1


@dataclasses.dataclass(frozen=True)
class Departure:
    """The first point on one side of the best whose cost per unit is more than LINEAR times the best.

    ratio = work x time: counted operations per unit, and time per counted operation, against the best point's.
    """

    line: dict
    towards: dict  # the point before it, seen from the best
    ratio: float
    work: float
    time: float


@dataclasses.dataclass(frozen=True)
class Reach:
    """How far one dtype is linear along one axis."""

    best: dict
    first: dict  # the ends of the linear stretch around the best
    last: dict
    below: Departure | None
    above: Departure | None


def fixed(line: dict) -> str:
    """What is the same along the axis of a line."""
    sizes = {
        "candidates": f"{line['S']} candidates",
        "horizon": f"{line['T']} blocks ahead",
        "depth": f"{line['depth']} layers",
        "width": f"{line['width']} wide",
        "threads": f"{line['threads']} thread{'s' if line['threads'] > 1 else ''}",
    }
    del sizes[line["axis"]]
    more = ["heads and hidden layer in proportion"] * (line["axis"] == "width")
    return ", ".join([*sizes.values(), *more])


def cost(line: dict) -> float:
    """Milliseconds per unit of the line's axis."""
    least = line["milliseconds"]["min"]
    if line["axis"] == "width":
        return least / line["gflop"]
    return least * line["threads"] if line["axis"] == "threads" else least / line["units"]


def reach(lines: Sequence[dict]) -> Reach:
    """Of the lines of one axis and dtype, in ascending order."""
    costs = [cost(line) for line in lines]
    middle = costs.index(min(costs))
    best = lines[middle]

    def work(line: dict) -> float:
        return 1.0 if line["axis"] == "width" else line["gflop"] / line["units"]

    def walk(order: Sequence[int]) -> tuple[dict, Departure | None]:
        end = best
        for i in order:
            ratio = costs[i] / costs[middle]
            if ratio > LINEAR:
                more = work(lines[i]) / work(best)
                return end, Departure(lines[i], end, ratio, more, ratio / more)
            end = lines[i]
        return end, None

    first, below = walk(range(middle - 1, -1, -1))
    last, above = walk(range(middle + 1, len(lines)))
    return Reach(best, first, last, below, above)


def why(departure: Departure, bandwidth: dict | None) -> str:
    """The caption of the cause that the numbers of this point show."""
    line, towards = departure.line, departure.towards
    side = "below" if line["value"] < towards["value"] else "above"
    seconds = line["milliseconds"]["min"] / 1e3
    l3 = bandwidth["L3"] if bandwidth else math.nan
    share = line["streamed_bytes"] / 1e9 / l3 / line["threads"] / seconds
    if math.log(departure.work) > math.log(departure.ratio) / 2:
        cause = "work"
    elif share >= MEMORY:
        cause = "memory"
    elif side == "below" and towards["milliseconds"]["min"] <= NO_LONGER * 1e3 * seconds:
        cause = "rows"
    else:
        cause = "other"
    template = WHY.get((line["axis"], side, cause), BY_CAUSE[cause])
    numbers = {"window": line["window"], "megabytes": line["streamed_bytes"] / 1e6, "l3": l3, "share": share}
    return template.format(value=line["value"], next=towards["value"], **numbers)


def page(content: dict) -> str:
    """The whole page as Markdown. content["bandwidth"]: GB/s of one thread by level, where it was measured."""
    bandwidth = content.get("bandwidth")
    machine, lines = content["machine"], [line for line in content["results"] if line["passed"]]
    parts = [
        "# How the cost of a rollout scales",
        "<!-- written by python -m bench.scaling -->",
        f"{machine['processor']}, {lines[0]['isa']}, fastwm {machine['fastwm']} ({machine['commit']}), {machine['date'][:10]}, "
        f"load {machine['load']:.1f} on {machine['cores']} cores at the start; {_spread(lines)}. "
        "LeWM's predictor with random weights, one size changed at a time; least of "
        f"{lines[0]['repeats']} repeats, all points of an axis in turns; costs agree with PyTorch's at every point. Linear is "
        f"a cost per unit within {LINEAR - 1:.0%} of the dtype's best.",
        *(f"**{doubt[0].upper()}{doubt[1:]}.**" for doubt in doubts(machine, lines)),
    ]
    if _drawn(lines):
        parts.append("![Cost per unit against the best, for each axis](scaling.svg)")
    for axis in dict.fromkeys(line["axis"] for line in lines):
        own = [line for line in lines if line["axis"] == axis]
        same = fixed(own[0])
        parts += [f"## {axis.capitalize()}", f"{same[0].upper()}{same[1:]}."]
        if axis in _drawn(lines):
            items = []
            for dtype in dict.fromkeys(line["dtype"] for line in own):
                found = reach([line for line in own if line["dtype"] == dtype])
                items.append(_sentences(dtype, found, UNITS[axis][0], bandwidth))
            parts.append("\n".join(items))
        parts.append(_table(own))
    return "\n\n".join(parts) + "\n"


def _drawn(lines: Sequence[dict]) -> list[str]:
    """The axes with points enough to conclude something."""
    counts = Counter(axis for axis, _ in {(line["axis"], line["value"]) for line in lines})
    return [axis for axis in dict.fromkeys(line["axis"] for line in lines) if counts[axis] >= FEW]


def _spread(lines: Sequence[dict]) -> str:
    spreads = sorted(line["milliseconds"]["q3"] / line["milliseconds"]["q1"] for line in lines)
    return f"third quartiles are {spreads[len(spreads) // 2]:.2f} times the first (median), {spreads[-1]:.2f} at most"


def _sentences(dtype: str, found: Reach, unit: str, bandwidth: dict | None) -> str:
    best = found.best
    text = (
        f"- **{dtype}**: best at {best['value']} (tiles of {best['tile']} candidates), {cost(best):.3g} {unit}, "
        f"{_share(best):.0%} of the peak; linear from "
        f"{found.first['value']} to {found.last['value']}."
    )
    for departure in (found.below, found.above):
        if departure is not None:
            text += (
                f" At {departure.line['value']} a unit costs {departure.ratio:.2f} times the best ({departure.work:.2f} in "
                f"operations × {departure.time:.2f} in time per operation). {why(departure, bandwidth)}"
            )
    return text


def _table(lines: Sequence[dict]) -> str:
    dtypes = list(dict.fromkeys(line["dtype"] for line in lines))
    rows = [
        f"| {lines[0]['axis']} | GFLOP | "
        + " | ".join(f"{dtype}, ms | of the peak" for dtype in dtypes)
        + " |",
        "|---:" * (2 + 2 * len(dtypes)) + "|",
    ]
    for value in dict.fromkeys(line["value"] for line in lines):
        here = {line["dtype"]: line for line in lines if line["value"] == value}
        cells = [
            f"{here[d]['milliseconds']['min']:.3g} | {_share(here[d]):.0%}" if d in here else "– | –"
            for d in dtypes
        ]
        rows.append(f"| {value} | {next(iter(here.values()))['gflop']:.3g} | " + " | ".join(cells) + " |")
    return "<details><summary>Times</summary>\n\n" + "\n".join(rows) + "\n\n</details>"


def _share(line: dict) -> float:
    return line["gflop"] / line["milliseconds"]["min"] * 1e3 / line["peak_gflops"]


# ---- the picture -----------------------------------------------------------------------------------------------------------

WIDTH, COLUMN, ROW, LEFT, TOP = 860, 282, 250, 50, 58
PANEL = (208, 140)


def draw(content: dict, path: str | os.PathLike[str]) -> None:
    """Cost per unit against the dtype's best, a panel per axis; the band is what counts as linear."""
    lines = [line for line in content["results"] if line["passed"]]
    axes = _drawn(lines)
    dtypes = list(dict.fromkeys(line["dtype"] for line in lines))
    marks = []
    for i, axis in enumerate(axes):
        left, top = LEFT + i % 3 * COLUMN, TOP + i // 3 * ROW
        marks += _panel(
            left, top, axis, {d: [x for x in lines if (x["axis"], x["dtype"]) == (axis, d)] for d in dtypes}
        )
    left, top = LEFT + len(axes) % 3 * COLUMN - 20, TOP + len(axes) // 3 * ROW
    for i, dtype in enumerate(dtypes):
        marks.append(legend_line(left, top + 12 + 24 * i, dtype, dtype if dtype in HUES else "other"))
    foot = top + 24 * len(dtypes) + 12
    marks.append(f'<rect class="band" x="{left}" y="{foot - 7}" width="22" height="12"/>')
    marks.append(text(left + 28, foot + 4, f"linear: within {LINEAR - 1:.0%} of the best", "small"))
    height = TOP + ((len(axes) + 3) // 3) * ROW - 40
    save_svg(path, WIDTH, height, "Cost per unit against the best, for each axis and dtype", marks)


def _panel(left: float, top: float, axis: str, lines: dict[str, list[dict]]) -> list[str]:
    ratios = {d: [cost(x) / min(map(cost, own)) for x in own] for d, own in lines.items() if own}
    values = [x["value"] for own in lines.values() for x in own]
    highest = max(2.0, *(r for own in ratios.values() for r in own))
    plot = Plot(
        Axis(min(values), max(values), left, left + PANEL[0], log=True),
        Axis(1 / 1.06, next_tick(highest), top + PANEL[1], top, log=True),
    )
    band_top, band_foot = plot.y(LINEAR), plot.y(1 / 1.06)
    marks = [
        f'<rect class="band" x="{left}" y="{band_top:.1f}" width="{PANEL[0]}" height="{band_foot - band_top:.1f}"/>',
        *plot.frame(axis, UNITS[axis][1], f"{UNITS[axis][0]}, times the best", x_ticks=sorted(set(values))),
    ]
    for dtype, own in ratios.items():
        points = list(zip([x["value"] for x in lines[dtype]], own, strict=True))
        style = dtype if dtype in HUES else "other"
        marks.append(plot.line(points, style))
        marks += [
            plot.mark(x, y, "circle", f"solid {style}", size=2.2, title=f"{dtype} {x}: {y:.2f}")
            for x, y in points
        ]
    return marks


def write_page(content: dict, directory: str | os.PathLike[str]) -> list[Path]:
    """scaling.md beside scaling.json, and scaling.svg where there is something to draw; returns what was written."""
    directory = Path(directory)
    files = [directory / "scaling.md"]
    if _drawn([line for line in content["results"] if line["passed"]]):
        files.append(directory / "scaling.svg")
        draw(content, files[-1])
    write(files[0], page(content))
    return files
