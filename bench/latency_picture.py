"""The share of plans that take longer than a time, one line per backend: the tail is what a deadline meets."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastwm.demo.charts import Axis

from .charts import Plot, legend_line, next_tick, save_svg, text

WIDTH, HEIGHT = 860, 424
PANEL = 350  # wide
LEFT, GAP, TOP, BOTTOM = 56, 70, 62, 328
LEAST = 1e-3  # share at which the curves of latency.json end


def draw(content: dict, path: str | os.PathLike[str]) -> None:
    """Write the picture of the lines that have times, one panel per model."""
    lines = [line for line in content["results"] if line["passed"]]
    if not lines:
        raise ValueError("no backend passed its parity check: there is nothing to draw")
    models = list(dict.fromkeys(line["model"] for line in lines))
    marks = []
    for i, model in enumerate(models[:2]):
        marks += _panel(LEFT + i * (PANEL + GAP), model, [line for line in lines if line["model"] == model])
    for i, way in enumerate(dict.fromkeys(line["way"] for line in lines)):
        plans = next(line["plans"] for line in lines if line["way"] == way)
        label = f"{way} ({plans} plans)"
        marks.append(legend_line(LEFT + (i % 3) * 265, 384 + (i // 3) * 22, label, style(way)))
    rate = lines[0]["rate"]
    save_svg(
        path,
        WIDTH,
        HEIGHT,
        f"Share of plans that take longer than a time, at {rate:g} plans per second",
        marks,
    )


def style(way: str) -> str:
    """fastwm's kernels in the colour of their dtype; what is PyTorch, dashed."""
    *name, dtype = way.split()
    if name == ["fastwm", "cpu"]:
        return dtype
    return (
        f"{'plain' if name == ['PyTorch'] else 'other'} {'dashed' if dtype == 'float32' else 'thin dashed'}"
    )


def _panel(left: float, model: str, lines: Sequence[dict]) -> list[str]:
    period = 1000 / lines[0]["rate"]
    low = min(0.9 * period, *(line["curve"][0][1] for line in lines))
    high = max(1.1 * period, *(line["curve"][-1][1] for line in lines))
    least = max(LEAST, min(0.1, *(1 / line["plans"] for line in lines)))
    plot = Plot(
        Axis(low * 0.85, next_tick(high), left, left + PANEL, log=True), Axis(least, 1, BOTTOM, TOP, log=True)
    )
    marks = plot.frame(model, "plan time, ms (logarithmic)", "share of plans that take longer (logarithmic)")
    deadline = plot.x(period)
    marks.append(f'<path class="line plain thin" d="M{deadline:.1f} {TOP}V{BOTTOM}"/>')
    for line in lines:
        marks.append(plot.steps(tail(line), style(line["way"])))
    side, anchor = (5, "") if left + PANEL - deadline > 100 else (-5, " end")
    return [*marks, text(deadline + side, TOP + 11, f"period {period:g} ms", f"muted small halo{anchor}")]


def tail(line: dict) -> list[tuple[float, float]]:
    """Times, and the share of plans that take longer: not below one plan, which is the slowest and ends the line."""
    shares = [
        (t, 1 - share) for share, t in line["curve"] if 1 - share >= max(LEAST, 1 / line["plans"]) - 1e-9
    ]
    return [*shares, (line["curve"][-1][1], shares[-1][1])]
