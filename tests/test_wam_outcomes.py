"""A LatentWAM's optional heads: what a block earns, and whether an episode goes on after it."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_wam import random_wam
from test_wam_recipe import MODEL, QUICK
from tiny_data import write_dots

import fastwm
from fastwm import CEM, Goal, Planner, Reward
from fastwm.data import Episodes, EpisodeWriter
from fastwm.models.wam import LatentWAM, LatentWAMConfig
from fastwm.training import outcomes
from fastwm.training.loop import train_recipe
from fastwm.training.recipes.wam import WamRecipe

BOTH = {"reward_head": True, "termination_head": True}
SIZES = dataclasses.replace(MODEL, action_head="mixture", **BOTH)


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dots that earn their place to the right after a step, are not told it in an eighth of the episodes, and end at last."""
    folder = tmp_path_factory.mktemp("outcomes")
    plain = Episodes(write_dots(folder / "plain.h5"))
    with EpisodeWriter(folder / "dots.h5") as writer:
        for first in plain.offsets:
            rows = plain.rows(first + np.arange(12), ("pixels", "action", "state"))
            reward = np.append(rows["state"][1:, 0] / 10, 0).astype(np.float32)
            writer.append(**rows, reward=reward[:, None], terminated=np.arange(12) == 10)
    with h5py.File(folder / "dots.h5", "r+") as file:  # the writer writes no NaN, other recordings have some
        rewards = file["reward"][:].reshape(-1, 12)
        rewards[7::8] = np.nan
        file["reward"][:] = rewards.reshape(-1, 1)
    return folder / "dots.h5"


def sample(recipe: WamRecipe, dots: Path) -> dict[str, torch.Tensor]:
    episodes = Episodes(dots)
    recipe.prepare(episodes)
    windows = recipe.windows(episodes).reshape(40, 7)  # of each episode
    batch = recipe.batch(episodes, windows[[0, 1, 2, 7], [6, 0, 3, 6]])
    return batch | recipe.draws(np.random.default_rng(0), 4)


def test_a_block_of_steps_earns_their_sum_and_ends_with_any(dots: Path) -> None:
    config = dataclasses.replace(SIZES, action_dim=6, action_block=3)
    episodes = Episodes(dots)
    found = outcomes.read(config, episodes, episodes.offsets[:1], 4)
    rows = episodes.rows(np.arange(9), ("reward", "terminated"))
    np.testing.assert_allclose(found["reward"][0], rows["reward"].reshape(3, 3).sum(1), rtol=1e-6)
    last = outcomes.read(config, episodes, episodes.offsets[:1] + 2, 4)["terminated"]
    assert last.tolist() == [[0.0, 0.0, 1.0]]
    assert found["terminated"].tolist() == [[0.0, 0.0, 0.0]]
    arrived = outcomes.read(config, episodes, episodes.offsets[:1], 4, "frame")
    later = episodes.rows(np.arange(1, 10), ("reward",))["reward"].reshape(3, 3)
    np.testing.assert_allclose(arrived["reward"][0], later.sum(1), rtol=1e-6)


def test_each_loss_is_its_formula(dots: Path) -> None:
    """Of frames, the goal's frame and predictions, each with the block that led there; unknown rewards left out."""
    recipe = WamRecipe(SIZES, QUICK).eval()
    batch = sample(recipe, dots)
    assert batch["reward"].isnan().any(1).tolist() == [False, False, False, True]
    model = recipe.model
    with torch.no_grad():
        found, z = recipe(batch), model.encode(batch["pixels"])
        rolled = model.rollout(z[:, :1], batch["action"][:, None, :2])[:, 0]
        squares, entropies = [], []
        for b in range(4):
            goal = int(batch["goal"][b])
            pairs = [(z[b, 1], 0), (z[b, 2], 1), (z[b, goal], goal - 1), (rolled[b, 0], 0), (rolled[b, 1], 1)]
            for latent, t in pairs:
                earned, ended = batch["reward"][b, t], batch["terminated"][b, t]
                if earned.isfinite():
                    error = model.reward(latent, batch["action"][b, t]) - earned
                    squares.append((error / model.reward_std).square())
                goes_on = model.survival(latent, batch["action"][b, t])
                entropies.append(F.binary_cross_entropy(1 - goes_on, ended))
    torch.testing.assert_close(found["reward"], torch.stack(squares).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["termination"], torch.stack(entropies).mean(), rtol=1e-4, atol=1e-5)
    weights = {"dynamics": 1.0, "video": 0.1, "policy": 1.0, "distance": 0.2, "regulariser": 0.1}
    weights |= {"reward": 0.2, "termination": 0.2}
    whole = sum(weight * found[name].item() for name, weight in weights.items())
    assert found["loss"].item() == pytest.approx(whole, rel=1e-5)


