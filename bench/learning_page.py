"""The page of bench/learning.py: tables of what was learned, and every run's curves."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from fastwm.demo.charts import Axis

from .charts import Plot, legend_line, next_tick, save_svg
from .machine import describe

WIDTH, ROW, TOP = 900, 190, 74
LEFTS, PANEL = (60, 360, 660), 200  # of the three panels of a row
STYLES = {"trained": "float32", "untrained": "bfloat16 dashed", "raw pixels, or copying": "plain dashed"}
PROBES = ("probe_r2", "probe_r2_few")
Curve = list[tuple[float, float]]


def page(content: dict) -> str:
    """The results as Markdown."""
    lines, machine = content["results"], content["machine"]
    out = ["# What each objective learns", "", describe(machine, max(line["threads"] for line in lines)), ""]
    out += ["![A row an objective: its loss, its latents' effective rank, what it knows](learning.svg)", ""]
    planned, probed = ([x for x in lines if ("goals" in x) == kind] for kind in (True, False))
    if planned:
        out += [
            "| objective | steps | minutes (threads) | goals of two-room reached | 95 % | random actions | 95 % "
            "| effective rank | least std |",
            "|---|--:|--:|--:|---|--:|---|--:|--:|",
        ]
        for line in planned:
            reached = " | ".join(
                f"{goals['rate']:.2f} | {goals['interval'][0]:.2f} to {goals['interval'][1]:.2f}"
                for goals in line["goals"].values()
            )
            out.append(
                f"| {line['objective']} | {line['steps']} | {_minutes(line)} | {reached} | {_spread(line)} |"
            )
        out += [
            "",
            f"{planned[0]['episodes']} episodes each, the same for all. World models plan; the policy of `wam` acts alone.",
            "",
        ]
    if probed:
        sides = "| {} | untrained | raw pixels "
        out += [
            f"| objective | world | steps | minutes (threads) {sides.format('R² of 1024 labels')}{sides.format('of 64')}"
            "| effective rank | least std |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for line in probed:
            known = [
                _last(line, f"{probe}{side}") for probe in PROBES for side in ("", "_untrained", "_pixels")
            ]
            numbers = " | ".join(f"{value:.3f}" for value in known)
            run = f"{line['objective']} | {line['world']} | {line['steps']} | {_minutes(line)}"
            out.append(f"| {run} | {numbers} | {_spread(line)} |")
        out.append("")
    out += ["One run each; the worlds were collected by `bench/learning.py`, then:", "", "```sh"]
    return "\n".join([*out, *(line["command"] for line in lines), "```", ""])


def curves(content: dict, path: str | os.PathLike[str]) -> None:
    """A row for each objective: loss, effective rank, what it knows beside its baselines."""
    marks = []
    for i, (name, style) in enumerate(STYLES.items()):
        marks.append(legend_line(LEFTS[1] + (0, 90, 190)[i], 22, name, style))
    for i, line in enumerate(content["results"]):
        trained, health = line["metrics"], line["validation"]
        title = f"{line['objective']}, {line['world']}"
        bottom = TOP + i * ROW + 100
        marks += _panel(0, bottom, title, "loss", [_points(trained["step"], trained["loss"])], log=True)
        rank = _points(health["step"], health["effective_rank"])
        marks += _panel(1, bottom, "", "effective rank of the latents", [rank])
        label, known = _knowledge(health)
        marks += _panel(2, bottom, "", label, known, log=label != "R² of 1024 labels")
    height = TOP + len(content["results"]) * ROW - 34
    save_svg(path, WIDTH, height, "Training curves of every objective", marks)


def _knowledge(health: dict) -> tuple[str, list[Curve]]:
    """Of an encoder its probe, else the error of predictions, beside what is no achievement; in the order of STYLES."""
    step = health["step"]
    if "probe_r2_untrained" in health:
        return "R² of 1024 labels", [
            _points(step, health[f"probe_r2{side}"]) for side in ("", "_untrained", "_pixels")
        ]
    ahead, still = (
        ("open_loop_10", "copy_last_10") if "open_loop_10" in health else ("open_loop", "copy_last")
    )
    return f"squared error, {'10 steps ' if '10' in ahead else ''}ahead", [
        _points(step, health[ahead]),
        [],
        _points(step, health[still]),
    ]


def _panel(
    column: int, bottom: float, title: str, label: str, lines: Sequence[Curve], *, log: bool = False
) -> list[str]:
    values = [y for line in lines for _, y in line if not log or y > 0]
    if not values:
        return []
    low, high = min(values), max(values)
    if log:
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9)
    else:
        low, high = min(0.0, low), next_tick(max(high, 1e-9))
    steps = [x for line in lines for x, _ in line]
    x = Axis(0, max(steps), LEFTS[column], LEFTS[column] + PANEL)
    plot = Plot(x, Axis(low, high, bottom, bottom - 100, log=log))
    marks = plot.frame(title, "steps", label)
    for line, style in zip(lines, STYLES.values(), strict=False):
        if line:
            marks.append(plot.line([(s, max(y, low)) for s, y in line], style))
    return marks


def _points(steps: Sequence[float], values: Sequence[float | None]) -> Curve:
    return [(s, v) for s, v in zip(steps, values, strict=True) if v is not None]


def _last(line: dict, name: str) -> float:
    """The run's last measurement; nan where there is none."""
    value = line["validation"][name][-1]
    return math.nan if value is None else value


def _minutes(line: dict) -> str:
    """With the threads that they were on; none of a run that went on from an earlier one."""
    return "–" if line["seconds"] is None else f"{line['seconds'] / 60:.1f} ({line['threads']})"


def _spread(line: dict) -> str:
    return f"{_last(line, 'effective_rank'):.1f} | {_last(line, 'latent_std_least'):.3f}"
