"""`fastwm train` for every objective, `eval` and `diagnose`: flags that matter, and refusals before any work is done."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors
from test_cli import refused
from tiny_data import write_dots
from tiny_models import save_untrained
from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from fastwm.cli import main
from fastwm.data import Episodes, EpisodeWriter, collect
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.training import ranks


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dots(tmp_path_factory.mktemp("data") / "dots.h5"))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def eyes_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained encoder of pictures."""
    from fastwm.models.vision import VisionEncoder
    from fastwm.models.vit import ViT, ViTConfig

    directory = tmp_path_factory.mktemp("eyes")
    sizes = {"image_size": 16, "patch_size": 8, "width": 12, "depth": 1, "heads": 2, "mlp_dim": 12}
    VisionEncoder(ViT(ViTConfig(**sizes))).save(directory)
    return str(directory)


def test_flags_of_the_rollout_reach_a_world_model_on_frozen_latents(
    eyes_dir: str, data_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = ["--objective", "frozen", "--encoder-dir", eyes_dir, "--preset", "mlp", "--mlp-dim", "8"]
    short = ["--steps", "1", "--batch-size", "4", "--threads", "1", "--no-tensorboard", "--quiet"]
    for name, more, expected in (("a", [], 2), ("b", ["--rollout-steps", "3", "--rollout-weight", "0.5"], 3)):
        run = tmp_path / name
        assert main(["train", data_file, str(run), *frozen, *short, *more]) == 0
        with safetensors.safe_open(run / "checkpoint.safetensors", "pt") as file:
            described = json.loads(file.metadata()["fastwm"])
        assert described["model"]["rollout_steps"] == expected
        assert described["model"]["rollout_weight"] == (0.5 if more else 1.0)
    capsys.readouterr()
    line = refused(
        capsys,
        "train",
        data_file,
        str(tmp_path / "a"),
        "--preset",
        "mlp",
        *short,
        "--image-size",
        "16",
        "--resume",
    )
    assert "another objective (FrozenRecipe -> WorldModelRecipe)" in line


def test_pictures_of_another_size_are_resized_where_one_is_given(
    data_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run, its model and the cache have that size; going on without it is refused."""
    sizes = "--preset mlp --encoder-width 4 --embed-dim 8 --mlp-dim 8 --projector-dim 8"
    short = "--steps 2 --batch-size 4 --projections 8 --threads 1 --no-tensorboard --quiet"
    run = str(tmp_path / "run")
    train = ["train", data_file, run, *sizes.split(), *short.split(), "--cache", str(tmp_path / "frames")]
    assert "image_size is 64: to resize them, open the data with the size" in refused(capsys, *train)
    assert not Path(run).exists()
    assert main([*train, "--image-size", "32"]) == 0
    assert WorldModel.load(run).config.image_size == 32
    made = {Episodes(file).shapes["pixels"].shape for file in (tmp_path / "frames").glob("*.h5")}
    assert made == {(16, 16, 3), (32, 32, 3)}
    capsys.readouterr()
    assert "image_size" in refused(capsys, *train, "--resume", "--image-size", "48")
    assert main([*train, "--resume", "--image-size", "32"]) == 0
    assert main(["diagnose", run, data_file, "--threads", "1", "--json"]) == 0


def test_a_camera_of_an_hdf5_file_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EpisodeWriter(tmp_path / "two.h5") as writer:
        for number in range(4):
            front, wrist = np.full((6, 20, 16, 3), number, np.uint8), np.full((6, 32, 32, 3), 90, np.uint8)
            masks = np.zeros((6, 8, 8), np.uint8)
            writer.append(pixels=front, wrist=wrist, masks=masks, action=np.zeros((6, 2), np.float32))
    path = str(tmp_path / "two.h5")
    assert Episodes(path).cameras == ("pixels", "wrist")
    assert Episodes(path).batch([0, 6], 2)["pixels"][:, 0, 0, 0, 0].tolist() == [0, 1]
    assert Episodes(path, camera="wrist").batch([0], 2)["pixels"].shape == (1, 2, 32, 32, 3)
    seen = Episodes(path, camera="wrist", image_size=8)
    assert seen.batch([0], 2)["pixels"].shape == (1, 2, 8, 8, 3)
    assert seen.batch([0], 2, columns=("masks",))["masks"].shape == (1, 2, 8, 8)
    assert "camera: expected one of pixels, wrist, got 'side'" in refused(
        capsys, "train", path, str(tmp_path / "run"), "--camera", "side"
    )
    assert "images of the data are [32, 32, 3]" in refused(
        capsys, "train", path, str(tmp_path / "run"), "--camera", "wrist", "--steps", "1"
    )
    assert main(["data", "info", path, "--camera", "wrist", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pixels"] == "wrist"


@pytest.mark.parametrize(
    "flag", ["--encoder=vit_tiny", "--embed-dim=8", "--regulariser=vicreg", "--projections=4"]
)
def test_what_a_frozen_encoder_brings_is_no_flag(
    flag: str, eyes_dir: str, data_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = ["--objective", "frozen", "--encoder-dir", eyes_dir]
    assert f"unrecognized arguments: {flag} (see fastwm train --objective frozen --help)" in refused(
        capsys, "train", data_file, str(tmp_path), *frozen, flag
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--image-size", "20"], "image_size is 20; expected a multiple of 16"),
        (["--frames", "6"], "frames is 6; the model's window allows 2..4"),
        (["--action-block", "9"], "no training sequence of 4 frames, 9 decisions apart"),
    ],
)
def test_what_does_not_fit_is_said_before_a_frame_is_encoded(
    flags: list[str],
    words: str,
    eyes_dir: str,
    data_file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    frozen = ["--objective", "frozen", "--encoder-dir", eyes_dir]
    assert words in refused(capsys, "train", data_file, str(run), *frozen, *flags)
    assert not run.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resume"], "--resume"),
        (["--devices", "2"], "--devices"),
        (["--objective", "wam"], "--objective"),
        (["--encoder-dir", "x"], "--encoder-dir"),
        (["--embed-dim", "8"], "--embed-dim"),
        ([], "already holds a model"),
    ],
)
def test_distillation_takes_no_flag_of_a_run(
    flags: list[str], words: str, model_dir: str, data_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, "train", data_file, model_dir, "--distill", model_dir, *flags)


def test_a_policy_is_distilled_in_a_world_that_it_acts_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastwm.models import LatentWAM, LatentWAMConfig

    data, model = str(tmp_path / "rooms.h5"), tmp_path / "wam"
    assert main(["collect", "two-room", data, "--episodes", "2", "--length", "20", "--quiet"]) == 0
    capsys.readouterr()
    LatentWAM(LatentWAMConfig(action_dim=4, width=16, heads=2, head_dim=8, depth=1)).save(model)
    line = refused(capsys, "train", data, str(tmp_path / "run"), "--distill", str(model))
    assert "the model takes actions of 4 numbers; world 'two-room' has actions of 2" in line


def test_eval_of_the_policy_without_a_search(
    model_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same decisions as in Python, with their time; of a model that has a policy."""
    from fastwm import envs
    from fastwm.evaluation import evaluate
    from fastwm.models import LatentWAM, LatentWAMConfig
    from fastwm.planning.latent_policy import Reactive

    LatentWAM(LatentWAMConfig(action_dim=2, width=16, heads=2, head_dim=8, depth=1)).save(tmp_path)
    expected = evaluate(envs.world("two-room"), Reactive(LatentWAM.load(tmp_path)), episodes=20, seed=3)
    asked = ["--env", "two-room", "--policy", "reactive", "--episodes", "20", "--seed", "3", "--quiet"]
    for shared in ([], ["--workers", "2"]):
        assert main(["eval", str(tmp_path), *asked, "--json", *shared]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert found["policy"] == "reactive"
        assert (found["success"], found["decisions"]) == (expected.rate, expected.mean_decisions)
        assert found["decision_ms"] > 0
    assert main(["eval", str(tmp_path), *asked]) == 0
    assert "ms per decision" in capsys.readouterr().out
    assert "holds a WorldModel, which has no policy; expected a LatentWAM" in refused(
        capsys, "eval", model_dir, *asked
    )
    assert "the reactive policy needs a model" in refused(capsys, "eval", *asked)


def test_eval_in_another_world_than_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "rooms.h5", str(tmp_path / "run")
    collect("two-room", data, episodes=40, length=8, progress=False)
    assert main(["train", str(data), run, "--steps", "1", "--batch-size", "2", "--preset", "mlp"]) == 0
    search = [
        "--samples",
        "4",
        "--elites",
        "2",
        "--iterations",
        "1",
        "--horizon",
        "2",
        "--budget",
        "1",
        "--episodes",
        "1",
    ]
    for world, warned in (("push", True), ("two-room", False)):
        capsys.readouterr()
        assert main(["eval", run, "--env", world, *search]) == 0
        assert ("trained in two-room, and is evaluated in push" in capsys.readouterr().err) == warned


def test_eval_needs_an_episode_and_a_worker(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    eval = ["eval", model_dir, "--env", "push", "--quiet"]
    assert "episodes: expected at least 1, got 0" in refused(capsys, *eval, "--episodes", "0")
    assert "workers is 0; expected at least 1" in refused(capsys, *eval, "--workers", "0")


def test_diagnose_names_actions_of_another_width(
    data_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"image_size": 16, "encoder_width": 4, "embed_dim": 16, "width": 16, "projector_dim": 16}
    WorldModel(WorldModelConfig(action_dim=3, **sizes)).save(tmp_path)
    line = refused(capsys, "diagnose", str(tmp_path), data_file, "--threads", "1")
    assert "action blocks of the data hold 2 numbers; the model takes 3" in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--objective", "ijepa", "--patch-size", "8", "--image-size", "16"],
            "leave fewer than least_context",
        ),
        (
            ["--batch-size", "2", "--accumulate", "2", "--image-size", "16"],
            "at least 2 samples in each of 2 parts",
        ),
    ],
)
def test_a_run_that_cannot_step_leaves_no_directory(
    flags: list[str], words: str, data_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert words in refused(capsys, "train", data_file, str(run), *flags)
    assert not run.exists()


@pytest.mark.parametrize(
    ("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_to_the_launcher_is_no_traceback(
    sent: signal.Signals, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise SignalException("the launcher was told to stop", sigval=sent)

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: stopped)
    with pytest.raises(raised):
        ranks.launch(["train"], 2)


def test_an_encoder_is_no_world_model(eyes_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds an encoder and no predictor" in refused(capsys, "info", eyes_dir)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ({0: -9}, "process 0 of 2 ended with -9; .*; where a checkpoint was written"),
        ({0: 2, 1: -9}, "process 1 of 2 ended with -9"),
        ({0: -15, 1: -9}, "process 1 of 2 ended with -9"),
        ({1: -15}, "process 1 of 2 ended with -15"),
    ],
)
def test_a_process_that_died_is_named(
    codes: dict[int, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_fails(codes, monkeypatch)
    with pytest.raises(RuntimeError, match=said):
        ranks.launch(["train"], 2)


@pytest.mark.parametrize("codes", [{0: 2}, {0: 2, 1: 2}, {0: -15, 1: 2}])
def test_a_process_that_said_what_is_wrong_is_enough(
    codes: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_fails(codes, monkeypatch)
    with pytest.raises(SystemExit) as exit:
        ranks.launch(["train"], 2)
    assert exit.value.code == 2


def launch_fails(codes: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(*_: object) -> None:
        raise ChildFailedError(
            "fastwm", {rank: ProcessFailure(rank, 1, code, "") for rank, code in codes.items()}
        )

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: failed)


def test_what_fails_in_several_processes_is_said_by_the_first() -> None:
    store = HashStore()
    with pytest.raises(ValueError, match="too wide"), ranks.Ranks(1, 3, store).one_voice():
        raise ValueError("too wide")
    for rank, error in ((0, ValueError("too wide")), (2, RuntimeError("connection closed"))):
        with pytest.raises(SystemExit) as exit, ranks.Ranks(rank, 3, store).one_voice():
            raise error
        assert exit.value.code == 2
    with pytest.raises(ValueError, match="alone"), ranks.Ranks(0, 1).one_voice():
        raise ValueError("alone")