def test_what_heads_are_taught_reaches_nothing_else_than_them_and_the_world(dots: Path) -> None:
    """No number of the outcomes is in another loss; no gradient of theirs in the policy, nor of the policy's in them."""
    recipe = WamRecipe(SIZES, QUICK).eval()
    batch = sample(recipe, dots)
    other = batch | {"reward": batch["reward"] + 1.0, "terminated": 1.0 - batch["terminated"]}

    def losses(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)  # of the regulariser's directions
        return recipe(given)

    before, after = losses(batch), losses(other)
    changed = {name for name in recipe.losses if not torch.equal(before[name], after[name])}
    assert changed == {"reward", "termination"}

    def touched(loss: str) -> set[str]:
        recipe.zero_grad()
        recipe(batch)[loss].backward()
        return {
            name.split(".")[0]
            for name, parameter in recipe.model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }

    policy = {"action_stream", "mixture", "slot", "goal_input", "goal_condition", "slot_condition"}
    for loss in ("reward", "termination"):
        found = touched(loss)
        assert not found & (policy | {"no_goal", "distance_head"})
        assert found >= {f"{loss}_head", "encoder"}
    assert not touched("policy") & {"reward_head", "termination_head", "action_encoder"}


def test_no_clean_action_and_no_outcome_reaches_the_policy() -> None:
    """With heads as without: the policy's answer is a function of frames and goal."""
    model = random_wam(**BOTH, action_head="mixture", history=1)
    context, goal = torch.randn(2, 1, 12), torch.randn(2, 12)
    actions = torch.randn(2, 4, 3, requires_grad=True)
    latents = model.rollout(context, actions[:, None])[:, 0]
    earned = model.reward(latents, actions) * model.survival(latents, actions)
    (gradient,) = torch.autograd.grad(earned.sum(), actions, retain_graph=True)
    assert (gradient != 0).all()
    said = model.density(context, goal)[1]
    assert torch.autograd.grad(said.sum(), actions, allow_unused=True) == (None,)


def test_unknown_outcomes_and_clips_without_actions_teach_the_heads_nothing(dots: Path) -> None:
    recipe = WamRecipe(SIZES, QUICK)
    batch = sample(recipe, dots)
    for changes in (
        {"action": torch.full_like(batch["action"], torch.nan)},
        {name: torch.full_like(batch[name], torch.nan) for name in ("reward", "terminated")},
    ):
        recipe.zero_grad()
        found = recipe(batch | changes)
        assert found["reward"] == 0
        assert found["termination"] == 0
        found["loss"].backward()
        for head in (recipe.model.reward_head, recipe.model.termination_head):
            assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_a_run_with_heads_is_measured_and_loaded(dots: Path, tmp_path: Path) -> None:
    train_recipe(lambda: WamRecipe(SIZES, QUICK), dots, tmp_path / "run", QUICK, progress=False)
    for file, names in (
        ("metrics.csv", {"reward", "termination"}),
        ("validation.csv", {"reward_error", "termination_error"}),
    ):
        rows = list(csv.DictReader((tmp_path / "run" / file).open()))
        assert all(np.isfinite(float(row[name])) for row in rows for name in names)
    model = LatentWAM.load(tmp_path / "run")
    assert model.config == SIZES
    assert model.reward_std != 1
    latents, actions = torch.randn(2, 3, 4, 12), torch.randn(2, 3, 4, 2)
    assert model.survival(latents, actions).shape == (2, 3, 4)


