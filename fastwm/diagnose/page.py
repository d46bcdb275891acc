"""The diagnostics as one HTML page that asks nothing of the network, and as lines for a terminal."""

from __future__ import annotations

import json
import os
from datetime import date
from html import escape
from importlib.resources import files
from typing import Any

import fastwm
from fastwm.demo.charts import Series, interval_chart, line_chart
from fastwm.diagnose.measure import Diagnosis
from fastwm.diagnose.ranking import Ranking, Share
from fastwm.models.storage import write_atomically

# Of float32 latents, as a share of the largest variance: what is smaller is no direction in use.
ROUNDING = 1e-10

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">{eyebrow}</p>
<h1>{headline}</h1>
<p class="lead">{lead}</p>
</header>
<dl class="figures">
{figures}
</dl>
{unmeasured}{sections}
<section>
<details><summary>Everything as JSON</summary><pre>{numbers}</pre></details>
</section>
<footer>Written by <code>fastwm diagnose</code>, which fetches nothing for this page.</footer>
</main>
</body>
</html>
"""


def findings(found: Diagnosis) -> list[str]:
    """What is wrong, in words; empty where nothing is. The limits are rules of thumb."""
    said = []
    if not found.one_picture and (found.rank < 0.05 * found.embed_dim or found.rank < 2):
        said.append(
            f"latents use {found.rank:.1f} of {found.embed_dim} directions: the encoder has collapsed, or nearly"
        )
    if found.action_dependence and found.action_dependence[-1] < 0.1:
        said.append("predictions hardly depend on actions: others' actions predict as well")
    if found.found is not None and found.found_chance is not None and found.found < 2 * found.found_chance:
        said.append("of several action sequences the model does not know which was taken")
    errors = zip(found.horizons, found.error, found.copy, strict=True) if found.error else ()
    worse = [h for h, mine, copied in errors if mine >= copied]
    if worse:
        said.append(f"{worse[0]} blocks ahead, copying the first latent is as good as predicting")
    if found.ranking is not None:
        if found.ranking.regret.low > 0.5:
            said.append("the candidate that looks best is hardly better than a blind choice")
        if found.ranking.representation.mean < 0.5 <= found.ranking.dynamics.mean:
            said.append(
                "latents are predicted well, but their distance says little about the way to the goal"
            )
    return said


def lines(found: Diagnosis) -> list[str]:
    """The figures, one a line, and what is not among them."""
    last, h = -1, found.horizons[-1]
    told = []
    if found.error:
        others = f", others' actions {found.others[last]:.4f}" if found.others else ""
        told.append(
            f"error {h} blocks ahead   {found.error[last]:.4f} of the latents' variance "
            f"(copying {found.copy[last]:.4f}{others})"
        )
    if found.action_dependence:
        told.append(
            f"action dependence      {found.action_dependence[0]:.2f} one block ahead, "
            f"{found.action_dependence[last]:.2f} {h} ahead"
        )
    if found.found is not None and found.found_chance is not None:
        told.append(
            f"own actions found      {100 * found.found:.0f} % (chance {100 * found.found_chance:.0f} %)"
        )
    told += [
        f"effective rank         {found.rank:.1f} of {found.embed_dim}",
        f"latents' deviation     {min(found.std):.3f} to {max(found.std):.3f}",
    ]
    probes = [r2 for r2 in found.probe if r2 is not None]
    if probes:
        told.append(f"linear probe R²        {sum(probes) / len(probes):.4f} (worst {min(probes):.4f})")
    if found.ranking is not None:
        r = found.ranking
        told += [
            f"rank correlation       {_share(r.both)} with the world "
            f"(dynamics {r.dynamics.mean:.2f}, latents {r.representation.mean:.2f})",
            f"top-1 regret           {_share(r.regret)} of a blind choice's; {r.pixels_lost.mean:.2f} of the world's unit",
        ]
    return told + [f"not measured           {text}" for text in found.unmeasured]


def write_page(path: str | os.PathLike[str], found: Diagnosis, name: str, info: dict[str, Any]) -> None:
    """Write the page about the model called `name`, whose engine says `info` of itself."""
    said = findings(found)
    headline = (
        "Nothing alarming"
        if not said
        else f"<b>{len(said)}</b> {'thing' if len(said) == 1 else 'things'} to look at"
    )
    numbers = {"model": name, "fastwm": fastwm.__version__, "engine": info, "diagnosis": found.to_dict()}
    page = PAGE.format(
        title=f"fastwm diagnose: {escape(name)}",
        style=(files("fastwm.demo") / "assets" / "report.css").read_text(encoding="utf-8"),
        eyebrow=f"fastwm {fastwm.__version__} · {escape(name)} · {date.today():%-d %B %Y}",
        headline=headline,
        lead="; ".join(escape(text[0].upper() + text[1:]) for text in said) + "."
        if said
        else f"Measured on {found.sequences} sequences and {found.frames} frames of episodes held out from training.",
        unmeasured="".join(
            f'<p class="note">Not measured: {escape(text)}.</p>\n' for text in found.unmeasured
        ),
        figures="\n".join(
            f'<div><dt>{title}</dt><dd class="n">{value}</dd><dd class="why">{why}</dd></div>'
            for title, value, why in _figures(found)
        ),
        sections="\n".join(_sections(found)),
        numbers=escape(json.dumps(numbers, indent=2)),
    )
    write_atomically(path, page.encode())


def _share(value: Share) -> str:
    return f"{value.mean:.2f} ({value.low:.2f} to {value.high:.2f})"


def _figures(found: Diagnosis) -> list[tuple[str, str, str]]:
    h = found.horizons[-1]
    figures = []
    if found.error:
        figures.append(
            (
                f"Error {h} blocks ahead",
                f"{100 * found.error[-1]:.2g} <small>%</small>",
                f"of the latents' variance; copying the first latent {100 * found.copy[-1]:.0f}&nbsp;%.",
            )
        )
    if found.action_dependence:
        figures.append(
            (
                "Action dependence",
                f"{found.action_dependence[-1]:.2f}",
                f"{h} blocks ahead. 1: everything hangs on the actions; 0: nothing.",
            )
        )
    if found.found is not None and found.found_chance is not None:
        figures.append(
            (
                "Own actions found",
                f"{100 * found.found:.0f} <small>%</small>",
                f"among {round(1 / found.found_chance) - 1} sequences of other episodes; by chance "
                f"{100 * found.found_chance:.0f}&nbsp;%.",
            )
        )
    figures.append(
        (
            "Effective rank",
            f"{found.rank:.0f} <small>of {found.embed_dim}</small>",
            "Directions of the latent space in use; 1 is a collapsed encoder.",
        )
    )
    if found.ranking is not None:
        r = found.ranking
        figures.append(
            (
                "Top-1 regret",
                f"{r.regret.mean:.2f}",
                f"{r.regret.low:.2f} to {r.regret.high:.2f}. 0: the best plan; 1: a blind choice.",
            )
        )
    return figures


def _sections(found: Diagnosis) -> list[str]:
    x = [float(h) for h in found.horizons]
    error = line_chart(
        [
            Series("prediction", x[: len(found.error)], found.error, "first"),
            Series("others' actions", x[: len(found.others)], found.others, "second"),
            Series("mean action", x[: len(found.idle)], found.idle, "second dash thin"),
            Series("copying", x[: len(found.copy)], found.copy, "third dash thin"),
        ],
        label="Open-loop error against horizon, with the errors of copying and of others' actions",
        x_label="blocks ahead",
        y_label="share of the variance, log scale",
        log=True,
    )
    direction = line_chart(
        [
            Series(
                "cosine of predicted and true change", x[: len(found.direction)], found.direction, "first"
            ),
            Series("action dependence", x[: len(found.action_dependence)], found.action_dependence, "second"),
        ],
        label="Direction of the predicted change, and dependence on actions, against horizon",
        x_label="blocks ahead",
        y_label="1 is perfect",
    )
    places = [float(i + 1) for i in range(max(len(found.spectrum), len(found.std)))]
    shares = [share for share in found.spectrum if share > ROUNDING * found.spectrum[0]]
    spectrum = line_chart(
        [Series("", places[: len(shares)], shares, "first")],
        label="Shares of the latents' variance by direction",
        x_label="direction",
        y_label="share of the variance, log scale",
        log=True,
    )
    rest = len(found.spectrum) - len(shares)
    spread = line_chart(
        [Series("", places[: len(found.std)], sorted(found.std, reverse=True), "first")],
        label="Standard deviation of each latent dimension, largest first",
        x_label="dimension, sorted",
        y_label="standard deviation",
    )
    sections = [
        _section(
            "How far it sees",
            "Latents predicted from one frame and the actions that followed, against the encoder's own, over "
            f"{found.sequences} held-out sequences.",
            [
                ("Open-loop error", "What a prediction misses. It should stay below all others.", error),
                (
                    "Direction",
                    "Where the prediction goes, and how much that hangs on the actions.",
                    direction,
                ),
            ],
        ),
        _section(
            "What it sees",
            f"The latents of {found.frames} held-out frames."
            + (f" A linear probe reads the state with R² {_probe(found.probe)}." if found.probe else ""),
            [
                (
                    "Spectrum",
                    "The directions of the latents by their share of the variance"
                    + (f"; the last {rest} have none but rounding's." if rest else "."),
                    spectrum,
                ),
                ("Spread", "A dimension of deviation 0 says nothing.", spread),
            ],
        ),
    ]
    if found.ranking is not None:
        sections.append(_ranking(found.ranking))
    return sections


def _section(title: str, text: str, charts: list[tuple[str, str, str]]) -> str:
    drawn = "\n".join(
        f'<div class="chart"><h3>{name}</h3><p>{why}</p>{chart}</div>' for name, why, chart in charts
    )
    return f'<section><h2>{title}</h2><p>{text}</p><div class="grid">{drawn}</div></section>'


def _ranking(r: Ranking) -> str:
    rows = [
        ("both", r.both, "main"),
        ("dynamics", r.dynamics, "other"),
        ("latents", r.representation, "other"),
        ("regret", r.regret, "other"),
    ]
    chart = interval_chart(
        [
            (
                name,
                min(max(share.mean, 0.0), 1.0),
                (max(share.low, 0.0), min(max(share.high, 0.0), 1.0)),
                style,
            )
            for name, share, style in rows
        ]
    )
    intro = (
        f"{r.candidates} plans of {r.blocks} blocks in each of {r.tasks} tasks, evenly between the expert's and random ones, "
        "tried in the model and in the world. Rank correlations with what came of them, and what choosing by the model loses."
    )
    note = (
        "Both: predicted latents' distance to the goal against the world's own distance. Dynamics: against that of the latents "
        "of what really came. Latents: those against the world. Regret: 0 is choosing the best plan, 100 choosing blindly; the "
        f"plan chosen ends {r.pixels_lost.mean:.2f} of the world's unit ({r.pixels_lost.low:.2f} to {r.pixels_lost.high:.2f}) "
        "farther from the goal than the best."
    )
    return f'<section><h2>Does it know the good plans?</h2><p>{intro}</p>{chart}<p class="note">{note}</p></section>'


def _probe(probe: tuple[float | None, ...]) -> str:
    return ", ".join("not measured" if r2 is None else f"{r2:.4f}" for r2 in probe)
