"""The flags of `fastwm train`: those of a run, and a flag for every field of the objective's configurations."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Collection, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line. `given`: the command line, where one flag decides what others there are."""

    given: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)  # --encoder is not short for --encoder-dir

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; of a flag that there is not, the help of the command that lacks it is named."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            prog = f"{self.prog} {parsed.command}"
            if parsed.command == "train":
                prog += f" --objective {parsed.objective}"
            self.exit(2, f"{prog}: unrecognized arguments: {' '.join(rest)} (see {prog} --help)\n")
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


# What a flag of `fastwm train` means; a field of the two configurations that is not here has no flag.
MODEL_HELP = {
    "encoder": "of pixels",
    "encoder_width": "channels of the first layer (patch_conv)",
    "patch_size": "pixels (vit_tiny)",
    "encoder_depth": "layers (vit_tiny)",
    "image_size": "pixels, square; given, pictures of the data are resized to it on reading",
    "embed_dim": "numbers in a latent",
    "predictor": "of the next latent",
    "residual": "predict the change of the latent, which learns far faster than the latent itself",
    "window": "(latent, action) pairs the predictor sees",
    "width": "of the transformer (adaln)",
    "depth": "layers (adaln)",
    "heads": "of attention (adaln)",
    "head_dim": "(adaln)",
    "mlp_dim": "hidden width",
    "projector_dim": "hidden width",
    "action_hidden": "hidden width of the action encoder",
    "action_block": "environment steps per action block (frame skip)",
    "dropout": "(adaln)",
    "frames": "of a clip (vjepa)",
    "tubelet": "frames in a token (vjepa)",
    "position": "encoding of places",
    "history": "frames that the policy sees (wam)",
    "chunk": "action blocks that the policy says at once (wam)",
    "reach": "blocks to the farthest goal that distances are learned for (wam)",
    "action_head": "of the policy (wam)",
    "flow_steps": "of the policy (wam, flow)",
    "components": "of the policy (wam, mixture)",
    "reward_head": "predict rewards, from the data's `reward` (wam)",
    "termination_head": "predict the episode's end, from the data's `terminated` (wam)",
}
TRAIN_HELP = {
    "steps": "optimizer steps; the learning rate's cosine spans exactly these",
    "batch_size": "sequences per step",
    "frames": "per sequence",
    "seed": "of everything random",
    "learning_rate": "at its peak",
    "final_learning_rate": "as a fraction of the peak",
    "warmup_steps": "of linear warm-up",
    "weight_decay": "of AdamW",
    "gradient_clip": "largest norm of the gradient",
    "regulariser": "against collapse",
    "regulariser_weight": "",
    "projections": "random directions per step (sigreg)",
    "knots": "of its quadrature (sigreg)",
    "accumulate": "parts that a process computes its share of a batch in, one after another: less memory",
    "device": "auto is a GPU where there is one",
    "rollout_steps": "blocks ahead that predictions are also taught from predictions; 1: none",
    "rollout_weight": "of that",
    "unroll": "blocks ahead that predictions are also taught from predictions (wam)",
    "policy_weight": "(wam)",
    "distance_weight": "(wam)",
    "video_weight": "(wam)",
    "reward_weight": "(wam, --reward-head)",
    "termination_weight": "(wam, --termination-head)",
    "outcomes_of": "what a row's `reward` and `terminated` are of: its action, or its frame (stable-worldmodel's) (wam)",
    "inverse_share": "of the samples, which also train the inverse mode (wam)",
    "goal_dropout": "share of the samples whose policy sees no goal (wam)",
    "expectile": "distances lean to the shortest seen (wam)",
    "precision": "auto is bfloat16 where the processor multiplies it",
    "threads": "of PyTorch",
    "validation_fraction": "share of the episodes held out",
    "validate_every": "steps between measurements of the model's health",
    "checkpoint_every": "steps between checkpoints",
    "log_every": "steps between rows of metrics.csv",
    "tensorboard": "write TensorBoard logs",
}

