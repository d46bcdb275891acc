"""The planners' page: what every planner achieves in every task, what a plan takes, and how many times cheaper the best are."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fastwm.demo.charts import Axis
from fastwm.evaluation import CONFIDENCE_95, Difference

from .charts import Plot, mark, next_tick, save_svg, text, ticks
from .machine import doubts
from .record import write

MARGIN = 0.05  # of the baseline that equal success may lose: of all episodes, or of the baseline's return

EQUAL = (
    "Equal: the 95 % interval of the difference from the reference, over the same episodes, ends no lower than 5 points (of "
    "returns, 5 %) below it. Better: the lower end of a planner's own interval is at least the reference's success. Of the "
    "planners that are, the one that plans fastest is named; of many such tests some pass by luck."
)


def measured(lines: Sequence[dict], task: str | None = None) -> list[dict]:
    """Lines that have a success or return, of one task or of all."""
    return [line for line in lines if "value" in line and task in (None, line["task"])]


def difference(line: dict, reference: dict) -> tuple[float, float]:
    """95 % confidence interval of the line's value less the reference's, from the same episodes."""
    mine, other = line["each"], reference["each"]
    if len(mine) != len(other) or line["task"] != reference["task"]:
        raise ValueError(f"{line['way']} and {reference['way']} had other episodes")
    if line["measure"] == "success":
        pairs = list(zip(mine, other, strict=True))
        return Difference(pairs.count(("1", "0")), pairs.count(("0", "1")), len(pairs)).interval
    gained = np.subtract(mine, other)
    if len(gained) < 2:
        return -math.inf, math.inf
    half = CONFIDENCE_95 * float(gained.std(ddof=1)) / math.sqrt(len(gained))
    return float(gained.mean()) - half, float(gained.mean()) + half


def equal(line: dict, reference: dict) -> bool:
    """See EQUAL."""
    margin = MARGIN * (1.0 if line["measure"] == "success" else abs(reference["value"]))
    return difference(line, reference)[0] >= -margin


def better(line: dict, reference: dict) -> bool:
    """See EQUAL."""
    return line["low"] >= reference["value"]


def cheapest(lines: Sequence[dict], reference: dict, passes: Callable[[dict, dict], bool]) -> dict | None:
    """The line of the reference's task with the fastest plans that `passes(line, reference)`; None if none but itself."""
    found = [
        line
        for line in measured(lines, reference["task"])
        if line is not reference and passes(line, reference)
    ]
    return min(found, key=plan_time, default=None)


def plan_time(line: dict) -> float:
    """Milliseconds, median."""
    return line["milliseconds"]["median"]


def references(lines: Sequence[dict]) -> list[dict]:
    """The baseline of every task, and planners of ours with as large a budget."""
    found = []
    for base in (line for line in measured(lines) if line["baseline"]):
        size = [base[name] for name in ("samples", "iterations", "engine")]
        found += [
            base,
            *(
                line
                for line in measured(lines, base["task"])
                if line is not base and [line[name] for name in ("samples", "iterations", "engine")] == size
            ),
        ]
    return found


# ---- the page ----------------------------------------------------------------------------------------------------------------


def value(line: dict) -> str:
    """The success or return with its interval."""
    if "value" not in line:
        return "–"
    if line["measure"] == "return":
        return f"{line['value']:.0f} ({line['low']:.0f} to {line['high']:.0f})"
    return f"{100 * line['value']:.0f} % ({100 * line['low']:.0f} to {100 * line['high']:.0f})"


def row(line: dict) -> str:
    """One line for a terminal."""
    tried = f"{line['candidates']:6.0f} candidates" if "candidates" in line else ""
    return f"{line['task']:<9} {line['way']:<44} {value(line):>24} {plan_time(line):9.3g} ms {tried}"


