"""Charts as inline SVG. Colours and type are the stylesheet's: marks carry classes, never values of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 262
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 30, 46  # margins of a line chart, with room for its labels


@dataclass(frozen=True)
class Series:
    """A line: points whose y is None are left out. `style` is classes of the stylesheet; no label, no legend."""

    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    style: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from data to the page."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """Round numbers within the scale."""
        if self.log:
            powers = range(
                math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1
            )
            decades = [10.0**p for p in powers]
            if len(decades) >= 2:
                return decades[:: -(-len(decades) // 5)]
            between = [m * 10.0**p for p in range(powers.start - 1, powers.stop + 1) for m in (1, 2, 5)]
            return [v for v in between if self.low <= v <= self.high]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def line_chart(
    series: Sequence[Series], *, label: str, y_label: str, x_label: str = "training steps", log: bool = False
) -> str:
    """Lines over one x axis with a legend below; `label` says what the chart shows, for those who cannot see it."""
    lines = [_drawable(s, log) for s in series]
    xs, ys = ([point[axis] for line in lines for point in line] for axis in (0, 1))
    if not xs:
        return '<p class="empty">No measurements.</p>'
    x_axis = Axis(0, max(*xs, 1), LEFT, WIDTH - RIGHT)
    y_axis = _y_axis(ys, log)
    marks = [
        *_grid(x_axis, y_axis),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "axis middle"),
        _text(0, 12, y_label, "axis"),
    ]
    for s, points in zip(series, lines, strict=True):
        line = [(x_axis(x), y_axis(y)) for x, y in points]
        if not line:
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
        marks.append(f'<path class="line {s.style}" d="{path}"/>')
        if len(line) <= 40:
            marks += [f'<circle class="dot {s.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in line]
    legend = "".join(f'<span class="key {s.style}">{escape(s.label)}</span>' for s in series if s.label)
    return f'{_svg(WIDTH, HEIGHT, label, marks)}<div class="legend">{legend}</div>'


def interval_chart(rows: Sequence[tuple[str, float, tuple[float, float], str]]) -> str:
    """Shares from 0 to 1 with their intervals: rows of (name, share, (low, high), style)."""
    lines = []
    for name, share, (low, high), style in rows:
        whisker = f'<i class="whisker" style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
        lines.append(
            f'<div class="row {style}"><b>{escape(name)}</b>'
            f'<span class="track">{whisker}<i class="share" style="left:{100 * share:.1f}%"></i></span>'
            f"<em>{100 * share:.0f} % <small>{100 * low:.0f} to {100 * high:.0f}</small></em></div>"
        )
    scale = "".join(f'<i style="left:{tick}%">{tick}</i>' for tick in (0, 25, 50, 75, 100))
    lines.append(f'<div class="row scale"><b></b><span>{scale}</span><em></em></div>')
    return f'<div class="bars intervals">{"".join(lines)}</div>'


def bar_chart(rows: Sequence[tuple[str, float, str, str, str]]) -> str:
    """Horizontal bars from 0: rows of (name, value, value as text, small print, style)."""
    longest = max(value for _, value, *_ in rows) or 1.0
    lines = [
        f'<div class="row {style}"><b>{escape(name)}</b>'
        f'<span class="track"><i class="bar" style="width:{100 * value / longest:.2f}%"></i></span>'
        f"<em>{escape(text)} <small>{escape(small)}</small></em></div>"
        for name, value, text, small, style in rows
    ]
    return f'<div class="bars times">{"".join(lines)}</div>'


def number(value: float) -> str:
    """A short form for axes: 0.05, 2, 1500, 1e-4."""
    if 0 < abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _drawable(series: Series, log: bool) -> list[tuple[float, float]]:
    """The points that are there and, on a logarithmic scale, positive."""
    points = zip(series.x, series.y, strict=True)
    return [(x, y) for x, y in points if x is not None and y is not None and (y > 0 or not log)]


def _y_axis(values: Sequence[float], log: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.15, high * 1.15, HEIGHT - BOTTOM, TOP, log=True)
    low = min(low, 0.0) if low > -high else low
    margin = (high - low) * 0.04 or abs(high) or 1.0
    return Axis(low, high + margin, HEIGHT - BOTTOM, TOP)


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    marks = []
    for tick in y_axis.ticks():
        y = y_axis(tick)
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(_text(LEFT - 8, y + 4, number(tick), "tick end"))
    for tick in x_axis.ticks():
        marks.append(_text(x_axis(tick), HEIGHT - BOTTOM + 17, number(tick), "tick middle"))
    return marks


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(width: float, height: float, label: str, marks: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}">{"".join(marks)}</svg>'
