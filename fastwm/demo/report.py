"""report.html: what a demo found, in one file that asks nothing of the network."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from datetime import date
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from fastwm.demo.charts import Series, bar_chart, interval_chart, line_chart
from fastwm.demo.table import POLICIES, duration, percent
from fastwm.models.storage import write_atomically

Row = dict[str, float | None]


def write_report(
    path: str | os.PathLike[str],
    summary: dict[str, Any],
    playback: dict[str, Any],
    model_dir: str | os.PathLike[str],
) -> None:
    """Write the report of `summary`, the episodes of `playback` and the learning curves logged in `model_dir`."""
    world, n = summary["world"], summary["episodes"]
    reached = round(summary["success_planner"] * n)
    page = Template(_asset("report.html")).substitute(
        title=f"fastwm demo: {world}",
        eyebrow=f"fastwm {escape(summary['versions']['fastwm'])} demo · world {escape(world)} · {date.today():%-d %B %Y}",
        headline=f"<b>{reached} of {n}</b> goals reached, by planning in the latent space of a world model learned from pixels",
        lead=_lead(summary),
        figures=_figures(summary),
        watch=_watch(playback),
        success=_success(summary),
        learning=_learning(summary),
        curves=_curves(_read(Path(model_dir) / "metrics.csv"), _read(Path(model_dir) / "validation.csv")),
        time=_time(summary),
        stages=_stages(summary["stage_seconds"]),
        tables=_tables(summary),
        summary=escape(json.dumps(summary, indent=2)),
        footer="Written by <code>fastwm demo</code>. Nothing on this page was fetched from a network.",
        style=_asset("report.css"),
        script=_asset("report.js"),
        playback=json.dumps(playback, separators=(",", ":")).replace("<", "\\u003c"),
    )
    write_atomically(path, page.encode())


def _lead(summary: dict[str, Any]) -> str:
    frames, train = summary["data_frames"], duration(summary["train_seconds"])
    return (
        f"A joint-embedding predictive model watched {frames:,} frames and trained for {train} on "
        f"{summary['machine']['threads']} processor threads. It was never told positions, rewards or goals. Then it was "
        "shown a picture of how the world should look and searched for the actions that lead there."
    )


def _figures(summary: dict[str, Any]) -> str:
    low, high = summary["interval_planner"]
    n = summary["episodes"]
    figures = [
        (
            "Goals reached",
            percent(summary["success_planner"]),
            f"{100 * low:.0f} to {100 * high:.0f} % with 95 % confidence, over {n} episodes. Random actions: "
            f"{percent(summary['success_random'])}; scripted expert: {percent(summary['success_expert'])}.",
        )
    ]
    if summary["plan_ms_engine"] is not None:
        speedup = summary["plan_ms_torch"] / summary["plan_ms_engine"]
        figures += [
            (
                "One plan",
                f"{summary['plan_ms_engine']:.1f} <small>ms</small>",
                "The whole search, encoding included, in float32.",
            ),
            (
                "Against PyTorch",
                f"{speedup:.1f}<small> ×</small>",
                "As fast as the same search in plain PyTorch, same machine, same run.",
            ),
        ]
    total = sum(seconds or 0 for seconds in summary["stage_seconds"].values())
    figures.append(
        (
            "From nothing to here",
            duration(total),
            "Collecting, training, compiling, evaluating and comparing.",
        )
    )
    return "\n".join(
        f'<div><dt>{name}</dt><dd class="n" style="margin-left:0">{value}</dd><dd class="why" style="margin-left:0">{why}</dd></div>'
        for name, value, why in figures
    )


def _watch(playback: dict[str, Any]) -> str:
    missed = [episode["number"] for episode in playback["episodes"] if not episode["reached"]]
    first = "The first episodes of the evaluation, not picked"
    chosen = (
        f"{first}, but for the last: episode {missed[-1]}, its first failure"
        if missed[-1:] == [playback["episodes"][-1]["number"]] and missed[-1] >= len(playback["episodes"])
        else first
    )
    return (
        f"{chosen}. The picture is what the planner sees, 64 × 64 pixels, with the goal shining through. The line is "
        "where its current plan leads in its imagination, read out of the predicted latents by a linear probe; the ring is the "
        "plan's closest point to the goal. The planner sees neither."
    )


def _success(summary: dict[str, Any]) -> str:
    rows = [
        (
            policy,
            summary[f"success_{policy}"],
            tuple(summary[f"interval_{policy}"]),
            "main" if policy == "planner" else "other",
        )
        for policy in POLICIES
    ]
    steps = [
        f"{policy} {summary[f'decisions_{policy}']:.1f}"
        for policy in POLICIES
        if summary[f"decisions_{policy}"] is not None
    ]
    return (
        "<p>Share of episodes that reach their goal within the budget of decisions. The planner is given pixels alone; "
        "the expert is scripted and told the true state; random is a random walk.</p>"
        f"{interval_chart(rows)}"
        f'<p class="note">Dots are shares of {summary["episodes"]} episodes, bars their 95 % confidence intervals (Wilson). '
        f"Decisions to reach a goal, on average over the episodes that did: {', '.join(steps)}.</p>"
    )


def _learning(summary: dict[str, Any]) -> str:
    health = summary["health"]
    return (
        f"{summary['training']['steps']:,} steps of {summary['training']['batch_size']} sequences of "
        f"{summary['training']['frames']} frames; {summary['parameters'] / 1e6:.2f} million parameters. All but the loss is measured "
        f"on episodes held out from training. At the end the effective rank is {health['effective_rank']:.0f}."
    )


def _curves(metrics: Sequence[Row], validation: Sequence[Row]) -> str:
    steps, checks = _column(metrics, "step"), _column(validation, "step")
    unread = {
        name: [None if r2 is None else max(1 - r2, 1e-6) for r2 in _column(validation, name)]
        for name in ("probe_r2", "probe_r2_worst")
    }
    last_r2 = next((r2 for r2 in reversed(_column(validation, "probe_r2")) if r2 is not None), None)
    charts = [
        (
            "Training loss",
            "How far predicted latents are from the encoded ones, and how far latents are from a Gaussian (the term that forbids collapse).",
            line_chart(
                [
                    Series("prediction", steps, _column(metrics, "prediction"), "first"),
                    Series("regulariser", steps, _column(metrics, "regulariser"), "third thin"),
                ],
                label="Prediction loss and regulariser over training steps, logarithmic",
                log=True,
            ),
        ),
        (
            "Open-loop error",
            "Squared error of latents predicted 1, 5 and 10 decisions ahead without looking; dotted: copying the last latent instead.",
            line_chart(
                [
                    Series(f"{h} ahead", checks, _column(validation, f"open_loop_{h}"), style)
                    for h, style in ((1, "third"), (5, "second"), (10, "first"))
                ]
                + [
                    Series(f"copy, {h}", checks, _column(validation, f"copy_last_{h}"), f"{style} dash thin")
                    for h, style in ((1, "third"), (5, "second"), (10, "first"))
                ],
                label="Open-loop prediction error at 1, 5 and 10 decisions with the copy baseline, logarithmic",
                log=True,
            ),
        ),
        (
            "Linear probe of the true state, 1 − R²",
            "The part of the true positions that a linear map cannot read out of the latents."
            + ("" if last_r2 is None else f" At the end R² is {last_r2:.4f}."),
            line_chart(
                [
                    Series("mean of the state's dimensions", checks, unread["probe_r2"], "first"),
                    Series("worst dimension", checks, unread["probe_r2_worst"], "second thin"),
                ],
                label="1 minus R squared of a linear probe over training steps, logarithmic",
                log=True,
            ),
        ),
        (
            "Effective rank of the latents",
            "How many directions of the latent space are in use: 1 is a collapsed encoder.",
            line_chart(
                [Series("effective rank", checks, _column(validation, "effective_rank"), "first")],
                label="Effective rank of the latents over training steps",
            ),
        ),
    ]
    return "\n".join(
        f'<div class="chart"><h3>{title}</h3><p>{why}</p>{chart}</div>' for title, why, chart in charts
    )


def _time(summary: dict[str, Any]) -> str:
    search = summary["settings"]["search"]
    intro = (
        f"<p>One plan is {search['iterations']} iterations of {search['samples']} candidates, each rolled out "
        f"{search['horizon']} decisions ahead, on {summary['machine']['threads']} threads. Medians; engine and PyTorch took turns.</p>"
    )
    error = f"{summary['parity_error']:.1e}"
    if summary["plan_ms_engine"] is None:
        return f"{intro}<p>No time is shown: engine and PyTorch disagree about the costs of candidates, by {error} (relative).</p>"
    rows = []
    for suffix, dtype in (("", ""), ("_bfloat16", ", bf16")):
        for way, name, style in (("engine", "engine", "main"), ("torch", "PyTorch", "other")):
            if f"plan_ms_{way}{suffix}" in summary:
                milliseconds = summary[f"plan_ms_{way}{suffix}"]
                rows.append((f"{name}{dtype}", milliseconds, f"{milliseconds:.2f} ms", style))
    return (
        f"{intro}{bar_chart(rows)}"
        f'<p class="note">Checked first: both give the same candidates the same costs, to {error} (largest relative difference, float32). '
        f"The engine evaluated in {escape(summary['engine']['dtype'])} with {escape(summary['engine']['isa'])} instructions.</p>"
    )


def _stages(seconds: dict[str, float | None]) -> str:
    known = {name: value for name, value in seconds.items() if value}
    strip = "".join(
        f'<i style="flex:{value:.3f}" title="{name} {duration(value)}"></i>' for name, value in known.items()
    )
    items = "".join(f"<li><b>{name}</b> {duration(value)}</li>" for name, value in seconds.items())
    return f'<div class="stages"><div class="strip">{strip}</div><ol>{items}</ol></div>'


def _tables(summary: dict[str, Any]) -> str:
    settings, search, training = summary["settings"], summary["settings"]["search"], summary["training"]
    model = summary["model"]
    predictor = (
        "residual MLP"
        if model["predictor"] == "mlp"
        else (
            f"{'residual ' if model['residual'] else ''}AdaLN transformer, depth {model['depth']}, width {model['width']}"
        )
    )
    tables = {
        "Machine": summary["machine"],
        "Versions": summary["versions"],
        "Data and model": {
            "episodes": f"{settings['episodes']:,} of {settings['length']} frames",
            "encoder": f"{model['encoder'].replace('_', ' ')}, latents of {model['embed_dim']}",
            "predictor": f"{predictor}, window {model['window']}",
            "objective": f"prediction + {training['regulariser_weight']} {training['regulariser']}, {training['projections']} projections",
            "seed": settings["seed"],
        },
        "Search": {
            "method": "CEM, warm-started, replanned at every decision",
            "candidates": f"{search['samples']}, {search['elites']} elites",
            "iterations": search["iterations"],
            "horizon": f"{search['horizon']} decisions",
            "noise": f"std {search['std']}, at least {search['min_std']}, correlation {search['correlation']}",
            "cost": "smallest squared latent distance to the goal along the way",
        },
    }
    return "\n".join(
        f"<table><caption>{caption}</caption>"
        + "".join(
            f"<tr><th scope=row>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
            for name, value in rows.items()
        )
        + "</table>"
        for caption, rows in tables.items()
    )


def _read(path: Path) -> list[Row]:
    """A log of the training as rows; empty cells are None."""
    with open(path, newline="") as file:
        return [
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _asset(name: str) -> str:
    return (files("fastwm.demo") / "assets" / name).read_text(encoding="utf-8")
