"""Training: what it learns, what it measures, what it refuses."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import write_dots
from tiny_models import random_model, small_config

from fastwm.data import Episodes
from fastwm.models import WorldModel
from fastwm.training import TrainConfig, measure_health, train
from fastwm.training.accelerate import FastLinear
from fastwm.training.calibration import CONTEXTS
from fastwm.training.health import effective_rank, linear_probe_r2, open_loop_error
from fastwm.training.logs import CSVLog
from fastwm.training.precision import use_bfloat16
from fastwm.training.sampler import batch_starts, evenly_spaced, step_seed


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("data") / "dots.h5")


def short(**changes) -> TrainConfig:
    fields = {
        "steps": 6,
        "batch_size": 8,
        "projections": 8,
        "precision": "float32",
        "threads": 1,
        "validation_fraction": 0.2,
        "log_every": 1,
        "tensorboard": False,
    }
    return TrainConfig(**{**fields, **changes})


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# What it learns


def test_a_trained_model_knows_where_the_dot_is_and_where_it_goes(dots: Path, tmp_path: Path) -> None:
    model = small_config(
        encoder_width=8, embed_dim=16, width=16, heads=2, head_dim=8, mlp_dim=32, projector_dim=32
    )
    untrained = measure_health(WorldModel(model), *Episodes(dots).split(0.2))
    config = short(steps=150, batch_size=32, learning_rate=5e-3, warmup_steps=10, log_every=50)
    result = train(dots, tmp_path, model, config, progress=False)
    assert min(result.health.probe_r2) > 0.9 > min(untrained.probe_r2)
    for horizon in (1, 5, 10):
        assert result.health.open_loop[horizon] < 0.5 * result.health.copy_last[horizon], horizon
    assert result.health.effective_rank > 3
    assert not result.model.training
    assert FastLinear in map(type, result.model.modules()), "a CPU's kernels trained it"

    last = rows(tmp_path / "validation.csv")[-1]
    assert float(last["open_loop_5"]) == result.health.open_loop[5]
    assert float(last["probe_r2_worst"]) == min(result.health.probe_r2)
    assert [row["step"] for row in rows(tmp_path / "metrics.csv")] == ["50", "100", "150"]

    loaded = WorldModel.load(tmp_path)
    mean, std = Episodes(dots).split(0.2)[0].action_statistics()
    np.testing.assert_array_equal(loaded.action_mean.numpy(), mean)
    np.testing.assert_array_equal(loaded.action_std.numpy(), std)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_a_run_is_a_function_of_its_seed(dots: Path, tmp_path: Path) -> None:
    texts = {}
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        torch.randn(3)  # the state of torch's generator does not matter, and is left alone
        before = torch.random.get_rng_state()
        train(dots, tmp_path / name, small_config(dropout=0.3), short(seed=seed), progress=False)
        assert torch.equal(torch.random.get_rng_state(), before)
        texts[name] = (tmp_path / name / "metrics.csv").read_text()
    assert texts["one"] == texts["again"] != texts["two"]


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ({"predictor": "mlp"}, {"regulariser": "vicreg"}),
        ({"residual": False}, {"precision": "bfloat16"}),
        ({"action_dim": 4, "action_block": 2}, {"frames": 3}),
        ({"encoder": "vit_tiny", "encoder_depth": 1}, {"gradient_clip": 0.1}),
    ],
    ids=["mlp, vicreg", "paper form, bfloat16", "action blocks", "vit"],
)
def test_every_kind_of_run_lowers_its_loss(model: dict, config: dict, dots: Path, tmp_path: Path) -> None:
    train(dots, tmp_path, small_config(**model), short(steps=40, warmup_steps=1, **config), progress=False)
    losses = [float(row["loss"]) for row in rows(tmp_path / "metrics.csv")]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("model", "frames", "expected"),
    [({}, 4, 3), ({}, 3, 3), ({}, 2, 2), ({"window": 1}, 2, 1), ({"action_dim": 4, "action_block": 2}, 3, 3)],
    ids=["as many as the window", "of fewer", "of two", "window 1", "action blocks"],
)
def test_a_model_keeps_contexts_of_held_out_episodes(
    model: dict, frames: int, expected: int, dots: Path, tmp_path: Path
) -> None:
    result = train(dots, tmp_path, small_config(**model), short(frames=frames), progress=False)
    kept = WorldModel.load(tmp_path).calibration
    assert kept is not None
    assert result.model.calibration is not None
    assert torch.equal(kept.latents, result.model.calibration.latents)
    held_out, skip = Episodes(dots).split(0.2)[1], result.model.config.action_block
    starts = held_out.windows(expected, frame_skip=skip)
    every = held_out.batch(starts, expected, frame_skip=skip)
    with torch.no_grad():
        latents = result.model.encode(torch.as_tensor(every["pixels"]))
    assert kept.latents.shape == (CONTEXTS, expected, 12)
    for context, past_actions in zip(kept.latents, kept.past_actions, strict=True):
        near = (latents - context).abs().amax((1, 2))
        assert near.min() < 1e-4
        assert torch.equal(past_actions, torch.as_tensor(every["action"][int(near.argmin())]))


def test_data_without_states_has_no_probe(tmp_path: Path) -> None:
    data = write_dots(tmp_path / "dots.h5", with_state=False, length=6)
    result = train(data, tmp_path / "run", small_config(), short(), progress=False)
    assert result.health.probe_r2 == ()
    assert sorted(result.health.open_loop) == [1, 5]  # ten steps do not fit into six frames
    row = rows(tmp_path / "run" / "validation.csv")[-1]
    assert row["probe_r2"] == row["open_loop_10"] == ""
    assert float(row["open_loop_5"]) == result.health.open_loop[5]


def test_bfloat16_gives_nearly_the_first_loss_of_float32(dots: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        train(dots, tmp_path / precision, small_config(), short(steps=1, precision=precision), progress=False)
        losses[precision] = float(rows(tmp_path / precision / "metrics.csv")[0]["loss"])
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.parametrize(
    ("flags", "expected"), [("fma avx512_bf16", True), ("amx_bf16", True), ("avx512f", False)]
)
def test_auto_precision_follows_the_processor(
    flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastwm.training.precision._cpu_flags", lambda: set(flags.split()))
    assert use_bfloat16("auto") is expected
    assert use_bfloat16("bfloat16")
    assert not use_bfloat16("float32")


# Schedule and sampling


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = TrainConfig(steps=1000, learning_rate=1e-3, warmup_steps=50)
    rates = [config.learning_rate_at(step) for step in range(1, 1001)]
    assert rates[0] == pytest.approx(1e-3 / 50)
    assert rates[49] == pytest.approx(1e-3, rel=0.01)
    assert rates[500] == pytest.approx(1e-3 * (0.05 + 0.95 / 2))
    assert rates[-1] == pytest.approx(0.05e-3, rel=0.01)
    assert max(rates) <= 1e-3
    assert rates[49:] == sorted(rates[49:], reverse=True)


def test_batches_depend_on_seed_and_step_alone() -> None:
    windows = np.arange(100, 150)
    first = batch_starts(windows, 20_000, seed=3, step=7)
    np.testing.assert_array_equal(first, batch_starts(windows, 20_000, seed=3, step=7))
    assert (first != batch_starts(windows, 20_000, seed=3, step=8)).any()
    assert (first != batch_starts(windows, 20_000, seed=4, step=7)).any()
    counts = np.bincount(first)[100:]
    assert len(counts) == 50
    assert counts.min() > 300  # 400 expected, standard deviation 20
    seeds = {step_seed(seed=seed, step=step) for seed in range(30) for step in range(30)}
    assert len(seeds) == 900


@pytest.mark.parametrize(("length", "count"), [(10, 10), (10, 12), (11, 4), (1000, 7)])
def test_evenly_spaced_windows_cover_all(length: int, count: int) -> None:
    found = evenly_spaced(np.arange(length), count)
    assert len(found) == min(length, count)
    gaps = np.diff(found)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert found[0] == 0
    assert found[-1] + gaps.max() >= length - 1


# Health


def test_the_probe_finds_what_is_linear_and_only_that() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(600, 8, generator=generator)
    linear = latents @ torch.randn(8, 1, generator=generator) + 40
    half = linear + linear.std() * torch.randn(600, 1, generator=generator)
    unrelated = torch.randn(600, 1, generator=generator)
    constant = torch.ones(600, 1)
    states = torch.cat([linear, half, unrelated, constant], dim=1)
    found = linear_probe_r2(latents[:400], states[:400], latents[400:], states[400:])
    assert found[0] > 0.9999
    assert found[1] == pytest.approx(0.5, abs=0.12)
    assert -0.2 < found[2] < 0.1
    assert math.isnan(found[3])


def test_the_probe_of_collapsed_latents_finds_nothing() -> None:
    latents, states = torch.zeros(50, 4), torch.randn(50, 2)
    assert max(linear_probe_r2(latents, states, latents, states)) == pytest.approx(0, abs=1e-9)


def test_effective_rank_counts_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q
    for rank in (1, 3, 20):
        latents = torch.randn(5000, rank, generator=generator) @ basis[:rank] + 7
        assert effective_rank(latents) == pytest.approx(rank, rel=0.01)
    assert effective_rank(torch.ones(10, 4)) == 1
    weights = torch.tensor([0.75, 0.25])  # singular values in proportion 3 : 1
    axes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1 / 3], [0.0, -1 / 3]])
    assert effective_rank(axes) == pytest.approx(math.exp(-(weights * weights.log()).sum()), rel=1e-6)


def test_open_loop_error_is_zero_for_the_models_own_dreams() -> None:
    model = random_model()
    start, actions = torch.randn(5, 1, 12), torch.randn(5, 10, 2)
    with torch.no_grad():
        dreamt = torch.cat([start, model.rollout(start, actions[:, None])[:, 0]], dim=1)
        open_loop, copy_last = open_loop_error(model, dreamt, actions, (1, 5, 10))
    truth = {h: (dreamt[:, h] - dreamt[:, 0]).square().mean().item() for h in (1, 5, 10)}
    assert max(open_loop.values()) == 0
    assert copy_last == pytest.approx(truth)
    assert min(copy_last.values()) > 0


def test_a_new_residual_model_is_the_copy_baseline(dots: Path) -> None:
    model = WorldModel(small_config()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    health = measure_health(model, *Episodes(dots).split(0.2))
    assert health.open_loop == health.copy_last
    assert sorted(health.open_loop) == [1, 5, 10]
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# Logs


def test_a_log_continues_from_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = CSVLog(path, ("step", "loss"), last_step=0)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1 / step})
    log.close()
    with open(path, "a") as file:
        file.write("40,0.0")  # cut short
    log = CSVLog(path, ("step", "loss"), last_step=20)
    log.write({"step": 30, "loss": None})
    log.close()
    assert path.read_text() == "step,loss\n10,0.1\n20,0.05\n30,\n"


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a log of this run"):
        CSVLog(tmp_path / "metrics.csv", ("step", "loss"), last_step=0)


@pytest.mark.parametrize("content", [b"step,loss\nten,0.5\n", b"step,loss\n1,\xff\n"])
def test_a_damaged_log_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics.csv is damaged: "):
        CSVLog(tmp_path / "metrics.csv", ("step", "loss"), last_step=9)
    assert (tmp_path / "metrics.csv").read_bytes() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_told_with_the_log(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "metrics.csv", ("step", "loss"), last_step=0)
    log.close()
    log._file = open("/dev/full", "w")  # noqa: SIM115
    log._writer = csv.writer(log._file)
    with pytest.raises(OSError, match="No space left") as raised:
        log.write({"step": 1, "loss": 0.5})
    assert raised.value.filename == "/dev/full"


def test_tensorboard_holds_the_same_numbers(dots: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(dots, tmp_path, small_config(), short(tensorboard=True), progress=False)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(str(event.step), event.value) for event in events.Scalars("train/loss")]
    assert losses == [
        (row["step"], pytest.approx(float(row["loss"]))) for row in rows(tmp_path / "metrics.csv")
    ]
    assert events.Scalars("validation/open_loop_5")[-1].value > 0
    assert events.Scalars("train/frames_per_second")[-1].value > 0


def test_missing_tensorboard_is_said_before_any_work(
    dots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="set tensorboard=False"):
        train(dots, tmp_path, small_config(), short(tensorboard=True), progress=False)
    assert not (tmp_path / "metrics.csv").exists()


def test_the_progress_bar_tells_loss_rate_and_time(
    dots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(dots, tmp_path, small_config(), short())
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "6/6" in printed.err
    loss = float(rows(tmp_path / "metrics.csv")[-1]["loss"])
    assert f"loss={loss:.4f}" in printed.err
    assert "frames_per_s=" in printed.err


# Refusals


@pytest.mark.parametrize(
    ("data", "model", "config", "message"),
    [
        (
            {"length": 3},
            {},
            {},
            r"no training sequence of 4 frames in a row: it has 40 episodes, the longest of 3",
        ),
        ({}, {"action_dim": 10, "action_block": 5}, {}, "no training sequence of 4 frames 5 decisions apart"),
        ({"episodes": 1}, {}, {}, "at least 2 episodes"),
        ({}, {"image_size": 32}, {}, r"images of the data are \[16, 16, 3\]; image_size is 32"),
        ({}, {"action_dim": 3}, {}, "hold 2 numbers; action_dim is 3"),
        ({}, {"window": 2}, {}, "frames is 4; the model's window of 2 allows 3"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    data: dict, model: dict, config: dict, message: str, tmp_path: Path
) -> None:
    path = write_dots(tmp_path / "dots.h5", **data)
    with pytest.raises(ValueError, match=message):
        train(path, tmp_path / "run", small_config(**model), short(**config), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(dots: Path, tmp_path: Path) -> None:
    train(dots, tmp_path, small_config(), short(), progress=False)
    before = json.dumps(rows(tmp_path / "metrics.csv"))
    with pytest.raises(ValueError, match="already holds a run; resume it, or choose another run_dir"):
        train(dots, tmp_path, small_config(), short(), progress=False)
    assert json.dumps(rows(tmp_path / "metrics.csv")) == before


def test_a_loss_that_is_not_finite_stops_the_run(
    dots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = WorldModel.encode
    calls = []

    def encode_badly(self: WorldModel, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return encode(self, pixels) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(WorldModel, "encode", encode_badly)
    with pytest.raises(
        FloatingPointError, match=r"stopped being finite at step 4 .*try a lower learning_rate"
    ):
        train(dots, tmp_path, small_config(), short(), progress=False)
    assert [row["step"] for row in rows(tmp_path / "metrics.csv")] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; expected an integer of at least 1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"frames": 1}, "frames is 1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"regulariser": "none"}, "regulariser is 'none'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        short(**changes)


def test_presets() -> None:
    assert TrainConfig.preset("small", steps=5) == TrainConfig(steps=5)
    assert TrainConfig.preset("paper", steps=5).projections == 1024
    with pytest.raises(ValueError, match="expected one of"):
        TrainConfig.preset("huge", steps=5)
