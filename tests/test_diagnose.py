"""Diagnostics: models whose faults are known are found out, and a perfect one is not accused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import small_config

import fastwm
from fastwm import cli
from fastwm.data import Episodes, EpisodeWriter, collect
from fastwm.diagnose import diagnose, write_page
from fastwm.diagnose.page import findings, lines
from fastwm.diagnose.ranking import measure_ranking, spearman
from fastwm.envs import world
from fastwm.models import WorldModel

ROOMS = world("two-room")


class Dreamer:
    """An engine that reads the agent's place off the picture, and knows the world's own dynamics, or something else."""

    action_block, action_dim = 1, 2
    action_mean = torch.zeros(2)

    def __init__(self, step=None, noise: float = 0.0, scale: float = 1.0) -> None:
        self.step = step or (lambda state, action: ROOMS.step(state, action))
        self.noise, self.scale = noise, scale

    def encode(self, pixels) -> torch.Tensor:
        pictures = np.asarray(pixels)[:, 0].astype(np.float64)
        red = np.clip(pictures[..., 0] - pictures[..., 1], 0, None) ** 2
        places = np.arange(64)
        total = red.sum((1, 2))
        x, y = (red.sum(axis) @ places / total for axis in (1, 2))
        return self.scale * torch.as_tensor(np.stack([x, y], axis=1), dtype=torch.float32)[:, None]

    def rollout(self, context, actions, keep="last") -> torch.Tensor:
        n, s, horizon, _ = actions.shape
        state = context[:, None, -1].expand(-1, s, -1).reshape(n * s, 2) / self.scale
        state = state.numpy().clip(ROOMS.state_low, ROOMS.state_high).astype(np.float32)
        path = []
        for t in range(horizon):
            moves = actions[:, :, t].reshape(n * s, 2).numpy()
            inside = ROOMS.contains(state)
            state = np.where(inside[:, None], self.step(np.where(inside[:, None], state, 20), moves), state)
            path.append(torch.as_tensor(self.scale * state).view(n, s, 2))
        return path[-1] if keep == "last" else torch.stack(path, dim=2)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    path = tmp_path_factory.mktemp("data") / "rooms.h5"
    collect("two-room", path, episodes=60, length=20, seed=0, progress=False)
    return Episodes(path)


def test_the_true_dynamics_are_not_accused(episodes: Episodes) -> None:
    found = diagnose(Dreamer(), *episodes.split(0.5), ROOMS)
    assert max(found.error) < 0.01 < 10 * min(found.others)
    assert min(found.action_dependence) > 0.8
    assert min(found.direction) > 0.9
    assert found.found > 0.9
    assert found.found_chance == 1 / 32
    assert found.rank == pytest.approx(2, abs=0.1)
    assert min(found.probe) > 0.999
    assert found.ranking is not None
    assert found.ranking.both.mean > 0.97
    assert found.ranking.regret.mean < 0.1
    found = diagnose(Dreamer(scale=100), *episodes.split(0.5))  # the latents' unit does not matter
    assert max(found.error) < 0.01
    assert found.ranking is None


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda state, action: state, "predictions hardly depend on actions"),
        (lambda state, action: state, "copying the first latent is as good"),
        (lambda state, action: ROOMS.step(state, -action), "does not know which was taken"),
        (lambda state, action: ROOMS.step(state, -action), "hardly better than a blind choice"),
    ],
    ids=["frozen", "frozen, copied", "backwards", "backwards, ranked"],
)
def test_a_wrong_model_is_found_out(step, said: str, episodes: Episodes) -> None:
    found = diagnose(Dreamer(step), *episodes.split(0.5), ROOMS)
    assert any(said in text for text in findings(found)), findings(found)


def test_a_collapsed_encoder_is_found_out(episodes: Episodes) -> None:
    constant = Dreamer()
    encode = constant.encode
    constant.encode = lambda pixels: torch.full_like(encode(pixels), 20.0)
    found = diagnose(constant, *episodes.split(0.5))
    assert found.rank == 1
    assert any("collapsed" in text for text in findings(found))
    assert found.unmeasured == (
        "open-loop errors and their direction: all latents of the held-out frames are the same",
    )


def write_constant(path: Path, *, pixels: bool, action: bool, state: bool, episodes: int = 8) -> Episodes:
    """Noise, but for what is True, which never changes."""
    rng = np.random.default_rng(0)
    with EpisodeWriter(path) as writer:
        for _ in range(episodes):
            writer.append(
                pixels=np.full((6, 64, 64, 3), 9, np.uint8)
                if pixels
                else rng.integers(0, 255, (6, 64, 64, 3), np.uint8),
                action=np.ones((6, 2), np.float32)
                if action
                else rng.uniform(-1, 1, (6, 2)).astype(np.float32),
                state=np.ones((6, 3), np.float32) if state else rng.normal(size=(6, 3)).astype(np.float32),
            )
    return Episodes(path)


@pytest.mark.parametrize(
    ("constant", "said", "not_said"),
    [
        ("pixels", "errors and their direction: all held-out frames are the same picture", "collapsed"),
        ("action", "dependence on actions: all held-out sequences have the same actions", "actions"),
        ("state", "linear probe of the state's numbers 0, 1, 2: they do not vary", "probe"),
        ("none", "dependence on actions: there is one held-out sequence", "actions"),
    ],
)
def test_what_cannot_be_measured_is_said(constant: str, said: str, not_said: str, tmp_path: Path) -> None:
    data = write_constant(
        tmp_path / "data.h5",
        **{name: name == constant for name in ("pixels", "action", "state")},
        episodes=2 if constant == "none" else 8,
    )
    torch.manual_seed(0)
    engine = fastwm.compile(WorldModel(small_config(image_size=64)).eval(), threads=1, backend="torch")
    found = diagnose(engine, *data.split(0.5))
    assert len(found.unmeasured) == 1
    assert said in found.unmeasured[0]
    assert lines(found)[-1].endswith(found.unmeasured[0])
    assert not any(not_said in text for text in findings(found))
    assert "nan" not in "".join(lines(found)[:-1])
    json.dumps(found.to_dict(), allow_nan=False)
    write_page(tmp_path / "page.html", found, "constant", {})
    assert said.replace("'", "&#x27;") in (tmp_path / "page.html").read_text()


def test_rank_correlation() -> None:
    """Against scipy.stats.spearmanr's definition: Pearson's correlation of mean ranks."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 6, (5, 40)).astype(float)
    other = one + rng.integers(0, 9, (5, 40))
    ranks = [
        np.array([[(np.sum(r < v) + np.sum(r <= v) - 1) / 2 for v in r] for r in x]) for x in (one, other)
    ]
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]
    np.testing.assert_allclose(spearman(one, other), expected)
    assert spearman(one, one**3 + 2) == pytest.approx(np.ones(5))
    assert spearman(one, -one) == pytest.approx(-np.ones(5))
    assert spearman(one, np.ones_like(one)).tolist() == [0] * 5


