"""The share of plans that take longer than a time, one line per backend: the tail is what a deadline meets."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastwm.demo.charts import Axis

from .charts import Plot, legend_line, save_svg, text

WIDTH, HEIGHT = 860, 424
PANEL = 350  # wide
LEFT, GAP, TOP, BOTTOM = 56, 70, 62, 328
LEAST = 1e-3  # share at the foot of the page


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
        marks.append(legend_line(LEFT + (i % 3) * 210, 384 + (i // 3) * 22, way, style(way)))
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
    low = min(line["curve"][0][1] for line in lines)
    high = max(max(line["curve"][-1][1] for line in lines), 1100 / lines[0]["rate"])
    plot = Plot(
        Axis(low * 0.85, high * 1.15, left, left + PANEL, log=True), Axis(LEAST, 1, BOTTOM, TOP, log=True)
    )
    marks = plot.frame(model, "plan time, ms", "share of plans that take longer")
    deadline = plot.x(1000 / lines[0]["rate"])
    marks.append(f'<path class="line plain thin" d="M{deadline:.1f} {TOP}V{BOTTOM}"/>')
    for line in lines:
        points = [(t, max(1 - share, LEAST)) for share, t in line["curve"]]
        marks.append(plot.steps(points, style(line["way"])))
    return [*marks, text(deadline - 5, BOTTOM - 6, "period", "muted small end halo")]
