"""report.html: what a demo found, in one file that asks nothing of the network."""

from __future__ import annotations

import json
import os
from datetime import date
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from fastwm.demo.charts import bar_chart, interval_chart
from fastwm.demo.curves import learning_curves, read_log
from fastwm.demo.table import POLICIES, busy_machine, duration, pairs, percent, threads
from fastwm.models.storage import write_atomically

Summary = dict[str, Any]


def write_report(
    path: str | os.PathLike[str],
    summary: Summary,
    playback: dict[str, Any],
    model_dir: str | os.PathLike[str],
) -> None:
    """Write the report of `summary`, the episodes of `playback` and the learning curves logged in `model_dir`."""
    n = summary["episodes"]
    reached = round(summary["success_planner"] * n)
    logs = (read_log(Path(model_dir) / name) for name in ("metrics.csv", "validation.csv"))
    page = Template(_asset("report.html")).substitute(
        title=f"fastwm demo: {summary['world']}",
        eyebrow=f"fastwm {summary['versions']['fastwm']} · world {summary['world']} · {date.today():%-d %B %Y}",
        headline=f"<b>{reached} of {n}</b> goals reached, by planning in the latent space of a world model "
        "learned from pixels",
        lead=_lead(summary),
        figures=_figures(summary),
        watch=_watch(playback),
        success=_success(summary),
        learning=_learning(summary),
        curves=learning_curves(*logs),
        time=_time(summary),
        stages=_stages(summary["stage_seconds"]),
        tables=_tables(summary),
        summary=escape(json.dumps(summary, indent=2)),
        style=_asset("report.css"),
        script=_asset("report.js"),
        playback=json.dumps(playback, separators=(",", ":")).replace("<", "\\u003c"),
    )
    write_atomically(path, page.encode())


def _lead(summary: Summary) -> str:
    return (
        f"A joint-embedding predictive model watched {summary['data_frames']:,} frames and the actions between them, "
        f"and trained for {duration(summary['train_seconds'])} on {threads(summary)} of a CPU. It was never told positions, "
        "rewards or goals. Then it was shown a picture of how the world should look, and searched for the actions "
        "that lead there."
    )


def _figures(summary: Summary) -> str:
    low, high = summary["interval_planner"]
    rivals = ", ".join(f"{name} {percent(summary[f'success_{name}'])}" for name in ("expert", "random"))
    interval = f"{100 * low:.0f} to {100 * high:.0f}&nbsp;% with 95&nbsp;% confidence; {rivals}."
    figures = [("Goals reached", percent(summary["success_planner"]), interval)]
    if summary["plan_ms_engine"] is not None:
        dtype, engine, beside, torch = pairs(summary)[-1]
        busy = busy_machine(summary)
        warning = f" <b>{busy[0].upper()}{busy[1:]}.</b>" if busy else ""
        whole = f"The whole search in {dtype}, as the episodes were planned, encoding included.{warning}"
        figures.append(("One plan", f"{engine:.1f} <small>ms</small>", whole))
        same = f"The same search in plain PyTorch takes {torch:.1f} ms, in {beside}, its fastest; same machine, same run."
        figures.append(("Against PyTorch", f"{torch / engine:.1f}<small> ×</small>", same + warning))
    total = duration(sum(seconds or 0 for seconds in summary["stage_seconds"].values()))
    figures.append(
        ("From first frame to here", total, "Collecting, training, compiling, evaluating, comparing.")
    )
    return "\n".join(
        f'<div><dt>{name}</dt><dd class="n">{value}</dd><dd class="why">{why}</dd></div>'
        for name, value, why in figures
    )


def _watch(playback: dict[str, Any]) -> str:
    last = playback["episodes"][-1]
    picked = last["number"] >= len(playback["episodes"])
    exception = f", but for the last: episode {last['number']} is the first that failed" if picked else ""
    size = playback["size"]
    return (
        f"The first episodes of the evaluation, not picked{exception}. The picture is what the planner sees, {size} × {size} "
        "pixels, with the goal shining through. The line is where its current plan leads in its imagination, "
        "read out of the predicted latents by a linear probe; the ring is where the plan comes closest to the goal. "
        "The planner itself knows no positions."
    )


