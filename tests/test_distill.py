"""Plans are taught to the policy; the world model stays, and what is worse is thrown away."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_wam import random_wam
from tiny_data import write_dots

import fastwm
from fastwm import CEM, Planner
from fastwm.data import Episodes
from fastwm.models.wam import LatentWAM
from fastwm.training.distill import ACTIONS, DistillConfig, distill, imitate, make_plans, policy_loss, starts

QUICK = DistillConfig(plans=12, batch=5, steps=30, batch_size=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return Episodes(write_dots(tmp_path_factory.mktemp("dots") / "dots.h5"))


def parts(head: str = "mixture", history: int = 1) -> tuple[LatentWAM, Planner]:
    model = random_wam(action_dim=2, window=1, history=history, action_head=head)
    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=1)
    return model, Planner(engine, CEM(8, 2, 2, low=-1.0, high=1.0), 4)


@pytest.mark.parametrize(("head", "history"), [("flow", 1), ("mixture", 1), ("flow", 3), ("mixture", 2)])
def test_the_policy_learns_the_plans_and_the_world_stays(episodes: Episodes, head: str, history: int) -> None:
    model, planner = parts(head, history)
    contexts, goals = starts(model, episodes, QUICK)
    plans = make_plans(planner, contexts, goals, QUICK)
    taught = imitate(model, contexts, goals, plans, QUICK)

    def loss(which: LatentWAM) -> float:
        with torch.no_grad():
            return policy_loss(which, contexts, goals, plans, torch.Generator().manual_seed(0)).item()

    assert loss(taught) < loss(model) - 0.1
    for (name, old), new in zip(model.state_dict().items(), taught.state_dict().values(), strict=True):
        assert torch.equal(old, new) or name.split(".")[0] in ACTIONS, name


@torch.no_grad()
@pytest.mark.parametrize("history", [1, 2, 3])
def test_the_policy_moves_a_share_of_the_starts(episodes: Episodes, history: int) -> None:
    """Each to a frame of where it leads from the data's, with the frames that came before that one."""
    model, _ = parts(history=history)
    config = dataclasses.replace(QUICK, imagined=0.5)
    real, goals = starts(model, episodes, dataclasses.replace(config, imagined=0.0))
    found, same = starts(model, episodes, config)
    assert torch.equal(goals, same)
    assert torch.equal(found[6:], real[6:])
    actions = model.policy(real[:6], goals[:6], 1, torch.Generator().manual_seed(config.seed))
    path = torch.cat([real[:6], model.rollout(real[:6, -1:], actions)[:, 0]], dim=1)  # [6, history + 4, E]
    for b in range(6):
        places = [n for n in range(1, 5) if torch.allclose(found[b], path[b, n : n + history], atol=1e-5)]
        assert len(places) == 1


def test_plans_do_not_depend_on_the_batch(episodes: Episodes) -> None:
    model, planner = parts()
    contexts, goals = starts(model, episodes, dataclasses.replace(QUICK, imagined=0.0))
    some = make_plans(planner, contexts, goals, QUICK)
    assert torch.equal(some, make_plans(planner, contexts, goals, dataclasses.replace(QUICK, batch=12)))


@pytest.mark.parametrize(("after", "kept"), [(0.4, False), (0.5, True), (0.9, True)])
def test_the_gate(episodes: Episodes, after: float, kept: bool) -> None:
    model, planner = parts()
    found = distill(model, planner, episodes, lambda which: 0.5 if which is model else after, QUICK)
    assert (found.before, found.after, found.kept) == (0.5, after, kept)
    assert (found.model is model) != kept


def test_refusals(episodes: Episodes) -> None:
    model, planner = parts()
    with pytest.raises(ValueError, match="horizon of 3; expected at least 4"):
        distill(model, Planner(planner.engine, planner.optimizer, 3), episodes, lambda _: 0.0, QUICK)
    far = random_wam(action_dim=2, window=1, history=1, reach=50)
    with pytest.raises(ValueError, match="no window of 51 frames"):
        distill(far, planner, episodes, lambda _: 0.0, QUICK)
    for changes, words in (
        ({"plans": 0}, "plans is 0"),
        ({"imagined": 2.0}, "imagined is 2.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ):
        with pytest.raises(ValueError, match=words):
            DistillConfig(**changes)  # type: ignore[arg-type]
