"""World models on disk: what is saved is loaded, and nothing else is."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from tiny_models import every_model, random_model

from fastwm.models import WorldModel
from fastwm.models.calibration import Calibration
from fastwm.models.storage import serialise, write_atomically


@every_model
def test_a_saved_model_is_the_same_model(changes: dict, tmp_path: Path) -> None:
    model = random_model(**changes)
    model.encoder.to(memory_format=torch.channels_last)
    model.save(tmp_path / "deep" / "run", metadata={"world": "push"})
    loaded = WorldModel.load(tmp_path / "deep" / "run")
    assert loaded.config == model.config
    assert loaded.metadata == {"world": "push"}
    assert not loaded.training
    saved_tensors, loaded_tensors = model.state_dict(), loaded.state_dict()
    assert saved_tensors.keys() == loaded_tensors.keys()
    for name, tensor in saved_tensors.items():
        assert torch.equal(tensor, loaded_tensors[name]), name
    pixels = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8)
    actions = torch.randn(2, 3, 4, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.rollout(loaded.encode(pixels), actions), model.rollout(model.encode(pixels), actions)
        )


def test_saving_again_replaces_and_keeps_the_metadata(tmp_path: Path) -> None:
    random_model(0).save(tmp_path, metadata={"world": "push"})
    second = WorldModel.load(tmp_path)
    with torch.no_grad():
        second.predictor.norm.bias.fill_(7)
    second.save(tmp_path)
    third = WorldModel.load(tmp_path)
    assert third.metadata == {"world": "push"}
    assert third.predictor.norm.bias.unique().tolist() == [7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def contexts(N: int = 4, K: int = 2, E: int = 12, A: int = 2) -> Calibration:
    random = torch.Generator().manual_seed(1)
    return Calibration(torch.randn(N, K, E, generator=random), torch.randn(N, K - 1, A, generator=random))


def test_calibration_contexts_are_kept_with_the_model(tmp_path: Path) -> None:
    model = random_model()
    model.calibration = contexts()
    names = set(model.state_dict())
    model.save(tmp_path / "with")
    loaded = WorldModel.load(tmp_path / "with")
    assert loaded.calibration is not None
    assert torch.equal(loaded.calibration.latents, model.calibration.latents)
    assert torch.equal(loaded.calibration.past_actions, model.calibration.past_actions)
    assert set(loaded.state_dict()) == names, "they are no parameters"
    loaded.save(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "with" / name).read_bytes()


def test_a_model_without_calibration_contexts_loads(tmp_path: Path) -> None:
    random_model().save(tmp_path)
    assert WorldModel.load(tmp_path).calibration is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("calibration.past_actions"), "tensors are missing: calibration.past_actions"),
        (lambda t: t.pop("calibration.latents"), "tensors are missing: calibration.latents"),
        (lambda t: t.update({"calibration.latents": torch.ones(4, 2, 11)}), r"calibration.latents has shape \[4, 2, 11\]"),
        (lambda t: t.update({"calibration.latents": torch.ones(4, 12)}), r"calibration.latents has shape \[4, 12\]"),
        (lambda t: t.update({"calibration.latents": torch.ones(4, 4, 12)}), r"\[4, 4, 12\], expected .* 1 <= K <= 3"),
        (lambda t: t.update({"calibration.past_actions": torch.ones(4, 2, 2)}),
            r"past_actions has shape \[4, 2, 2\], expected \[4, 1, 2\]"),
        (lambda t: t.update({"calibration.past_actions": torch.ones(4, 1, 2).half()}), "past_actions is torch.float16"),
        (lambda t: t["calibration.latents"][1, 0, 3].fill_(math.nan), "calibration.latents holds numbers that are not finite"),
        (lambda t: t["calibration.past_actions"].fill_(math.inf), "past_actions holds numbers that are not finite"),
    ],
)  # fmt: skip
def test_contexts_that_do_not_fit_are_refused(change, message: str, tmp_path: Path) -> None:
    own = contexts()
    tensors = random_model().state_dict() | {
        "calibration.latents": own.latents,
        "calibration.past_actions": own.past_actions,
    }
    save_with(tmp_path, tensors)
    assert WorldModel.load(tmp_path).calibration is not None
    change(tensors)
    save_with(tmp_path, tensors)
    with pytest.raises(ValueError, match=message):
        WorldModel.load(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space") as raised:
        write_atomically(tmp_path / "file", b"new")
    assert raised.value.filename == str(tmp_path / "file")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def save_with(directory: Path, tensors: dict[str, torch.Tensor] | bytes, **changes) -> None:
    """A model directory that is consistent but for `tensors` or top-level `changes` of config.json."""
    random_model().save(directory)
    weights = tensors if isinstance(tensors, bytes) else serialise(tensors)
    (directory / "model.safetensors").write_bytes(weights)
    description = json.loads((directory / "config.json").read_text())
    description |= {"weights_sha256": hashlib.sha256(weights).hexdigest(), **changes}
    (directory / "config.json").write_text(json.dumps(description))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: truncate(d / "config.json"), "config.json is damaged"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json is damaged"),
        (lambda d: (d / "config.json").write_text("[]"), "does not describe a fastwm world model"),
        (lambda d: (d / "config.json").write_text('{"format": "fastwm.world_model"}'), "is of version None"),
        (lambda d: truncate(d / "model.safetensors"), "model.safetensors is damaged"),
        (lambda d: flip_a_bit(d / "model.safetensors"), "model.safetensors is damaged"),
        (lambda d: random_model(1).save(d.parent / "other") or
            (d / "model.safetensors").write_bytes((d.parent / "other" / "model.safetensors").read_bytes()),
            "is not the one that config.json describes"),
    ],
)  # fmt: skip
def test_a_damaged_model_is_refused(damage, message: str, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    random_model().save(directory)
    WorldModel.load(directory)
    damage(directory)
    with pytest.raises(ValueError, match=message):
        WorldModel.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is of version 2; this fastwm reads version 1"),
        ({"format": "other"}, "does not describe a fastwm world model"),
        ({"config": {"action_dim": 2, "colour": 1}}, "unknown configuration fields .'colour'."),
        ({"config": {}}, "'action_dim' is missing"),
        ({"config": {"action_dim": "two"}}, "action_dim is 'two'"),
        ({"config": None}, "config is missing or not a dict"),
    ],
)
def test_another_description_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    save_with(tmp_path, random_model().state_dict(), **change)
    with pytest.raises(ValueError, match=message):
        WorldModel.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("action_mean"), "tensors are missing: action_mean"),
        (lambda t: t.update(extra=torch.ones(1)), "not part of this model: extra"),
        (
            lambda t: t.update(action_mean=torch.ones(3)),
            r"action_mean is torch.float32 \[3\]; expected .* \[2\]",
        ),
        (lambda t: t.update(action_mean=torch.ones(2).double()), "action_mean is torch.float64"),
        (
            lambda t: t.update(action_mean=torch.tensor([0, math.nan])),
            "action_mean holds values that are not finite",
        ),
        (lambda t: t["action_std"].zero_(), r"action_std is \[0.0, 0.0\]; expected values above 0"),
        (lambda t: t["projector.norm.running_var"].neg_(), "running_var holds negative variances"),
    ],
)
def test_other_tensors_are_refused(change, message: str, tmp_path: Path) -> None:
    tensors = random_model().state_dict()
    change(tensors)
    save_with(tmp_path, tensors)
    with pytest.raises(ValueError, match=message):
        WorldModel.load(tmp_path)


class Bomb:
    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


def test_loading_never_unpickles(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb())
    pickle.loads(bomb)
    assert Bomb.exploded  # it does go off
    Bomb.exploded = False
    save_with(tmp_path, bomb)
    with pytest.raises(ValueError, match="cannot be read"):
        WorldModel.load(tmp_path)
    assert not Bomb.exploded
