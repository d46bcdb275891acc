"""bench.swm_evaluation: the converted model is ours, and both solvers give the same actions in their evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "stable_worldmodel", reason="needs the `peers` extra: make test-peers", exc_type=ImportError
)

import h5py
import numpy as np
import torch
from stable_worldmodel.data.normalization import ZScoreScaler
from tiny_models import random_model
from torch import Tensor

from bench.swm_evaluation import evaluate as evaluation
from bench.swm_evaluation.collect import collect, mixed_policy
from bench.swm_evaluation.model import fit_scaler, normalise_pixels, theirs
from bench.swm_evaluation.report import results, table
from bench.swm_evaluation.settings import BLOCK, SIZE, Settings, Tasks
from bench.swm_evaluation.tasks import WALL, draw
from bench.swm_evaluation.ways import DROP_IN, OFTEN, RANDOM, RECOMMENDED, THEIRS, WAYS
from fastwm.models import WorldModel

pytestmark = pytest.mark.peers

NEAR, FAR = Tasks("near", 15, 10, False), Tasks("far", 25, 10, True)
SETTINGS = Settings(
    samples=24, steps=3, topk=6, horizon=2, receding=1, tasks=(NEAR,), episodes={1: 2, 2: 2}, threads=1
)
A = 2 * BLOCK


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch's threads wait for each other on a busy machine, at these sizes for most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of their environment."""
    return collect(
        tmp_path_factory.mktemp("data") / "data.h5", mixed_policy(0), 12, 0, length=60, environments=6
    )


def world_model(size: int = 16) -> WorldModel:
    return random_model(residual=False, action_dim=A, action_block=BLOCK, image_size=size)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


# ---- the model -------------------------------------------------------------------------------------------------------------


def test_their_modules_with_our_weights_compute_what_ours_do() -> None:
    """Latents, the next latents and a rollout longer than the window, of actions in environment units here, scaled there."""
    model = world_model()
    scaler = ZScoreScaler(np.array([[0.3, -0.2]]), np.array([[0.6, 1.4]]))
    lewm = theirs(model, scaler)
    B, S, T = 2, 3, 5
    frames = torch.randint(0, 256, (B, 1, 16, 16, 3), dtype=torch.uint8)
    pixels = torch.stack([normalise_pixels(frame[0].permute(2, 0, 1)) for frame in frames])[:, None]
    actions = normal(B, S, T, A)
    scaled = scaler.transform(actions.unflatten(-1, (BLOCK, 2))).flatten(-2).float()

    with torch.no_grad():
        latents = model.encode(frames)
        torch.testing.assert_close(lewm.encode({"pixels": pixels})["emb"], latents, rtol=1e-5, atol=1e-5)
        context = normal(B, 3, model.config.embed_dim)
        predicted = lewm.predict(context, lewm.action_encoder(scaled[:, 0, :3]))
        expected = model.predict(context, actions[:, 0, :3])
        torch.testing.assert_close(predicted, expected, rtol=1e-5, atol=1e-5)
        assert (expected - context).abs().max() > 0.1
        info = {"pixels": pixels[:, None].expand(B, S, -1, -1, -1, -1)}
        rolled = lewm.rollout(info, scaled)["predicted_emb"][:, :, 1:]
        torch.testing.assert_close(rolled, model.rollout(latents, actions), rtol=1e-5, atol=1e-5)


def test_the_scaler_is_that_of_single_steps() -> None:
    actions = np.random.default_rng(0).normal([1.0, -2.0], [0.5, 3.0], (500, 2)).astype(np.float32)
    scaler = fit_scaler(actions)
    np.testing.assert_allclose(scaler.transform(actions).std(axis=0), 1, rtol=1e-5)
    mean = scaler.inverse_transform(np.zeros((1, 2)))
    np.testing.assert_allclose(mean, actions.mean(0, keepdims=True), rtol=1e-5)


# ---- tasks -----------------------------------------------------------------------------------------------------------------


def test_tasks_are_within_their_episodes_and_cross_where_asked(data: Path) -> None:
    with h5py.File(data) as file:
        lengths, offsets, state = file["ep_len"][:], file["ep_offset"][:], file["state"][:]
    drawn = draw(data, FAR, 8, 0)
    assert len(set(drawn)) == 8
    assert drawn[:3] == draw(data, FAR, 3, 0)
    assert drawn != draw(data, FAR, 8, 1)
    for episode in drawn:
        assert 0 <= episode.start < episode.start + FAR.offset < lengths[episode.number]
        row = offsets[episode.number] + episode.start
        assert (state[row, 0] < WALL) != (state[row + FAR.offset, 0] < WALL)
    with pytest.raises(ValueError, match="expected at least 100000"):
        draw(data, FAR, 100_000, 0)


