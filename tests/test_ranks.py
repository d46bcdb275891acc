"""Training in several processes: what they learn together is what one learns from the whole batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_data import write_dots
from torch import nn

from fastwm.data import Episodes
from fastwm.models import WorldModel
from fastwm.objectives import SIGReg, processes
from fastwm.training.batch_norm import apart, together
from fastwm.training.jobs import job
from fastwm.training.ranks import Ranks
from fastwm.training.sampler import batch_starts, draws_generator

MODEL = "--image-size 16 --encoder-width 4 --embed-dim 12 --width 10 --heads 2 --head-dim 6 --mlp-dim 14 --projector-dim 20"
RUN = (
    "--steps 12 --batch-size 16 --projections 32 --precision float32 --device cpu --validation-fraction 0.2 --log-every 1 "
    "--checkpoint-every 5 --warmup-steps 4 --no-tensorboard --quiet --threads 1"
)

# A batch normalisation cancels the bias before it: its gradient is rounding, which Adam takes for a direction.
CANCELLED = (
    "head.bias",
    "conv1.bias",
    "conv2.bias",
    "projector.fc1.bias",
    "pred_proj.fc1.bias",
    "running_mean",
)


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("data") / "dots.h5")


def command(data: Path, run: Path, more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "fastwm.cli",
        "train",
        str(data),
        str(run),
        *MODEL.split(),
        *RUN.split(),
        *more.split(),
    ]


def train(data: Path, run: Path, more: str = "") -> str:
    done = subprocess.run(command(data, run, more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no deprecated call either
    return done.stdout


def rows(run: Path) -> list[dict[str, float]]:
    with open(run / "metrics.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same(run: Path, alone: Path) -> None:
    """The losses of every step, and each tensor at the end: equal but for the order of sums."""
    for found, expected in zip(rows(run), rows(alone), strict=True):
        assert found == pytest.approx(expected, rel=2e-4), found["step"]
    truth = WorldModel.load(alone).state_dict()
    for name, tensor in WorldModel.load(run).state_dict().items():
        if name.endswith(CANCELLED):
            continue
        assert torch.allclose(tensor, truth[name], rtol=2e-3, atol=2e-4), (name, tensor - truth[name])


@pytest.fixture(scope="module")
def alone(dots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone")
    assert "trained in" in train(dots, run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--regulariser vicreg"], ids=["sigreg", "vicreg"])
def test_two_processes_learn_what_one_does(more: str, dots: Path, alone: Path, tmp_path: Path) -> None:
    if more:
        alone = tmp_path / "alone"
        train(dots, alone, more)
    printed = train(dots, tmp_path / "two", f"{more} --devices 2")
    assert printed.count("trained in") == 1
    assert_same(tmp_path / "two", alone)
    assert (tmp_path / "two" / "validation.csv").read_text().count("\n") == 2


@pytest.mark.slow
def test_two_processes_learn_a_wam_as_one_does(dots: Path, tmp_path: Path) -> None:
    """Goals lie at other distances on each process: what counts there is counted over both."""
    sizes = "--image-size 16 --encoder-width 4 --embed-dim 12 --width 16 --heads 2 --head-dim 4 --mlp-dim 14 --projector-dim 20"
    more = f"--objective wam {sizes} --chunk 3 --reach 5 --unroll 2"
    for run, devices in (("alone", 1), ("two", 2)):
        arguments = [str(dots), str(tmp_path / run), *more.split(), *RUN.split(), "--devices", str(devices)]
        done = subprocess.run(
            [sys.executable, "-m", "fastwm.cli", "train", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    for found, expected in zip(rows(tmp_path / "two"), rows(tmp_path / "alone"), strict=True):
        assert found == pytest.approx(expected, rel=2e-3), found["step"]


@pytest.mark.slow
def test_a_killed_run_of_two_goes_on(dots: Path, alone: Path, tmp_path: Path) -> None:
    """One process dies in its eighth step: the others end, with an error, and --resume goes on from the fifth."""
    run = tmp_path / "run"
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    (deadly / "sitecustomize.py").write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import fastwm.training.loop as loop\n"
        "    after, calls = loop.batch_starts, []\n"
        "    def batch_starts(*arguments, **keywords):\n"
        "        calls.append(1)\n"
        "        if len(calls) == 8:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return after(*arguments, **keywords)\n"
        "    loop.batch_starts = batch_starts\n"
    )
    paths = os.pathsep.join(filter(None, [str(deadly), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command(dots, run, "--devices 2"),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--resume goes on" in done.stderr
    assert len(rows(run)) in (7, 8)
    train(dots, run, "--devices 2 --resume")
    assert_same(run, alone)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(dots: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(dots, tmp_path / "run", "--batch-size 15 --devices 2"), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fastwm train: batch_size is 15; expected a multiple of 2")
    assert done.stderr.count("\n") == 1  # not from each process, nor of the processes
    assert not (tmp_path / "run").exists()


PIXELS = {"image_size": 16, "encoder_width": 4, "embed_dim": 12, "mlp_dim": 14, "projector_dim": 20}
TRANSFORMER = {"width": 12, "heads": 2, "head_dim": 6, "depth": 1}
TRUNK = {"image_size": 16, "patch_size": 2, "width": 12, "depth": 1, "heads": 2, "mlp_dim": 12}
WAM = {**PIXELS, **TRANSFORMER, "chunk": 3, "reach": 5}


@pytest.mark.parametrize(
    ("objective", "preset", "model", "run"),
    [
        ("world-model", "small", {**PIXELS, **TRANSFORMER}, {}),
        ("world-model", "mlp", PIXELS, {"regulariser": "vicreg"}),
        ("world-model", "mlp", PIXELS, {"rollout_steps": 2}),
        ("wam", "small", {**WAM, "action_head": "flow"}, {"unroll": 2, "inverse_share": 0.0}),
        ("wam", "small", {**WAM, "action_head": "mixture"}, {"distance_weight": 0.0, "goal_dropout": 1.0}),
        ("wam", "small", WAM, {"policy_weight": 0.0, "video_weight": 0.0}),
        ("ijepa", "small", TRUNK, {}),
        ("vjepa", "small", {**TRUNK, "frames": 2}, {}),
        ("lejepa", "small", TRUNK, {}),
    ],
)
def test_every_parameter_takes_part_in_the_loss(
    objective: str, preset: str, model: dict, run: dict, dots: Path, tmp_path: Path
) -> None:
    """Processes wait for every gradient of the others."""
    episodes = Episodes(dots)
    run = {"steps": 1, "batch_size": 8, **run}
    made = job(
        objective,
        preset,
        episodes,
        tmp_path,
        Ranks(0, 1),
        model=dict(model),
        run=run,
        encoder_dir=None,
        progress=False,
    )
    recipe = made.make()
    recipe.prepare(episodes)
    starts = batch_starts(recipe.windows(episodes), 8, seed=0, step=1)
    draws = recipe.draws(draws_generator(seed=0, step=1), 8)
    recipe.train()
    recipe(recipe.batch(episodes, starts) | draws)["loss"].backward()
    assert [name for name, p in recipe.named_parameters() if p.requires_grad and p.grad is None] == []


def test_shares_are_the_batch() -> None:
    for count, parts in ((1, 1), (2, 1), (3, 2), (4, 3)):
        places = torch.arange(24)
        shares = [
            places[Ranks(r, count).share(24, part, parts)] for part in range(parts) for r in range(count)
        ]
        assert torch.equal(torch.cat(shares), places)


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (9, 5)), (nn.BatchNorm2d, (3, 5, 4, 2))])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}]
)
def test_one_process_alone_normalises_as_pytorch(kind: type, shape: tuple[int, ...], options: dict) -> None:
    torch.manual_seed(0)
    ours, theirs = (kind(5, **options, dtype=torch.float64) for _ in range(2))
    wrapped = nn.Sequential(ours)
    together(wrapped)
    for _ in range(3):
        x = (3 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
        twin = x.detach().clone().requires_grad_()
        weight = torch.randn(shape, dtype=torch.float64)
        (wrapped(x) * weight).sum().backward()
        (theirs(twin) * weight).sum().backward()
        torch.testing.assert_close(x.grad, twin.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    apart(wrapped)
    assert type(ours) is kind
    wrapped.eval()
    theirs.eval()
    torch.testing.assert_close(wrapped(x), theirs(x))


def test_a_process_that_measures_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError("the other processes are not here")

    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", called)
    monkeypatch.setattr(distributed, "broadcast", called)
    latents = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    with processes.alone():
        assert processes.count() == 1
        assert torch.equal(processes.total(latents), latents)
        assert SIGReg(projections=8)(latents).isfinite()
    assert processes.count() == 2
    with pytest.raises(AssertionError, match="not here"):
        processes.total(latents)
