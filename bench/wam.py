"""A LatentWAM acting in its worlds: python -m bench.wam --rooms runs/wam-rooms --push runs/wam-push.

The policy alone (mode 1), best of K of its proposals, CEM without proposals, CEM with proposals at a tenth of the candidates,
and gradient descent from the proposals (mode 2): success with 95 % intervals in the same episodes, and milliseconds per action.
Times are of single actions in one environment, all ways in turns, pictures encoded.

The models are made by
  fastwm collect two-room data/rooms.h5 --episodes 2000 --length 32
  fastwm collect push data/push.h5 --episodes 2000 --length 30
  python -m bench.wam --train data/rooms.h5 runs/wam-rooms --steps 900
  python -m bench.wam --train data/push.h5 runs/wam-push --steps 2500 --reach 12

Writes wam.json after every way (an interruption loses one at most, and --resume goes on from there) and wam.md.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastwm
from fastwm import CEM, GoalDistance, GradientDescent, Planner
from fastwm.evaluation import PlannerPolicy, Policy, evaluate, paired_difference, sample_tasks
from fastwm.models.wam import LatentWAM, LatentWAMConfig
from fastwm.planning.best_of_k import BestOfK
from fastwm.planning.latent_policy import LatentPolicy
from fastwm.planning.latent_policy import Reactive as ReactivePolicy

from .machine import describe, doubts, header
from .record import RESULTS, check_writable, read, save, write
from .timing import in_turns

SEED = 1  # of episodes and plans
REFERENCE = "CEM"
TENTH = 12, 2  # candidates and iterations: 24 of the reference's 256


def ways(model: LatentWAM, threads: int) -> dict[str, tuple[int, Callable[[], Policy]]]:
    """Way -> (candidates of an action, what makes it)."""
    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=threads)
    policy, cost = LatentPolicy(model), GoalDistance(reduce="min")
    chunk = model.config.chunk
    box: dict[str, Any] = {"low": -1.0, "high": 1.0}
    red = {"noise_exponent": 2.0, "min_std": 0.1, **box}

    def planned(search: Any, horizon: int, **options: Any) -> Callable[[], Policy]:
        return lambda: PlannerPolicy(Planner(engine, search, horizon, cost=cost, **options))

    every = {"policy": policy, "policy_share": BestOfK.share}
    return {
        "policy": (1, lambda: ReactivePolicy(model)),
        "best of 24": (24, planned(BestOfK(24, **box), chunk, **every)),
        "best of 32": (32, planned(BestOfK(32, **box), chunk, **every)),
        REFERENCE: (256, planned(CEM(128, 8, 2, std=1.5, **red), 2 * chunk)),
        "CEM, a tenth": (24, planned(CEM(*TENTH[:1], 3, TENTH[1], std=1.5, **red), 2 * chunk)),
        "CEM, a tenth, with proposals": (
            24,
            planned(CEM(*TENTH[:1], 3, TENTH[1], std=0.7, **red), chunk, policy=policy, policy_share=0.5),
        ),
        "gradient from proposals": (
            24,
            planned(GradientDescent(4, 6, learning_rate=0.15, trust_region=1.0, **box), chunk, **every),
        ),
    }


def measure(
    name: str, model: LatentWAM, episodes: int, threads: int, done: Sequence[dict], keep: Callable
) -> None:
    """Lines of one world, `keep` given each as it is made; those that are `done` are not measured again."""
    here = fastwm.envs.world(name)
    found = {way: make() for way, (_, make) in ways(model, threads).items()}
    left = {
        way: policy
        for way, policy in found.items()
        if (name, way) not in {(x["world"], x["way"]) for x in done}
    }
    if not left:
        return
    times = in_turns({way: one_action(here, policy) for way, policy in left.items()}, repeats=15)
    reference = evaluate(here, found[REFERENCE], episodes=episodes, seed=SEED)
    results = {way: reference if way == REFERENCE else None for way in left}
    for way, policy in left.items():
        result = results[way] or evaluate(here, policy, episodes=episodes, seed=SEED)
        low, high = result.interval
        line = {"world": name, "way": way, "candidates": ways(model, threads)[way][0], "episodes": episodes}
        line |= {"success": result.rate, "low": low, "high": high, "decisions": result.mean_decisions}
        line |= {
            "difference": paired_difference(result, reference).interval,
            "milliseconds": times[way],
            "threads": threads,
        }
        keep(line)


def one_action(here: Any, policy: Policy) -> Callable[[], object]:
    """An action of one episode whose goal is known."""
    state, goal = sample_tasks(here, 1, SEED)
    policy.begin(here.render(goal), SEED)
    return functools.partial(policy.act, 0, np.zeros(1, np.int64), here.render(state))


def page(content: dict) -> str:
    """The results as Markdown."""
    lines = content["results"]
    text = ["# LatentWAM: policy, planning, and both", ""]
    text += [describe(content["machine"], lines[0]["threads"]), *doubts(content["machine"]), ""]
    text += [
        "| world | way | candidates | success | 95 % interval | less CEM's, 95 % | decisions | ms per action |",
        "|---|---|--:|--:|---|---|--:|--:|",
    ]
    for x in lines:
        low, high = x["difference"]
        decisions = "–" if x["decisions"] is None else f"{x['decisions']:.1f}"
        text.append(
            f"| {x['world']} | {x['way']} | {x['candidates']} | {x['success']:.2f} | {x['low']:.2f} to {x['high']:.2f} | "
            f"{low:+.2f} to {high:+.2f} | {decisions} | {x['milliseconds']['median']:.1f} |"
        )
    text += ["", f"{lines[0]['episodes']} episodes each, the same for all ways; goals are pictures."]
    return "\n".join(text) + "\n"


def train(data: str, run: str, steps: int, reach: int, threads: int) -> None:
    """The LatentWAM of one world; on one processor core two to three steps a second."""
    from fastwm.data import Episodes
    from fastwm.training.loop import train_recipe
    from fastwm.training.recipes.wam import WamRecipe, WamTrainConfig

    every = max(1, steps // 4)
    config = WamTrainConfig(steps=steps, threads=threads, validate_every=every, checkpoint_every=every)
    sizes = LatentWAMConfig(action_dim=Episodes(data).action_dim, reach=reach)
    train_recipe(lambda: WamRecipe(sizes, config), data, run, config)


def main(arguments: list[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rooms", help="directory of a LatentWAM of two-room")
    parser.add_argument("--push", help="directory of a LatentWAM of push")
    parser.add_argument("--train", nargs=2, metavar=("DATA", "RUN"), help="train one instead")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--reach", type=int, default=16)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "wam.json")
    options = parser.parse_args(arguments)
    if options.train:
        return train(*options.train, options.steps, options.reach, options.threads)
    models = {name: path for name, path in (("two-room", options.rooms), ("push", options.push)) if path}
    if not models:
        parser.error("give --rooms, --push or --train")
    check_writable(options.output)
    lines = read(options.output)["results"] if options.resume and options.output.exists() else []
    torch.set_num_threads(options.threads)

    def keep(line: dict) -> None:
        lines.append(line)
        content = {"machine": header(), "results": lines}
        save(options.output, content)
        write(options.output.with_suffix(".md"), page(content))
        print(
            f"{line['world']}, {line['way']}: {line['success']:.2f}, {line['milliseconds']['median']:.1f} ms",
            flush=True,
        )

    for name, path in models.items():
        measure(name, LatentWAM.load(path), options.episodes, options.threads, list(lines), keep)
    return None


if __name__ == "__main__":
    main()