@pytest.mark.slow
def test_heads_learn_rewards_and_the_planner_earns_them(dots: Path, tmp_path: Path) -> None:
    sizes = dataclasses.replace(SIZES, width=24, heads=2, head_dim=12, mlp_dim=32, projector_dim=32)
    config = dataclasses.replace(QUICK, steps=200, batch_size=32, validate_every=200, checkpoint_every=200)
    config = dataclasses.replace(config, learning_rate=3e-3, reward_weight=1.0)
    result = train_recipe(lambda: WamRecipe(sizes, config), dots, tmp_path / "run", config, progress=False)
    assert result.measures["reward_error"] < 0.3  # 1 is what the mean has
    model = LatentWAM.load(tmp_path / "run")
    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=1)
    planner = Planner(engine, CEM(64, 8, 4, low=-1, high=1), 3, cost=Reward(model.reward))
    plan = planner.plan(Episodes(dots).rows(np.arange(3), ("pixels",))["pixels"], generator=0)
    assert (plan.actions[..., 0].mean(1) > 0.5).all()  # to the right


def test_models_without_heads_are_what_they_were(tmp_path: Path) -> None:
    """Their files say nothing of heads, so that they are those of before, which are read."""
    model = random_wam()
    assert not {"reward_head", "termination_head"} & set(model.config.to_dict())
    assert not any("reward" in name or "termination" in name for name in model.state_dict())
    assert LatentWAMConfig.from_dict(model.config.to_dict()) == model.config
    headed = random_wam(**BOTH)
    assert {"reward_head", "termination_head"} < set(headed.config.to_dict())
    headed.save(tmp_path)
    assert LatentWAM.load(tmp_path).config == headed.config


def test_heads_do_not_change_the_forward_mode_of_engines() -> None:
    model = random_wam(window=1, history=1, **BOTH)
    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=1)
    context, actions = torch.randn(2, 1, 12), torch.randn(2, 5, 6, 3)
    with torch.no_grad():
        expected = model.rollout(context, actions)
    torch.testing.assert_close(engine.rollout(context, actions, keep="all"), expected, rtol=1e-4, atol=1e-4)
    cost = Reward(model.reward, 0.9, survival=model.survival)
    plan = Planner(engine, CEM(8, 2, 2), 4, cost=cost).plan({"latents": context}, generator=0)
    assert plan.cost.isfinite().all()


def test_rewards_after_a_likely_end_count_less() -> None:
    random = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(2, 5, 4, 6, generator=random), torch.randn(2, 5, 4, 3, generator=random)
    goes_on = lambda z, a: torch.sigmoid(z[..., :1] + a[..., :1])  # noqa: E731
    expected = torch.zeros(2, 5)
    for b in range(2):
        for s in range(5):
            alive = 1.0
            for t in range(4):
                expected[b, s] -= 0.9**t * alive * latents[b, s, t, 1]
                alive = alive * goes_on(latents[b, s, t], actions[b, s, t])[0]
    found = Reward(lambda z, a: z[..., 1], 0.9, survival=goes_on)(latents, actions, Goal())
    torch.testing.assert_close(found, expected)
    blocks = Reward(goes_on, survival=goes_on)(latents, actions, Goal())
    each = goes_on(latents, actions)[..., 0]
    torch.testing.assert_close(-blocks, each.cumprod(-1).sum(-1))


def test_refusals(dots: Path, tmp_path: Path) -> None:
    model = random_wam()
    with pytest.raises(ValueError, match="reward_head is False"):
        model.reward(torch.randn(2, 12), torch.randn(2, 3))
    with pytest.raises(ValueError, match="termination_head is False"):
        model.survival(torch.randn(2, 12), torch.randn(2, 3))
    with pytest.raises(ValueError, match="reward_head is 1; expected True or False"):
        dataclasses.replace(SIZES, reward_head=1)
    with pytest.raises(ValueError, match="outcomes_of is 'row'; expected 'action' or 'frame'"):
        dataclasses.replace(QUICK, outcomes_of="row")
    with pytest.raises(TypeError, match="survival is float"):
        Reward(model.reward, survival=0.9)  # type: ignore[arg-type]
    plain = write_dots(tmp_path / "plain.h5")
    with pytest.raises(ValueError, match=r"termination_head is True, but .* has no column 'terminated'"):
        outcomes.check(dataclasses.replace(SIZES, reward_head=False), Episodes(plain))
    with EpisodeWriter(tmp_path / "two.h5") as writer:
        rows = Episodes(plain).rows(np.arange(12), ("pixels", "action"))
        writer.append(**rows, reward=np.zeros((12, 2), np.float32), terminated=np.zeros(12, bool))
    with pytest.raises(ValueError, match=r"column 'reward' has \[2\] in each row; expected one number"):
        outcomes.check(SIZES, Episodes(tmp_path / "two.h5"))