def page(content: dict) -> str:
    """The whole page as Markdown."""
    machine, lines = content["machine"], content["results"]
    parts = [
        "# Planners",
        "<!-- written by python -m bench.planners -->",
        f"{machine['processor']}, {machine['isa']}, {lines[0]['threads']} thread{'s' * (lines[0]['threads'] > 1)}, fastwm "
        f"{machine['fastwm']} ({machine['commit']}), torch {machine['torch']}, {machine['date'][:10]}, load "
        f"{machine['load']:.1f} on {machine['cores']} cores at the start. Every planner of a task met the same episodes, with "
        "a plan at every decision from what was left of the plan before (the disc: one plan, executed as it is). Intervals are "
        "of 95 %. Milliseconds: the median of "
        f"{lines[0]['repeats']} plans for one environment, pictures encoded, planners in turns.",
        *(f"**{doubt[0].upper()}{doubt[1:]}.**" for doubt in doubts(machine, lines)),
    ]
    if content.get("partial"):
        parts.append("**The run was interrupted: planners are missing.**")
    parts += ["![Success against milliseconds per plan](planners.svg)", "## At equal success", EQUAL]
    parts += [_summary(lines), *_split(lines)]
    if content.get("parity"):
        errors = [
            f"{name} {found['relative_cost_error']:.0e}"
            + (f" (elites {found['elite_overlap']:.0%} the same)" if "int8" in name else "")
            for name, found in content["parity"].items()
        ]
        parts.append(
            f"Parity in the rooms: largest relative difference of a cost from the model's own in plain PyTorch float32: "
            f"{', '.join(errors)}. The baseline in float32 was timed, not run in episodes."
        )
        parts.append(MODEL)
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        count = max((line["episodes"] for line in own if "episodes" in line), default=0)
        parts += [f"## {task.capitalize()}", f"{own[0]['about']} {count} episodes.", _table(own)]
    return "\n\n".join(parts) + "\n"


MODEL = (
    "The model of the rooms: `fastwm collect two-room-steps data/rooms.h5 --episodes 1000 --length 91`, then `fastwm train "
    "data/rooms.h5 runs/rooms-steps --no-residual --width 128 --depth 2 --mlp-dim 512 --action-block 5 --steps 2500`."
)


def _summary(lines: Sequence[dict]) -> str:
    rows = [
        "| task | reference | it achieves | ms | | fastest planner | it achieves | ms | times cheaper |",
        "|---|---|---|---:|---|---|---|---:|---:|",
    ]
    for reference in references(lines):
        for name, passes in (("equal", equal), ("better", better)):
            found = cheapest(lines, reference, passes)
            mine = ["none", "–", "–", "–"]
            if found is not None:
                ratio = plan_time(reference) / plan_time(found)
                mine = [found["way"], value(found), f"{plan_time(found):.3g}", f"{ratio:.3g}"]
            cells = [
                reference["task"],
                reference["way"],
                value(reference),
                f"{plan_time(reference):.3g}",
                name,
            ]
            rows.append(f"| {' | '.join([*cells, *mine])} |")
    return "\n".join(rows)


def _split(lines: Sequence[dict]) -> list[str]:
    """How much of it is the engine, how much the search, where the baseline was timed on PyTorch, too."""
    sentences = []
    for base in (line for line in measured(lines) if line["baseline"]):
        found = cheapest(lines, base, better)
        timed = [line for line in lines if "value" not in line and line["task"] == base["task"]]
        if not timed or found is None:
            continue
        classic = timed[0]
        engine, search = plan_time(classic) / plan_time(base), plan_time(base) / plan_time(found)
        sentences.append(
            f"**In the {base['task']}, {engine * search:.0f} times less time per plan than the published search takes in "
            f"PyTorch** ({classic['way']}: {plan_time(classic):.0f} ms; {found['way']}: {plan_time(found):.3g} ms), at a "
            f"success that is better: {engine:.1f} times by the engine, {search:.0f} times by the search."
        )
    return sentences


def _table(lines: Sequence[dict]) -> str:
    measure = lines[0]["measure"]
    rows = [
        f"| planner | {measure} (95 %) | candidates per plan | ms per plan | against the baseline |",
        "|---|---|---:|---:|---|",
    ]
    base = next((line for line in measured(lines) if line["baseline"]), None)
    for line in lines:
        verdict = "–" if "value" not in line else "baseline" if line is base else ""
        if base is not None and not verdict:
            verdict = "better" if better(line, base) else "equal" if equal(line, base) else ""
        tried = f"{line['candidates']:.0f}" if "candidates" in line else "–"
        rows.append(f"| {line['way']} | {value(line)} | {tried} | {plan_time(line):.3g} | {verdict} |")
    return "\n".join(rows)


