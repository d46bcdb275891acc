"""A run killed at any moment and resumed equals one that was never stopped, bit for bit on one thread."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_data import write_dots
from tiny_models import small_config

from fastwm.models import WorldModel
from fastwm.training import TrainConfig, train
from fastwm.training.interruption import Interruption
from fastwm.training.recipes.world_model import WorldModelRecipe

MODEL = {"dropout": 0.2}
CONFIG = {
    "steps": 20,
    "batch_size": 8,
    "projections": 8,
    "threads": 1,
    "validation_fraction": 0.2,
    "log_every": 2,
    "validate_every": 6,
    "checkpoint_every": 7,
    "tensorboard": False,
}
FILES = ("metrics.csv", "validation.csv", "config.json", "model.safetensors", "checkpoint.safetensors")

# Kills its own process at the `count`-th call of a function, before or after the call takes effect.
KILLED_RUN = """
import os, signal, sys
import fastwm.training.loop as loop
from tiny_models import small_config
from fastwm.training import TrainConfig, train

data, run, where, count, model, config = sys.argv[1:]
calls = []

def deadly(function, path=None):
    def call(*arguments, **keywords):
        if path is None or str(arguments[1]).endswith(path):
            calls.append(1)
            if len(calls) == int(count):
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call

if where == "step":
    loop.batch_starts = deadly(loop.batch_starts)
else:
    os.replace = deadly(os.replace, where)
train(data, run, small_config(**eval(model)), TrainConfig(**eval(config)), resume=True, progress=False)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("data") / "dots.h5")


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted")
    train(data, run, small_config(**MODEL), TrainConfig(**CONFIG), progress=False)
    return run


def run_until_killed(data: Path, run: Path, where: str, count: int) -> None:
    tests = Path(__file__).parent
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-c", KILLED_RUN, data, run, where, count, MODEL, CONFIG]
    done = subprocess.run(
        [str(argument) for argument in command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("step", 5),  # before the first checkpoint
        ("step", 12),  # between two checkpoints, with logged rows after the last
        ("checkpoint.safetensors", 2),  # the second checkpoint is written but not yet in place
        ("config.json", 1),  # the new weights are in place, their description is not
        ("config.json", 3),  # the same at the last step
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    where: str, count: int, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_until_killed(data, run, where, count)
    with open(run / "metrics.csv", "a") as file:
        file.write("13,0.")  # a row cut short, as a crash of the machine may leave
    result = train(data, run, small_config(**MODEL), TrainConfig(**CONFIG), resume=True, progress=False)
    for name in FILES:
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    assert not list(run.glob(".*.tmp")), "what a killed run was writing is gone"
    truth = WorldModel.load(uninterrupted).state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, truth[name]), name


def test_how_often_it_is_kept_may_change(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run_until_killed(data, tmp_path, "step", 12)
    other = TrainConfig(**CONFIG | {"checkpoint_every": 3})
    train(data, tmp_path, small_config(**MODEL), other, resume=True, progress=False)
    for name in FILES[:-1]:
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes(), name


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_the_step_under_way(
    sent: signal.Signals, data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after_step = signal.getsignal(sent), WorldModelRecipe.after_step

    def interrupted(recipe: WorldModelRecipe, step: int, steps: int) -> None:
        after_step(recipe, step, steps)
        if step == 3:  # no checkpoint yet
            os.kill(os.getpid(), sent)

    with monkeypatch.context() as patch:
        patch.setattr(WorldModelRecipe, "after_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path, small_config(**MODEL), TrainConfig(**CONFIG), progress=False)
    assert signal.getsignal(sent) == before
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(WorldModelRecipe, "after_step", lambda recipe, step, _: steps.append(step))
        train(data, tmp_path, small_config(**MODEL), TrainConfig(**CONFIG), resume=True, progress=False)
    assert steps == list(range(4, 21))
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_a_second_signal_ends_it_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Interruption(signal.SIGINT, signal.SIGTERM) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.asked
        assert "once more to end at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with Interruption(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)  # of several processes: as ever


@pytest.mark.slow
def test_killed_twice(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    for count in (9, 8):  # at step 9, then resumed from 7 and killed at 14 after logging 8 to 13
        run_until_killed(data, tmp_path, "step", count)
    train(data, tmp_path, small_config(**MODEL), TrainConfig(**CONFIG), resume=True, progress=False)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes(), name


@pytest.fixture
def finished(uninterrupted: Path, tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes((uninterrupted / name).read_bytes())
    return tmp_path


def test_resuming_a_finished_run_changes_nothing(data: Path, finished: Path, uninterrupted: Path) -> None:
    result = train(data, finished, small_config(**MODEL), TrainConfig(**CONFIG), resume=True, progress=False)
    for name in FILES:
        assert (finished / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    truth = WorldModel.load(uninterrupted)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, truth.state_dict()[name]), name
    assert truth.calibration is not None
    assert result.model.calibration is not None
    assert torch.equal(result.model.calibration.latents, truth.calibration.latents)


def test_a_directory_has_one_run_at_a_time(data: Path, tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(BlockingIOError, match="another process is training in"):
            train(data, tmp_path, small_config(**MODEL), TrainConfig(**CONFIG), progress=False)
    finally:
        os.close(held)
    assert not list(tmp_path.iterdir())


def test_threads_and_tensorboard_may_change(data: Path, finished: Path) -> None:
    config = TrainConfig(**{**CONFIG, "threads": 2, "tensorboard": True})
    train(data, finished, small_config(**MODEL), config, resume=True, progress=False)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        ({}, {"steps": 30, "seed": 1}, r"another train configuration \(seed 0 -> 1, steps 20 -> 30\)"),
        ({"width": 11}, {}, r"another model configuration \(width 10 -> 11\)"),
    ],
)
def test_another_configuration_is_refused(
    model: dict, config: dict, message: str, data: Path, finished: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(
            data,
            finished,
            small_config(**{**MODEL, **model}),
            TrainConfig(**{**CONFIG, **config}),
            resume=True,
            progress=False,
        )


def test_other_data_is_refused(finished: Path, tmp_path: Path) -> None:
    other = write_dots(tmp_path / "other.h5", seed=1)
    with pytest.raises(ValueError, match="trained on other data"):
        train(other, finished, small_config(**MODEL), TrainConfig(**CONFIG), resume=True, progress=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-9], "is damaged"),
        (lambda content: b"", "is damaged"),
        (
            lambda content: content.replace(b"fastwm.checkpoint", b"fastwm.checkpoinT"),
            "not a checkpoint of fastwm",
        ),
        (lambda content: content.replace(b'"version\\": 3', b'"version\\": 9'), "is of version 9"),
        (lambda content: content.replace(b'"behind\\"', b'"behinD\\"'), r"its header lacks \['behind'\]"),
        (lambda content: content[:-4] + b"\xff\xff\xff\xff", "its weights are not those"),
        (
            lambda content: content[:-9] + bytes([content[-9] ^ 16]) + content[-8:],
            "its weights are not those",
        ),
    ],
    ids=["truncated", "empty", "another format", "another version", "a part", "not finite", "a bit"],
)
def test_a_damaged_checkpoint_is_refused(damage, message: str, data: Path, finished: Path) -> None:
    path = finished / "checkpoint.safetensors"
    content = damage(path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        train(data, finished, small_config(**MODEL), TrainConfig(**CONFIG), resume=True, progress=False)