def test_a_world_of_other_actions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks hold 2 numbers; two-room takes 5 x 2"):
        measure_ranking(SimpleNamespace(action_dim=2, action_block=5), ROOMS)  # type: ignore[arg-type]


def test_the_command_writes_a_page(
    episodes: Episodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    WorldModel(small_config(image_size=64)).eval().save(tmp_path / "model")
    page = tmp_path / "page.html"
    arguments = [
        "diagnose",
        str(tmp_path / "model"),
        str(episodes.path),
        "--out",
        str(page),
        "--threads",
        "1",
    ]
    arguments += ["--validation-fraction", "0.2"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "top-1 regret" in printed
    assert "! " in printed  # an untrained model has faults
    text = page.read_text()
    assert text.count("<svg") == 4
    assert "Does it know the good plans?" in text
    assert "nan" not in text.lower().replace("nano", "")
    assert cli.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert len(numbers["error"]) == len(numbers["horizons"]) == 15
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_short_episodes_are_measured_as_far_as_they_go(tmp_path: Path) -> None:
    path = collect("two-room", tmp_path / "short.h5", episodes=40, length=4, seed=0, progress=False)
    found = diagnose(Dreamer(), *Episodes(path).split(0.5))
    assert found.horizons == (1, 2, 3)
    assert lines(found)[0].startswith("error 3 blocks ahead")
    write_page(tmp_path / "page.html", found, "short", {})
