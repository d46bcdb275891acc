"""What the ranking gate is for: a dtype that it lets through reaches as many goals, one that it refuses does not."""

from __future__ import annotations

import dataclasses

import pytest

import fastwm
from fastwm.data import collect
from fastwm.demo import Search
from fastwm.engine.engine import Engine, Imported
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES
from fastwm.engine.ranking import Ranking, pose_problems
from fastwm.envs import world
from fastwm.evaluation import Evaluation, PlannerPolicy, evaluate, paired_difference
from fastwm.models import WorldModelConfig
from fastwm.training import TrainConfig, train

pytestmark = pytest.mark.slow

EPISODES = 100
LOSS = 0.1  # of the share of goals, beyond chance


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """A model that walks through the door after seconds of training."""
    directory = tmp_path_factory.mktemp("rooms")
    data = collect("two-room", directory / "rooms.h5", episodes=200, length=20, seed=0, progress=False)
    config = TrainConfig.preset("small", steps=150, threads=1, tensorboard=False)
    model = train(
        data, directory / "run", WorldModelConfig.preset("mlp", action_dim=2), config, progress=False
    ).model
    return import_model(model)


def closed_loop(engine: Engine) -> Evaluation:
    here = world("two-room")
    return evaluate(here, PlannerPolicy(Search().planner(engine, here)), episodes=EPISODES, seed=1)


@pytest.fixture(scope="module")
def float32(imported: Imported) -> Evaluation:
    return closed_loop(fastwm.compile(imported, dtype="float32"))


def judge(imported: Imported, other: Engine) -> Ranking:
    exact = fastwm.compile(imported, dtype="float32")
    assert imported.calibration is not None
    return pose_problems(exact.rollout, imported.calibration, imported.action_mean, imported.action_std).rank(
        other.rollout
    )


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float32"])
def test_what_passes_reaches_as_many_goals(imported: Imported, float32: Evaluation, dtype: str) -> None:
    engine = fastwm.compile(imported, dtype=dtype)
    assert judge(imported, engine).passed
    assert float32.rate > 0.8, "else there is little to lose"
    assert paired_difference(closed_loop(engine), float32).interval[0] > -LOSS


def test_what_is_refused_reaches_fewer(imported: Imported, float32: Evaluation) -> None:
    """Weights of the predictor rounded to their signs."""
    head = [
        dataclasses.replace(dense, weight=dense.weight.sign() * dense.weight.abs().mean(1, keepdim=True))
        for dense in imported.spec.head
    ]
    coarse = dataclasses.replace(imported, spec=dataclasses.replace(imported.spec, head=head))
    engine = fastwm.compile(coarse, dtype="float32")
    assert not judge(imported, engine).passed
    assert paired_difference(closed_loop(engine), float32).interval[1] < 0
