"""The `fastwm` command line: what each sub-command takes. What it does is a function in `commands`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from fastwm import __version__, train_flags
from fastwm.train_flags import Parser

WORLDS = ("push", "two-room", "two-room-steps")
ALL_WORLDS = (*WORLDS, "pendulum", "pusht", "reacher")  # the last are others' simulators: extras

# What an interrupted command says of going on.
RESUME = {
    "demo": "; the same command goes on from here",
    "collect": "; the same command goes on from here",
    "train": "; the same command with --resume goes on from the last checkpoint",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input (one line on stderr), 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        parsed = _parser(arguments).parse_args(arguments)
        parsed.arguments = arguments
    except KeyboardInterrupt:  # some flags are declared by modules that take a second to import
        print("\nfastwm: interrupted", file=sys.stderr)
        return 130
    name = f"fastwm {parsed.command}"
    try:
        from fastwm import commands

        return getattr(commands, parsed.command)(parsed) or 0
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted{RESUME.get(parsed.command, '')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        ValueError,
        TypeError,
        OSError,
        ImportError,
        FloatingPointError,
        MemoryError,
        RuntimeError,
    ) as error:
        if parsed.traceback:
            raise
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 2


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser(arguments: Sequence[str]) -> Parser:
    """The parser of all commands; flags are declared for the one in `arguments` alone, as some need PyTorch to be known."""
    parser = Parser(
        prog="fastwm",
        description="Train JEPA world models and plan in their latent space at the speed of the hardware.",
        epilog="Start with: fastwm demo --env two-room",
    )
    parser.add_argument("--version", action="version", version=f"fastwm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    declarations: dict[str, tuple[Callable[[Parser], None], str, str]] = {
        "demo": (_demo, "from pixels to plans in minutes, with a report", _DEMO_EXAMPLES),
        "collect": (_collect, "collect episodes of a world into an HDF5 file", _COLLECT_EXAMPLES),
        "data": (_data, "what a data set of episodes holds, in numbers and as a picture", _DATA_EXAMPLES),
        "train": (
            train_flags.declare,
            "train a world model, a policy or an encoder on episodes",
            train_flags.EXAMPLES,
        ),
        "plan": (_plan, "plan from one picture to another", _PLAN_EXAMPLES),
        "eval": (_eval, "how often a model's plans reach their goals, in closed loop", _EVAL_EXAMPLES),
        "diagnose": (
            _diagnose,
            "what a model is good for: actions, horizon, ranking, rank",
            _DIAGNOSE_EXAMPLES,
        ),
        "bench": (_bench, "how fast the kernels and a whole plan are on this machine", _BENCH_EXAMPLES),
        "info": (_info, "what runs here: backend, instruction set, threads, versions", _INFO_EXAMPLES),
    }
    chosen = next((argument for argument in arguments if argument in declarations), None)
    for name, (declare, summary, examples) in declarations.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
        if name == chosen:
            command.given = arguments
            declare(command)
    return parser


_DEMO_EXAMPLES = """examples:
  fastwm demo                                        push a puck to where a picture shows it: about two minutes on
                                                     two idle cores
  fastwm demo --env two-room                         walk to another room: half a minute
  fastwm demo --fresh                                forget what an earlier run left in runs/demo

A second run goes on from what the first one finished: its episodes, and the training's last checkpoint.
"""


def _demo(parser: Parser) -> None:
    parser.add_argument("--env", default="push", choices=WORLDS[:2], help="world (default: push)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write (default: runs/demo for push, runs/two-room for two-room)",
    )
    parser.add_argument("--fresh", action="store_true", help="start over")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="training steps (default: as known to suffice)"
    )
    parser.add_argument("--collect", type=int, metavar="N", help="episodes to collect (default: 2000)")
    parser.add_argument("--episodes", type=int, metavar="N", help="episodes to evaluate (default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    _threads(parser)
    _quiet(parser)


_COLLECT_EXAMPLES = """examples:
  fastwm collect push data/push.h5                          2000 episodes of 30 frames, noisy experts and random walks
  fastwm collect two-room data/rooms.h5 --policy random --episodes 500 --length 20
  fastwm collect two-room-steps data/steps.h5 --length 100  a decision at every substep, for models of action blocks

