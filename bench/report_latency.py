"""latency.json as Markdown."""

from __future__ import annotations

from .latency import shown

BEFORE = "64 candidates × 4 iterations × 12 blocks"  # of results that do not say


def table(content: dict) -> str:
    """One line per model and backend."""
    lines = [line for line in content["results"] if line["passed"]]
    if not lines:
        return ""
    rows = [
        "| model | backend | p50, ms | p95 | p99 | max | jitter | wake-up p99 | missed |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for line in lines:
        names = ("p50", "p95", "p99", "max", "jitter", "wake_p99")
        cells = " | ".join(shown(line, name, ".3g") for name in names)
        rows.append(f"| {line['model']} | {line['way']} | {cells} | {line['missed']} of {line['plans']} |")
    rate, threads = lines[0]["rate"], lines[0]["threads"]
    search = lines[0].get("search", BEFORE)
    caption = (
        f"`python -m bench.latency`: plans at {rate:g} Hz on {threads} thread{'s' if threads > 1 else ''}, from one picture "
        f"to another ({search}, encoding included), which the engine's ways do on one "
        "PyTorch thread; PyTorch's ways make a fifth of the plans. A plan is missed if it ends after the next tick; "
        "jitter is the standard deviation of the plan "
        "time, without the lateness of the wake-up. "
        "[The distribution](bench/results/latency.svg)."
    )
    return (
        "Plans at a fixed rate, by the demo's models with random weights:\n\n"
        + "\n".join(rows)
        + f"\n\n{caption}"
    )