EXAMPLES = """examples:
  fastwm train data/push.h5 runs/push --steps 3000
  fastwm train data/push.h5 runs/push --steps 3000 --resume      go on after an interruption
  fastwm train data/rooms.h5 runs/rooms --preset mlp --steps 500
  fastwm train data/steps.h5 runs/steps --action-block 5         five environment steps in each action
  fastwm train data/push.h5 runs/wide --steps 6000 --width 192 --depth 2 --no-residual
  fastwm train data/push.h5 runs/far --rollout-steps 3           also taught on its own predictions, three blocks ahead
  fastwm train data/push.h5 runs/wam --objective wam --steps 2500
  fastwm train data/push.h5 runs/better --distill runs/wam       teach its policy what the planner finds
  fastwm train videos/ runs/eyes --objective lejepa              clips without actions, too
  fastwm train videos/ runs/eyes --objective lejepa --image-size 64 --cache frames    of any size; decoded once
  fastwm train data/push.h5 runs/on-eyes --objective frozen --encoder-dir runs/eyes
  fastwm train data/push.h5 runs/push --devices 4                the same batches, shared out among four processes
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
    -m fastwm.cli train data/push.h5 runs/push                   on two machines, eight processes each

objectives (their own flags: fastwm train --objective NAME --help):
"""


def declare(parser: Parser) -> None:
    from fastwm.training.jobs import OBJECTIVES

    parser.usage = "fastwm train [options] FILE DIR"
    assert parser.epilog is not None
    parser.epilog += "\n".join(f"  {name:<12} {known.summary}" for name, known in OBJECTIVES.items())
    chosen = _value(parser.given, "--objective") or "world-model"
    parser.add_argument("data", metavar="FILE", help="episodes: HDF5, Lance, LeRobot, or a folder of videos")
    parser.add_argument("run", metavar="DIR", help="where to write model, checkpoints and logs")
    parser.add_argument(
        "--objective",
        default="world-model",
        choices=OBJECTIVES,
        help="what is trained (default: world-model)",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in DIR")
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine that share every batch, each with a GPU where there are (default: 1)",
    )
    parser.add_argument(
        "--encoder-dir", metavar="DIR", help="frozen: the encoder, ours or in Hugging Face's layout"
    )
    parser.add_argument(
        "--distill",
        metavar="DIR",
        help="train nothing else: teach the policy of this LatentWAM what plans find",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--camera", metavar="NAME", help="of several")
    data.add_argument("--cache", metavar="DIR", help="decode (and resize) every frame once, to a file there")
    data.add_argument("--skip-damaged", action="store_true", help="leave damaged episodes out")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    if chosen not in OBJECTIVES:
        return  # argparse says so
    known = OBJECTIVES[chosen]
    parser.add_argument(
        "--preset",
        default=known.presets[0],
        choices=known.presets,
        help=f"start from (default: {known.presets[0]})",
    )
    model = parser.add_argument_group("model", "changes to the preset; defaults are those of small")
    training = parser.add_argument_group("training", "changes to the preset; defaults are those of small")
    for group, part, meanings in (
        (model, known.model, MODEL_HELP),
        (training, known.run, TRAIN_HELP),
    ):
        flags = known.fields(part)
        _fields(group, part, {name: _said(meanings[name], flags) for name in meanings if name in flags})


def _said(meaning: str, flags: Collection[str]) -> str:
    """`meaning` without the kind of model that it is of, where the objective has one kind alone."""
    for kind, flag in (("patch_conv", "encoder"), ("vit_tiny", "encoder"), ("adaln", "predictor")):
        if flag not in flags:
            meaning = meaning.replace(f"({kind})", "").strip()
    return meaning


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """What follows `flag` on the command line, which decides what other flags there are."""
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _fields(group: argparse._ArgumentGroup, defaults: object, meanings: dict[str, str]) -> None:
    """A flag for each field of a configuration that `meanings` names; absent from the namespace unless given."""
    kinds = typing.get_type_hints(type(defaults))
    for name, meaning in meanings.items():
        flag, default, kind = f"--{name.replace('_', '-')}", getattr(defaults, name), kinds[name]
        if default is not None:
            meaning = f"{meaning} (default: {str(default).lower() if isinstance(default, bool) else default})".strip()
        if kind is bool:
            group.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=meaning
            )
        elif typing.get_origin(kind) is typing.Literal:
            group.add_argument(flag, choices=typing.get_args(kind), default=argparse.SUPPRESS, help=meaning)
        else:
            number = float if kind is float else int
            metavar = "X" if number is float else "N"
            group.add_argument(flag, type=number, default=argparse.SUPPRESS, metavar=metavar, help=meaning)


def given(parsed: argparse.Namespace, meanings: dict[str, str]) -> dict[str, Any]:
    """The fields that the command line sets."""
    return {name: value for name, value in vars(parsed).items() if name in meanings}
