"""`fastwm eval`: policies in closed loop, side by side."""

from __future__ import annotations

import argparse
import functools
import json
from typing import Any

import torch

from fastwm import envs
from fastwm.commands.shared import compile_for, load, load_wam, progress, say, search_of, warn
from fastwm.demo.settings import check_actions
from fastwm.demo.table import percent
from fastwm.engine.backend import check_threads
from fastwm.envs import World
from fastwm.evaluation import (
    Evaluation,
    ExpertPolicy,
    PlannerPolicy,
    Policy,
    RandomPolicy,
    evaluate,
    paired_difference,
)
from fastwm.evaluation_workers import evaluate_in_workers
from fastwm.planning.latent_policy import Reactive

OF_A_MODEL = {"planner", "reactive"}


def eval(parsed: argparse.Namespace) -> None:
    """Closed-loop success."""
    world = envs.world(parsed.env)
    policies: list[tuple[str, str]] = []  # names, and the dtypes of planners
    for name in parsed.policy or ["planner"]:
        if name in OF_A_MODEL and parsed.model is None:
            raise ValueError(f"the {name} policy needs a model: fastwm eval DIR --env …, DIR first")
        policies += [(name, dtype) for dtype in (parsed.dtype if name == "planner" else ("",))]
    if OF_A_MODEL & {name for name, _ in policies}:
        trained = load(parsed.model).metadata.get("world", world.name)
        if trained != world.name:
            warn(f"{parsed.model} was trained in {trained}, and is evaluated in {world.name}")
    options = {
        "episodes": parsed.episodes,
        "seed": parsed.seed,
        "budget": parsed.budget,
        "progress": progress(parsed),
    }
    if parsed.workers < 1:
        raise ValueError(f"workers is {parsed.workers}; expected at least 1")
    if parsed.workers > 1 and parsed.threads is None:
        parsed.threads = max(1, check_threads(None) // parsed.workers)
    results = []
    for name, dtype in policies:
        make = functools.partial(_policy, parsed, name, dtype)
        if parsed.workers > 1 or parsed.ray:
            results.append(
                evaluate_in_workers(world, make, workers=parsed.workers, ray=parsed.ray, **options)
            )
        else:
            results.append(evaluate(world, make(), **options))
    first, others = results[0], results[1:]
    if parsed.json:
        say(json.dumps([_evaluation(first), *(_evaluation(r) | _difference(r, first) for r in others)]))
        return
    budget = parsed.budget or world.budget
    say(f"{parsed.episodes} episodes of {parsed.env}, at most {budget} decisions each\n")
    say(
        _table(
            results,
            {r.policy for r, (name, _) in zip(results, policies, strict=True) if name in OF_A_MODEL},
        )
    )
    for result in others:
        say(_compared(result, first))


def _policy(parsed: argparse.Namespace, name: str, dtype: str) -> Policy:
    """The policy called `name` of a command line of `eval`; each worker makes its own."""
    world = envs.world(parsed.env)
    if name not in OF_A_MODEL:
        return ExpertPolicy(world) if name == "expert" else RandomPolicy(world)
    if name == "reactive":
        return _reactive(parsed, world)
    engine = compile_for(load(parsed.model), parsed, dtype)
    name = "planner" if len(parsed.dtype) == 1 else f"planner {dtype}"
    return PlannerPolicy(search_of(parsed).planner(engine, world), name=name)


def _reactive(parsed: argparse.Namespace, world: World) -> Reactive:
    """The policy that a LatentWAM holds, without a search."""
    model = load_wam(parsed.model)
    check_actions(model.config.action_dim / model.config.action_block, world)
    torch.set_num_threads(check_threads(parsed.threads))
    return Reactive(model)


def _table(results: list[Evaluation], timed: set[str]) -> str:
    """One evaluation a line. The decisions of those that are `timed` take a model's time: others' cost nothing."""
    rows: list[tuple[str, ...]] = [
        ("", "reached", "95 % interval", "decisions to the goal", "ms per decision")
    ]
    for result in results:
        low, high = result.interval
        rows.append(
            (
                result.policy,
                percent(result.rate),
                f"{100 * low:.0f} to {100 * high:.0f} %",
                "–" if result.mean_decisions is None else f"{result.mean_decisions:.1f}",
                f"{result.mean_decision_ms:.2f}" if result.policy in timed else "",
            )
        )
    rows = rows if timed else [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        f"{name:<{widths[0]}}  "
        + "  ".join(f"{x:>{width}}" for x, width in zip(rest, widths[1:], strict=True))
        for name, *rest in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _compared(result: Evaluation, first: Evaluation) -> str:
    """int8 − float32: +0.0 percentage points …"""
    found = paired_difference(result, first)
    low, high = found.interval
    names = (r.policy.removeprefix("planner ") for r in (result, first))
    return (
        f"{' − '.join(names)}: {100 * found.rate:+.1f} percentage points (95 %: {100 * low:+.1f} to {100 * high:+.1f}); "
        f"{found.won} won, {found.lost} lost"
    )


def _evaluation(result: Evaluation) -> dict[str, Any]:
    return {
        "policy": result.policy,
        "success": result.rate,
        "interval": list(result.interval),
        "episodes": len(result.success),
        "decisions": result.mean_decisions,
        "decision_ms": result.mean_decision_ms,
    }


def _difference(result: Evaluation, first: Evaluation) -> dict[str, Any]:
    found = paired_difference(result, first)
    numbers = {"success": found.rate, "interval": list(found.interval), "won": found.won, "lost": found.lost}
    return {"difference": {"from": first.policy, **numbers}}
