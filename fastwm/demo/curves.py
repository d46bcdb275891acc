"""The learning curves: the logs of a training run as charts, each with what it means."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

from fastwm.demo.charts import Series, line_chart
from fastwm.training.health import HORIZONS

Row = dict[str, float | None]

_STYLES = dict(zip(HORIZONS, ("third", "second", "first"), strict=True))


def read_log(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a log of a training run; empty cells are None."""
    with open(path, newline="") as file:
        return [
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def learning_curves(metrics: Sequence[Row], validation: Sequence[Row]) -> str:
    """Four charts of `metrics.csv` and `validation.csv`."""
    charts = (_loss(metrics), _open_loop(validation), _probe(validation), _rank(validation))
    return "\n".join(
        f'<div class="chart"><h3>{title}</h3><p>{why}</p>{chart}</div>' for title, why, chart in charts
    )


def _loss(metrics: Sequence[Row]) -> tuple[str, str, str]:
    steps = _column(metrics, "step")
    chart = line_chart(
        [
            Series("prediction", steps, _column(metrics, "prediction"), "first"),
            Series("regulariser", steps, _column(metrics, "regulariser"), "third thin"),
        ],
        label="Prediction loss and regulariser over training",
        y_label="loss, log scale",
        log=True,
    )
    why = (
        "Prediction: squared error of the next latent. Regulariser: distance of the latents from a Gaussian."
    )
    return "Training loss", why, chart


def _open_loop(validation: Sequence[Row]) -> tuple[str, str, str]:
    steps = _column(validation, "step")
    lines = [
        Series(f"{h} ahead", steps, _column(validation, f"open_loop_{h}"), style)
        for h, style in _STYLES.items()
    ]
    for h, style in _STYLES.items():
        copied = _column(validation, f"copy_last_{h}")
        lines.append(Series("copying" if h == HORIZONS[-1] else "", steps, copied, f"{style} dash thin"))
    chart = line_chart(
        lines,
        label="Open-loop error 1, 5 and 10 blocks ahead, with the error of copying the last latent",
        y_label="squared error, log scale",
        log=True,
    )
    why = "Error of latents predicted 1, 5 and 10 blocks ahead without looking. Dotted: of copying the last latent "
    return "Open-loop error", why + "instead.", chart


def _probe(validation: Sequence[Row]) -> tuple[str, str, str]:
    steps = _column(validation, "step")
    found = [r2 for r2 in _column(validation, "probe_r2") if r2 is not None]
    unread = [
        [None if r2 is None else max(1 - r2, 1e-6) for r2 in _column(validation, name)]
        for name in ("probe_r2", "probe_r2_worst")
    ]
    chart = line_chart(
        [
            Series("mean over the state", steps, unread[0], "first"),
            Series("worst dimension", steps, unread[1], "second thin"),
        ],
        label="1 minus R squared of a linear probe over training",
        y_label="1 − R², log scale",
        log=True,
    )
    why = "The part of the true positions that a linear map cannot read out of the latents."
    return "Linear probe", why + (f" At the end R² is {found[-1]:.4f}." if found else ""), chart


def _rank(validation: Sequence[Row]) -> tuple[str, str, str]:
    steps, ranks = _column(validation, "step"), _column(validation, "effective_rank")
    chart = line_chart(
        [Series("effective rank", steps, ranks, "first")],
        label="Effective rank of the latents over training",
        y_label="directions",
    )
    why = "How many directions of the latent space are in use; 1 is a collapsed encoder."
    return "Effective rank", f"{why} At the end {ranks[-1]:.0f}." if ranks and ranks[-1] else why, chart


def _column(rows: Sequence[Row], name: str) -> list[float | None]:
    return [row[name] for row in rows]