# ---- the picture -------------------------------------------------------------------------------------------------------------

WIDTH, LEFT, TOP, COLUMN, ROW, PANEL = 860, 56, 58, 420, 300, (350, 200)
# method: hue, dashes, shape. Methods that are told apart by their shape share a hue.
STYLES = {
    "CEM": ("float32", "", "circle"),
    "iCEM": ("float32", " dashed", "square"),
    "MPPI": ("bfloat16", "", "diamond"),
    "predictive sampling": ("int8", "", "triangle"),
    "random shooting": ("int8", " dashed", "triangle-down"),
    "mixture CEM": ("other", "", "circle"),
    "gradient descent": ("other", " dashed", "diamond"),
    "categorical CEM": ("bfloat16", " dashed", "square"),
}
PLAIN = ("plain", "", "cross")  # the baselines


def draw(content: dict, path: str | os.PathLike[str]) -> None:
    """Success or return against milliseconds per plan, a panel per task, a line per method over its budgets."""
    lines = measured(content["results"])
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    marks = []
    for i, task in enumerate(tasks):
        left, top = LEFT + i % 2 * COLUMN, TOP + i // 2 * ROW
        marks += _panel(left, top, task, measured(lines, task))
    foot = TOP + (len(tasks) + 1) // 2 * ROW - 28
    shown = [method for method in STYLES if any(line["method"] == method for line in lines)]
    for i, method in enumerate([*shown, "the baseline (large)"]):
        hue, dashes, shape = STYLES.get(method, PLAIN)
        x, y = LEFT - 20 + i % 4 * 200, foot + i // 4 * 24
        marks.append(f'<path class="line {hue}{dashes}" d="M{x} {y}h26"/>')
        marks.append(mark(x + 13, y, shape, f"solid {hue}", size=3.5))
        marks.append(text(x + 34, y + 4, method, "small"))
    height = foot + 24 * (len(shown) // 4 + 1)
    save_svg(path, WIDTH, height, "Success or return against milliseconds per plan, for each planner", marks)


def _panel(left: float, top: float, task: str, lines: Sequence[dict]) -> list[str]:
    percent = lines[0]["measure"] == "success"
    scale = 100.0 if percent else 1.0
    times = [plan_time(line) for line in lines]
    ends = (0.0, 100.0)
    if not percent:
        low, high = min(line["value"] for line in lines), max(line["value"] for line in lines)
        room = 0.15 * (high - low) or 1.0
        ends = (low - room, high + room)
    plot = Plot(
        Axis(min(times) / 1.3, next_tick(1.1 * max(times)), left, left + PANEL[0], log=True),
        Axis(*ends, top + PANEL[1], top),
    )
    unit = "success, %" if percent else "return"
    marks = plot.frame(task, "milliseconds per plan (logarithmic)", unit, x_ticks=_decades(plot.x))
    for method in dict.fromkeys(line["method"] for line in lines):
        own = sorted((line for line in lines if line["method"] == method), key=plan_time)
        hue, dashes, shape = STYLES.get(method, PLAIN)
        for engine in dict.fromkeys(line["engine"] for line in own):
            points = [(plan_time(x), scale * x["value"]) for x in own if x["engine"] == engine]
            if len(points) > 1:
                marks.append(plot.line(points, f"{hue} thin{dashes}"))
        for x in own:
            label = f"{x['way']}: {value(x)}, {plan_time(x):.3g} ms"
            size = 6.0 if x["baseline"] else 3.2
            marks.append(
                plot.mark(plan_time(x), scale * x["value"], shape, f"solid {hue}", size=size, title=label)
            )
    return marks


def _decades(axis: Axis) -> list[float]:
    """Powers of ten, where there are some; else the round numbers."""
    found = [tick for tick in ticks(axis) if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    return found if len(found) > 1 else ticks(axis)


def write_page(content: dict, directory: str | os.PathLike[str]) -> list[Path]:
    """planners.md beside planners.json, and planners.svg where there is something to draw; returns what was written."""
    files = [Path(directory) / "planners.md"]
    if measured(content["results"]):
        files.append(Path(directory) / "planners.svg")
        draw(content, files[-1])
    write(files[0], page(content))
    return files
