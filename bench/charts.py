"""Pictures of results as SVG that a README can show: a card of its own, light or dark as the reader's system is."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fastwm.demo.charts import Axis, number

from .record import write

# style: colour in light, in dark. One hue per dtype everywhere; what is not fastwm is told apart by shape or dashes.
HUES = {
    "float32": ("#0969da", "#58a6ff"),
    "bfloat16": ("#bc4c00", "#f0883e"),
    "int8": ("#1a7f37", "#3fb950"),
    "other": ("#8250df", "#bc8cff"),
    "plain": ("#59636e", "#9198a1"),
}
_LIGHT, _DARK = (
    "--card:{}; --ink:{}; --muted:{}; --grid:{};".format(*colours)
    + "".join(f" --{k}:{v[i]};" for k, v in HUES.items())
    for i, colours in enumerate(
        (("#ffffff", "#1f2328", "#59636e", "#d1d9e0"), ("#0d1117", "#f0f6fc", "#9198a1", "#3d444d"))
    )
)
STYLE = f"""svg {{ {_LIGHT} font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; }}
@media (prefers-color-scheme: dark) {{ svg {{ {_DARK} }} }}
.card {{ fill: var(--card); }} text {{ fill: var(--ink); }} .muted {{ fill: var(--muted); }}
.title {{ font-weight: 600; font-size: 14px; }} .small {{ font-size: 12px; }}
.middle {{ text-anchor: middle; }} .end {{ text-anchor: end; }}
.band {{ fill: var(--grid); opacity: 0.45; }} .grid {{ stroke: var(--grid); stroke-width: 1; }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round; }} .thin {{ stroke-width: 1.25; }}
.dashed {{ stroke-dasharray: 5 4; }} .hollow {{ fill: var(--card); stroke-width: 1.75; }}
.halo {{ paint-order: stroke; stroke: var(--card); stroke-width: 4px; }}
""" + "".join(
    f".line.{k}, .hollow.{k} {{ stroke: var(--{k}); }} .solid.{k}, text.{k} {{ fill: var(--{k}); }}\n"
    for k in HUES
)

SHAPES = ("circle", "square", "diamond", "triangle", "triangle-down", "cross")
_CROSS = (
    (-1, -3),
    (1, -3),
    (1, -1),
    (3, -1),
    (3, 1),
    (1, 1),
    (1, 3),
    (-1, 3),
    (-1, 1),
    (-3, 1),
    (-3, -1),
    (-1, -1),
)


@dataclass(frozen=True)
class Plot:
    """One pair of axes on a page; points are in data units."""

    x: Axis
    y: Axis

    def frame(self, title: str, x_label: str, y_label: str, *, x_ticks: Sequence[float] = ()) -> list[str]:
        """Grid, ticks and labels. The y label stands above the axis, where it can be read without turning the head.

        x_ticks: instead of round numbers; those that find no room stay without a number.
        """
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        marks = [text(left - 34, top - 26, title, "title"), text(left - 34, top - 9, y_label, "muted small")]
        for tick in ticks(self.y):
            marks.append(_line(left, self.y(tick), right, self.y(tick), "grid"))
            marks.append(text(left - 7, self.y(tick) + 4, number(tick), "muted small end"))
        edge = math.inf  # of the number to the right
        for tick in sorted(x_ticks or ticks(self.x), reverse=True):
            x = self.x(tick)
            marks.append(_line(x, bottom, x, bottom + 4, "grid"))
            half = 3.5 * len(number(tick)) + 3
            if x + half < edge:
                marks.append(text(x, bottom + 18, number(tick), "muted small middle"))
                edge = x - half
        return [*marks, text((left + right) / 2, bottom + 36, x_label, "muted small middle")]

    def line(self, points: Sequence[tuple[float, float]], style: str) -> str:
        path = "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        return f'<path class="line {style}" d="{path}"/>'

    def mark(self, x: float, y: float, shape: str, style: str, *, size: float = 5.0, title: str = "") -> str:
        return mark(self.x(x), self.y(y), shape, style, size=size, title=title)

    def steps(self, points: Sequence[tuple[float, float]], style: str) -> str:
        """A line that keeps its y until the next x."""
        corners = [points[0]]
        for (_, y), (x, after) in itertools.pairwise(points):
            corners += [(x, y), (x, after)]
        return self.line(corners, style)


def mark(x: float, y: float, shape: str, style: str, *, size: float = 5.0, title: str = "") -> str:
    """A point on the page; its title is shown by browsers that open the picture itself."""
    r = size
    corners = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "diamond": ((0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)),
        "triangle": ((0, -1.2 * r), (1.15 * r, r), (-1.15 * r, r)),
        "triangle-down": ((0, 1.2 * r), (1.15 * r, -r), (-1.15 * r, -r)),
        "cross": [(0.4 * r * i, 0.4 * r * j) for i, j in _CROSS],
    }
    inner = f"<title>{escape(title)}</title>" if title else ""
    if shape == "circle":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{inner}</circle>'
    path = "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners[shape]) + "Z"
    return f'<path class="{style}" d="{path}">{inner}</path>'


def ticks(axis: Axis) -> list[float]:
    """Round numbers within the axis: 1, 2, 5 where a logarithmic one spans less than three decades."""
    if not axis.log or axis.high / axis.low > 1000:
        return axis.ticks()
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    return [
        v
        for p in powers
        for v in (10.0**p, 2 * 10.0**p, 5 * 10.0**p)
        if axis.low <= v * 1.0001 and v <= axis.high * 1.0001
    ]


def next_tick(value: float) -> float:
    """The least of 1, 2, 5, 10, 20, … that is not below the value: an axis that ends there ends in a tick."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.9999)


def text(x: float, y: float, content: str, style: str = "") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def legend_line(x: float, y: float, label: str, style: str) -> str:
    """A dash in the style of a line, and its name."""
    return f'<path class="line {style}" d="M{x:.1f} {y:.1f}h22"/>' + text(x + 28, y + 4, label, "small")


def save_svg(path: str | os.PathLike[str], width: int, height: int, label: str, marks: Sequence[str]) -> None:
    """Write the picture; `label` says what it shows, for those who cannot see it."""
    write(path, svg(width, height, label, marks))


def svg(width: int, height: int, label: str, marks: Sequence[str]) -> str:
    card = f'<rect class="card" width="{width}" height="{height}" rx="6"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label, quote=True)}">\n<style>{STYLE}</style>\n'
        + "\n".join([card, *marks])
        + "\n</svg>\n"
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<path class="{style}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'