A killed collection goes on where it was when the same command runs again.
"""


def _collect(parser: Parser) -> None:
    parser.add_argument("env", choices=ALL_WORLDS, metavar="WORLD", help=f"one of {', '.join(ALL_WORLDS)}")
    parser.add_argument("path", metavar="FILE", help="HDF5 file to write")
    parser.add_argument("--episodes", type=int, default=2000, metavar="N", help="(default: 2000)")
    parser.add_argument(
        "--length", type=int, default=30, metavar="N", help="frames per episode (default: 30)"
    )
    parser.add_argument(
        "--policy", default="mix", choices=("mix", "expert", "random"), help="who acts (default: mix)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="threads (default: 1)")
    _quiet(parser)


_DATA_EXAMPLES = """examples:
  fastwm data info data/push.h5
  fastwm data info clips --sheet clips.png                  a folder of videos; a picture of its episodes
  fastwm data info so100 --camera observation.images.top --json
  fastwm data info clips --check --skip-damaged             decode every frame; leave out what is damaged

FILE is HDF5 (ours or stable-worldmodel's), a LeRobot data set (version 3), a Lance table, a video or a folder of videos.
"""


def _data(parser: Parser) -> None:
    parser.add_argument("action", choices=("info",), metavar="info", help="what is in FILE")
    parser.add_argument("path", metavar="FILE", help="a file or folder of episodes")
    parser.add_argument("--camera", metavar="NAME", help="whose pictures, where there are several")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="resize pictures: pixels, square (videos of several sizes)",
    )
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave damaged episodes out, and list them"
    )
    parser.add_argument(
        "--check", action="store_true", help="decode every frame; exit code 1 where one is damaged"
    )
    parser.add_argument("--sheet", metavar="PNG", help="draw episodes there: one a row, frames over time")
    parser.add_argument("--json", action="store_true", help="print JSON")


_PLAN_EXAMPLES = """examples:
  fastwm plan runs/demo/model --start now.png --goal wish.png --env push
  fastwm plan runs/demo/model --env push --seed 7            a task of that world; --save-images writes its pictures
  fastwm plan runs/demo/model --env push --seed 7 --json
"""


def _plan(parser: Parser) -> None:
    parser.add_argument("model", metavar="DIR", help="a saved world model")
    parser.add_argument("--start", metavar="PNG", help="what the agent sees")
    parser.add_argument("--goal", metavar="PNG", help="what it should see")
    parser.add_argument(
        "--env", choices=ALL_WORLDS, help="world whose action bounds hold, and whose task --seed draws"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the task and the search (default: 0)"
    )
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="stop the search in time")
    parser.add_argument("--save-images", metavar="DIR", help="write start.png and goal.png there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _search(parser)
    _engine(parser)


_EVAL_EXAMPLES = """examples:
  fastwm eval runs/demo/model --env push
  fastwm eval runs/demo/model --env push --episodes 500 --samples 256
  fastwm eval runs/demo/model --env push --episodes 500 --dtype float32 int8       the same episodes, pair by pair
  fastwm eval --env push --policy expert random              the baselines need no model
  fastwm eval runs/wam --env push --policy planner reactive  what a search adds to a LatentWAM's own policy
  fastwm eval runs/demo/model --env push --episodes 2000 --workers 8 --threads 1
"""


def _eval(parser: Parser) -> None:
    # DIR comes first: behind --dtype or --policy it would be taken for one more of their values.
    parser.usage = f"fastwm eval [DIR] --env {{{','.join(ALL_WORLDS)}}} [options]"
    parser.add_argument(
        "model", nargs="?", metavar="DIR", help="a saved world model, for the planner; comes first"
    )
    parser.add_argument("--env", required=True, choices=ALL_WORLDS, help="world")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument(
        "--policy",
        nargs="+",
        choices=("planner", "reactive", "expert", "random"),
        help="who acts (default: planner); reactive: a LatentWAM's policy, without a search",
    )
    parser.add_argument(
        "--budget", type=int, metavar="N", help="decisions per episode (default: the world's)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of tasks and draws (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the episodes; the result is the same (default: 1)",
    )
    parser.add_argument("--ray", action="store_true", help="workers of a Ray cluster (extra: ray)")
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["auto"],
        choices=_dtypes(),
        help="of the engine; several are compared in the same episodes (default: auto)",
    )
    _search(parser)
    _backend(parser)
    _quiet(parser)


_DIAGNOSE_EXAMPLES = """examples:
  fastwm diagnose runs/demo/model runs/demo/episodes.h5 --out diagnosis.html
  fastwm diagnose runs/mine data/mine.h5 --json              episodes of no world of ours: without the ranking of plans

Measured on the episodes that training holds out, if --seed and --validation-fraction are the training's. The ranking of plans
needs the world that the episodes come from, which a file of `fastwm collect` names. Pictures are resized to the model's.
"""


def _diagnose(parser: Parser) -> None:
    parser.add_argument("model", metavar="DIR", help="a saved world model")
    parser.add_argument("data", metavar="FILE", help="episodes, best those of its training")
    parser.add_argument("--env", choices=WORLDS, help="world to try plans in (default: the file's)")
    parser.add_argument("--camera", metavar="NAME", help="of several")
    parser.add_argument("--skip-damaged", action="store_true", help="leave damaged episodes out")
    parser.add_argument("--out", metavar="HTML", help="write a page there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.05,
        metavar="X",
        help="episodes held out (default: 0.05)",
    )
    _engine(parser)


_BENCH_EXAMPLES = """examples:
  fastwm bench                                 every kernel and whole plans, beside PyTorch: two minutes on two idle cores
  fastwm bench --quick                         a look: half a minute on two idle cores
  fastwm bench rollout_lewm plan_push          some; the names: cem_sample, rollout_small, rollout_mlp, rollout_lewm,
                                               goal_cost, cem_update, plan_push, plan_two_room
  FASTWM_ISA=avx2 fastwm bench                 on another instruction set
  fastwm bench --latency --rate 50 --out lat   1000 plans at 50 Hz by each backend: tail, jitter, misses, and a picture
  fastwm bench --scaling --out scaling         cost against candidates, horizon, depth, width, threads: a Markdown page
                                               (scaling.md) and an SVG picture (scaling.svg)

A time is printed only for what has just computed the same as PyTorch. Run nothing beside it: on a busy machine a time, and
most of all PyTorch's, may be many times too long. In --latency PyTorch's ways make a fifth of the plans. Results are written as
they come; an interrupted run's file says "partial".
"""


def _bench(parser: Parser) -> None:
    parser.usage = "fastwm bench [options] [KERNEL ...]"
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="(default: all)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--latency", action="store_true", help="plans at a fixed rate instead")
    mode.add_argument("--scaling", action="store_true", help="rollouts of many sizes instead")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and nothing large")
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="of each time (default: 10; of --scaling: 3)"
    )
    parser.add_argument(
        "--plans",
        type=int,
        metavar="N",
        help="of --latency, by each backend; PyTorch's ways make a fifth (default: 1000)",
    )
    parser.add_argument(
        "--rate", type=float, metavar="HZ", help="plans per second of --latency (default: 20)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument(
        "--out", metavar="DIR", help="write the results there, and pages and pictures of them"
    )
    _threads(parser)
    _quiet(parser)


_INFO_EXAMPLES = """examples:
  fastwm info
  fastwm info runs/demo/model           also what a model compiles to
  FASTWM_ISA=avx2 fastwm info           force an instruction set; FASTWM_BACKEND forces a backend
"""


def _info(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", metavar="DIR", help="a saved world model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _engine(parser)


def _search(parser: Parser) -> None:
    group = parser.add_argument_group("search (CEM)")
    group.add_argument(
        "--samples", type=int, default=128, metavar="N", help="candidates per iteration (default: 128)"
    )
    group.add_argument(
        "--elites", type=int, metavar="N", help="(default: a sixteenth of the samples, at least 6)"
    )
    group.add_argument("--iterations", type=int, default=2, metavar="N", help="(default: 2)")
    group.add_argument(
        "--horizon", type=int, default=16, metavar="N", help="action blocks ahead (default: 16)"
    )
    group.add_argument(
        "--std",
        type=float,
        default=1.5,
        metavar="X",
        help="of the first noise, in standard deviations of the training actions (default: 1.5)",
    )
    group.add_argument(
        "--min-std",
        type=float,
        default=0.1,
        metavar="X",
        help="of the noise at the least, in the actions' own units (default: 0.1)",
    )
    group.add_argument(
        "--noise-exponent",
        type=float,
        default=2.0,
        metavar="X",
        help="of the noise over time: 0 is white, 2 red, which lasts (default: 2)",
    )


def _engine(parser: Parser) -> None:
    parser.add_argument("--dtype", default="auto", choices=_dtypes(), help="of the engine (default: auto)")
    _backend(parser)


def _backend(parser: Parser) -> None:
    parser.add_argument("--backend", default="auto", choices=("auto", "cpu", "torch"), help="(default: auto)")
    _threads(parser)


def _dtypes() -> tuple[str, ...]:
    from fastwm.engine.pack import DTYPES

    return ("auto", *DTYPES)


def _threads(parser: Parser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="(default: every processor)")


def _quiet(parser: Parser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress")


if __name__ == "__main__":
    sys.exit(main())