def test_collected_episodes_are_the_same_again_and_stay(tmp_path: Path) -> None:
    one, other = (
        collect(tmp_path / name, mixed_policy(0), 5, 0, length=8, environments=3)
        for name in ("one.h5", "other.h5")
    )
    with h5py.File(one) as first, h5py.File(other) as again:
        assert first["ep_len"][:].tolist() == [8] * 5
        np.testing.assert_array_equal(first["action"][:], again["action"][:])
        np.testing.assert_array_equal(first["pixels"][:], again["pixels"][:])
        assert first["pixels"].shape[1:] == (SIZE, SIZE, 3)
    written = one.stat().st_mtime_ns
    assert collect(one, None, 5, 0).stat().st_mtime_ns == written


# ---- their evaluation ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned(data: Path) -> tuple[Any, ZScoreScaler]:
    with h5py.File(data) as file:
        scaler = fit_scaler(file["action"][:])
    return theirs(world_model(SIZE), scaler), scaler


@pytest.fixture(scope="module")
def lines(data: Path, planned: tuple[Any, ZScoreScaler], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    evaluation.evaluate(data, path, *planned, SETTINGS, "this")
    return path


def test_both_solvers_give_the_same_actions_and_ends(lines: Path) -> None:
    found = evaluation.read(lines, "this")
    assert len(found) == (2 + 1) * len(WAYS)
    by = {(line["environments"], line["group"], line["way"]): line for line in found}
    assert max(line["solves"] for line in found if line["way"] == THEIRS) == 2  # 10 steps, a new plan after 5
    for n, group in ((1, 0), (1, 1), (2, 0)):
        theirs, ours = by[n, group, THEIRS], by[n, group, DROP_IN]
        first = torch.tensor(theirs["first"])
        assert first.shape == (n, SETTINGS.horizon, A)
        assert first.abs().max() > 0.1
        torch.testing.assert_close(torch.tensor(ours["first"]), first, rtol=0, atol=1e-4)
        assert ours["success"] == theirs["success"]
        assert ours["solves"] == theirs["solves"]
        assert torch.tensor(by[n, group, RECOMMENDED]["first"]).shape == (n, 16, A)
        assert by[n, group, RANDOM]["solves"] == by[n, group, RANDOM]["plans"] == 0
        assert by[n, group, OFTEN]["first"] == ours["first"]
        assert 0 < theirs["solver"] < theirs["wall"]


def test_only_what_is_missing_is_evaluated(
    data: Path, planned: tuple[Any, ZScoreScaler], lines: Path, tmp_path: Path
) -> None:
    whole = lines.read_bytes().splitlines(keepends=True)
    part = tmp_path / "lines.jsonl"
    part.write_bytes(b"".join(whole[:-2]) + whole[-2][:40])  # killed while it wrote
    again = evaluation.evaluate(data, part, *planned, SETTINGS, "this")
    assert part.read_bytes().startswith(b"".join(whole[:-2]))
    timeless = ("tasks", "environments", "group", "way", "success", "solves", "plans", "first")
    for one, other in zip(again, map(json.loads, whole), strict=True):
        assert {name: one[name] for name in timeless} == {name: other[name] for name in timeless}
    with pytest.raises(ValueError, match="another model or other settings"):
        evaluation.read(part, "that")


def test_results_are_of_what_every_way_did_and_no_speed_is_shown_without_parity(lines: Path) -> None:
    machine = {
        "processor": "P",
        "isa": "avx2",
        "cores": 2,
        "fastwm": "0",
        "commit": "c",
        "torch": "t",
        "peers": {},
    }
    found = evaluation.read(lines, "this")
    entries = results(found)
    assert [(entry["environments"], entry["way"]) for entry in entries] == [
        (n, way) for n in (1, 2) for way in WAYS
    ]
    reference = {(line["environments"], line["way"]): line["solver"] for line in found if line["group"] == 0}
    assert entries[len(WAYS) + 1]["faster"]["solver"] == reference[2, THEIRS] / reference[2, DROP_IN]
    assert entries[0]["episodes"] == 2
    assert "×" in table(entries, machine)
    quiet = [entry | {"others": 0.0} for entry in entries]
    assert "not to be trusted" not in table(quiet, machine)
    assert "took 1.5 cores" in table([*quiet, quiet[0] | {"others": 1.5}], machine)
    fewer = results([line for line in found if (line["group"], line["way"]) != (1, RANDOM)])
    assert fewer[0]["episodes"] == 1

    for line in found:
        if line["way"] == DROP_IN:
            line["first"][0][0][0] += 2e-4
    wrong = results(found)
    assert wrong[1]["difference"] == pytest.approx(2e-4, rel=0.1)
    assert all(entry["faster"] is None for entry in wrong)
    assert "×" not in table(wrong, machine)