def _success(summary: Summary) -> str:
    rows = [
        (
            name,
            summary[f"success_{name}"],
            summary[f"interval_{name}"],
            "main" if name == "planner" else "other",
        )
        for name in POLICIES
    ]
    decisions = {name: summary[f"decisions_{name}"] for name in POLICIES}
    steps = ", ".join(f"{name} {count:.1f}" for name, count in decisions.items() if count is not None)
    return (
        "<p>The share of episodes that reach their goal within the budget of decisions. The planner is given pixels "
        "alone, the expert is scripted and told the true state, random is a random walk.</p>"
        f"{interval_chart(rows)}"
        f'<p class="note">Dots: shares of {summary["episodes"]} episodes. Bars: their 95&nbsp;% confidence intervals (Wilson). '
        f"Decisions to the goal, on average over the episodes that reached it: {steps}.</p>"
    )


def _learning(summary: Summary) -> str:
    training = summary["training"]
    return (
        f"{training['steps']:,} steps of {training['batch_size']} sequences of {training['frames']} frames, "
        f"{summary['parameters'] / 1e6:.2f} million parameters. All but the loss is measured on episodes held out "
        "from training."
    )


def _time(summary: Summary) -> str:
    search = summary["settings"]["search"]
    intro = (
        f"<p>One plan is {search['iterations']} iterations of {search['samples']} candidates, each rolled out "
        f"{search['horizon']} action blocks ahead, on {threads(summary)}. Medians and quartiles; the ways took turns.</p>"
    )
    error = f"{summary['parity_error']:.1e}"
    if summary["plan_ms_engine"] is None:
        return f"{intro}<p>No time is shown: engine and PyTorch disagree about the costs of candidates, by {error}.</p>"
    rows = []
    quartiles = summary["plan_ms_quartiles"]
    for dtype, engine_ms, beside, torch_ms in pairs(summary):
        for way, name, kind, milliseconds, style in (
            ("engine", "engine", dtype, engine_ms, "main"),
            ("torch", "PyTorch", beside, torch_ms, "other"),
        ):
            first, third = quartiles[f"{way} {kind}"]
            spread = f"{first:.2f} to {third:.2f}"
            rows.append((f"{name} {kind}", milliseconds, f"{milliseconds:.2f} ms", spread, style))
    engine, busy = summary["engine"], busy_machine(summary)
    warning = f'<p class="warning">{busy[0].upper()}{busy[1:]}.</p>' if busy else ""
    return (
        f'{intro}{warning}{bar_chart(rows)}<p class="note">Each bar of the engine has below it PyTorch at its fastest in that '
        "dtype or a wider one. Checked first: both give the same candidates the same costs in float32, "
        f"to a largest relative difference of {error}. The episodes above were planned in {escape(engine['dtype'])} with "
        f"the instruction set {escape(engine['isa'])}.</p>"
    )


def _stages(seconds: dict[str, float | None]) -> str:
    parts = [(name, value) for name, value in seconds.items() if value]
    strip = "".join(
        f'<i style="flex:{value:.3f}" title="{name} {duration(value)}"></i>' for name, value in parts
    )
    items = "".join(f"<li><b>{name}</b> {duration(value)}</li>" for name, value in seconds.items())
    return f'<div class="stages"><div class="strip">{strip}</div><ol>{items}</ol></div>'


def _tables(summary: Summary) -> str:
    settings, search, training = summary["settings"], summary["settings"]["search"], summary["training"]
    model = summary["model"]
    predictor = f"AdaLN transformer, depth {model['depth']}, width {model['width']}, window {model['window']}"
    predictor = "MLP" if model["predictor"] == "mlp" else predictor
    tables = {
        "Machine": summary["machine"],
        "Versions": summary["versions"],
        "Data and model": {
            "episodes": f"{settings['episodes']:,} of {settings['length']} frames",
            "encoder": f"{model['encoder'].replace('_', ' ')}, latents of {model['embed_dim']}",
            "predictor": f"residual {predictor}" if model["residual"] else predictor,
            "objective": f"prediction + {training['regulariser_weight']} {training['regulariser']}",
            "seed": settings["seed"],
        },
        "Search": {
            "method": "CEM, warm-started, replanned at every decision",
            "candidates": f"{search['samples']}, {search['elites']} elites",
            "iterations": search["iterations"],
            "horizon": f"{search['horizon']} action blocks",
            "noise": f"{search['std']} standard deviations of the training actions, then at least {search['min_std']}, "
            f"power over frequency to the -{search['noise_exponent']:g}",
            "cost": "smallest squared latent distance to the goal along the way",
        },
    }
    return "\n".join(
        f"<table><caption>{caption}</caption>{''.join(_row(*row) for row in rows.items())}</table>"
        for caption, rows in tables.items()
    )


def _row(name: str, value: object) -> str:
    return f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'


def _asset(name: str) -> str:
    return (files("fastwm.demo") / "assets" / name).read_text(encoding="utf-8")
