"""The command line: what it prints, and that bad input gets one clear line and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import write_dots
from tiny_models import save_untrained

from fastwm import commands, train_flags
from fastwm.cli import main
from fastwm.engine.pack import DTYPES
from fastwm.models import WorldModel

SEARCH = ["--samples", "8", "--iterations", "2", "--horizon", "3", "--threads", "1"]
COMMANDS = ("demo", "collect", "train", "plan", "eval", "bench", "info")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dots(tmp_path_factory.mktemp("data") / "dots.h5"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line on stderr with which `arguments` are refused."""
    try:
        code = main(arguments)
    except SystemExit as exit:
        code = exit.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert output.err.endswith("\n")
    assert output.err.count("\n") == 1, output.err
    return output.err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    assert f"  fastwm {name}" in capsys.readouterr().out.partition("examples:")[2]


def test_help_does_not_wait_for_pytorch() -> None:
    call = "try: main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    script = f"import sys; from fastwm.cli import main\n{call}"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_every_field_of_the_configurations_has_a_flag() -> None:
    from fastwm.training.jobs import OBJECTIVES

    silent = {"version", "action_dim", "qkv_bias", "norm_eps"}
    for part, meanings in (("model", train_flags.MODEL_HELP), ("run", train_flags.TRAIN_HELP)):
        configs = {type(getattr(known, part)) for known in OBJECTIVES.values()}
        assert (
            set(meanings)
            == {field.name for config in configs for field in dataclasses.fields(config)} - silent
        )


@pytest.mark.parametrize("objective", ["wam", "frozen", "ijepa", "vjepa", "lejepa"])
def test_each_objective_has_flags_of_its_own(objective: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", f"--objective={objective}", "--help"])
    printed = capsys.readouterr().out.partition("examples:")[0]
    assert ("--chunk" in printed) == (objective == "wam")
    assert ("--tubelet" in printed) == objective.endswith("jepa")
    assert ("--rollout-steps" in printed) == (objective == "frozen")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["demo", "--steps", "many"], "--steps"),
        (["demo", "--steps", "0"], "steps is 0"),
        (["demo", "--env", "moon"], "moon"),
        (["demo", "--seed", "-1"], "seed is -1"),
        (["demo", "--threads", "0"], "threads is 0"),
        (["collect", "push", "x.h5", "--episodes", "0"], "episodes: expected at least 1"),
        (["collect", "push", "/proc/nowhere/x.h5"], "/proc/nowhere"),
        (["train", "nothing.h5", "run"], "nothing.h5: no such file"),
        (["eval", "--env", "push"], "needs a model"),
        (["eval", "nowhere", "--env", "push"], "nowhere holds no world model"),
        (["plan", "nowhere", "--env", "push"], "nowhere holds no world model"),
        (["info", "--threads", "0"], "threads is 0"),
        (["info", "--dtype", "int8"], "give its DIR"),
        (["info", "--backend", "cpu"], "give its DIR"),
        (["train", ".", "run"], "expected a file of episodes (HDF5), a LeRobot data set"),
        (["train", "x.h5", "run", "--objective", "dance"], "dance"),
        (["train", "x.h5", "run", "--devices", "0"], "devices is 0"),
        (["collect", "push", "."], ".: is a directory; FILE is an HDF5 file to write"),
        (["bench", "--threads", "0"], "threads is 0"),
        (["bench", "--repeats", "0"], "repeats is 0"),
        (["bench", "dance"], "unknown kernels dance; known are cem_sample, rollout_small"),
        (["bench", "--latency", "--rate", "0"], "rate is 0"),
        (["bench", "--latency", "--scaling"], "not allowed with"),
        (["bench", "goal_cost", "--latency"], "leave the kernels out"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *arguments)
    assert line.startswith("fastwm")
    assert words in line
    assert list(tmp_path.rglob("*.h5*")) == []


def test_what_does_not_fit_the_model_is_one_line(
    model_dir: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small, text = tmp_path / "small.png", tmp_path / "text.png"
    Image.new("RGB", (32, 48)).save(small)
    text.write_text("no picture")
    start_goal = ["--start", str(small), "--goal", str(small)]
    assert "32 × 48 pixels; the model sees 64 × 64" in refused(capsys, "plan", model_dir, *start_goal)
    assert "cannot identify" in refused(capsys, "plan", model_dir, "--start", str(text), "--goal", str(text))
    assert "belong together" in refused(capsys, "plan", model_dir, "--start", str(small))
    assert "nothing to plan" in refused(capsys, "plan", model_dir)
    assert "elites is 9" in refused(
        capsys, "plan", model_dir, "--env", "push", "--samples", "8", "--elites", "9"
    )
    assert "horizon is 0" in refused(capsys, "plan", model_dir, "--env", "push", "--horizon", "0")
    assert "deadline is nan" in refused(capsys, "plan", model_dir, "--env", "push", "--deadline", "nan")


def test_an_error_shows_where_it_came_from_on_request() -> None:
    with pytest.raises(FileNotFoundError):
        main(["train", "nothing.h5", "run", "--traceback"])


def test_a_plan_from_pictures_is_the_plan_of_the_task_they_show(
    model_dir: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["plan", model_dir, "--env", "push", "--seed", "5", "--json", *SEARCH]
    assert main([*arguments, "--save-images", str(tmp_path)]) == 0
    task = json.loads(capsys.readouterr().out)
    assert (
        main([*arguments, "--start", str(tmp_path / "start.png"), "--goal", str(tmp_path / "goal.png")]) == 0
    )
    pictures = json.loads(capsys.readouterr().out)
    assert task["actions"] == pictures["actions"]
    assert task["cost"] == pictures["cost"]
    assert np.shape(task["actions"]) == (3, 2)
    assert np.abs(task["actions"]).max() <= 1
    assert main(arguments[: -len(SEARCH) - 1] + SEARCH) == 0
    assert capsys.readouterr().out.count("\n") == 1 + 3


def test_eval_prints_success_with_its_interval(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    policies = ["--policy", "planner", "expert", "random"]
    assert (
        main(
            [
                "eval",
                model_dir,
                "--env",
                "two-room",
                "--episodes",
                "7",
                "--quiet",
                *SEARCH,
                "--json",
                *policies,
            ]
        )
        == 0
    )
    results = json.loads(capsys.readouterr().out)
    assert [result["policy"] for result in results] == ["planner", "expert", "random"]
    for result in results:
        low, high = result["interval"]
        assert low <= result["success"] <= high
        assert result["episodes"] == 7
    assert main(["eval", "--env", "two-room", "--episodes", "7", "--quiet", "--policy", "expert"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "7 episodes of two-room, at most 20 decisions each"
    assert re.split(r" {2,}", table[2].strip()) == ["reached", "95 % interval", "decisions to the goal"]
    assert re.split(r" {2,}", table[3])[:3] == ["expert", "100 %", "65 to 100 %"]
    assert len(table) == 4  # the time of an expert's decision would say nothing


def test_evals_table_is_aligned(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", model_dir, "--env", "two-room", "--episodes", "3", "--budget", "2", *SEARCH]
    assert main([*arguments, "--policy", "planner", "random", "expert"]) == 0
    output = capsys.readouterr()
    assert output.err == ""  # no progress where nobody looks
    lines = output.out.splitlines()
    assert lines[0].endswith("at most 2 decisions each")
    assert lines[3].startswith("planner ")
    assert len(lines[2]) == len(lines[3]) > len(lines[4])
    assert lines[6].startswith("random − planner: ")
    assert lines[7].startswith("expert − planner: ")


def test_evals_usage_can_be_typed(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    usage = capsys.readouterr().out.splitlines()[0]
    assert (
        usage
        == "usage: fastwm eval [DIR] --env {push,two-room,two-room-steps,pendulum,pusht,reacher} [options]"
    )
    typed = ["eval", model_dir, "--env", "push", "--dtype", "float32", "float32", "--episodes", "2", *SEARCH]
    assert main([*typed, "--budget", "1"]) == 0


def test_where_a_model_is_not_the_error_says_where_it_is(
    model_dir: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(model_dir)
    weights, notes = Path(model_dir) / "model.safetensors", tmp_path / "notes.txt"
    notes.write_text("no model")
    for command in (["info"], ["plan", "--env", "push"], ["eval", "--env", "push"]):
        name, *options = command
        assert f"{weights} is a file; {model_dir} holds one" in refused(capsys, name, str(weights), *options)
        line = refused(capsys, name, str(tmp_path), *options)
        assert f"{tmp_path} holds no world model: config.json is missing; {tmp_path}/model holds one" in line
        line = refused(capsys, name, str(notes), *options)
        assert f"{notes} is a file; DIR is the directory of a saved world model" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named(model_dir: str) -> None:
    command = [sys.executable, "-m", "fastwm.cli", "plan", model_dir, "--env", "push", "--json", *SEARCH]
    with open("/dev/full", "w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 2
    assert found.stderr == "fastwm plan: standard output: No space left on device\n"


def test_eval_compares_dtypes_pair_by_pair(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", model_dir, "--env", "two-room", "--episodes", "5", "--quiet", *SEARCH]
    arguments += ["--dtype", "float32", "float32", *list(DTYPES)[1:]]
    assert main([*arguments, "--json"]) == 0
    first, *others = json.loads(capsys.readouterr().out)
    assert first["policy"] == "planner float32"
    assert "difference" not in first
    assert [result["policy"] for result in others] == [
        "planner float32",
        *(f"planner {d}" for d in list(DTYPES)[1:]),
    ]
    for result in others:
        found = result["difference"]
        assert found["from"] == "planner float32"
        assert found["success"] == pytest.approx(result["success"] - first["success"])
        assert (found["won"] - found["lost"]) / 5 == pytest.approx(found["success"])
    assert others[0]["difference"]["won"] == others[0]["difference"]["lost"] == 0
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("bfloat16 − float32: ")]
    assert re.fullmatch(
        r".*: [+-]\d+\.\d percentage points \(95 %: [+-]\d+\.\d to [+-]\d+\.\d\); \d won, \d lost", line
    )


def test_collect_then_train_then_resume(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data, run = str(tmp_path / "rooms.h5"), str(tmp_path / "run")
    assert main(["collect", "two-room", data, "--episodes", "12", "--length", "14", "--quiet"]) == 0
    assert "168 frames" in capsys.readouterr().out
    sizes = [
        "--encoder-width",
        "4",
        "--embed-dim",
        "16",
        "--projector-dim",
        "16",
        "--mlp-dim",
        "16",
        "--preset",
        "mlp",
    ]
    short = ["--batch-size", "4", "--threads", "1", "--no-tensorboard", "--quiet"]
    assert main(["train", data, run, *sizes, *short, "--steps", "3"]) == 0
    assert "linear probe R²" in capsys.readouterr().out
    model = WorldModel.load(run)
    assert (model.config.predictor, model.config.embed_dim) == ("mlp", 16)
    line = refused(capsys, "train", data, run, *sizes, *short, "--steps", "3")
    assert "already holds a run: go on with it (--resume), or choose another DIR" in line
    assert "steps 3 -> 4" in refused(capsys, "train", data, run, *sizes, *short, "--steps", "4", "--resume")
    assert main(["train", data, run, *sizes, *short, "--steps", "3", "--resume"]) == 0


def test_info_tells_what_runs(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", model_dir, "--json", "--dtype", "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"]["dtype"] == "float32"
    assert found["engine"]["embed_dim"] == 16
    assert main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["fastwm"] == found["fastwm"]
    assert lines["backend"] == found["backend"]


def test_info_is_rounded_for_the_eye_alone(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    gate = {"overlap": 0.9635416666666667, "regret": 0.000583211748523353, "passed": True}
    found = {"weight_bytes": 324096, "ranking_gate": {"calibration": "model", "dtypes": {"int8": gate}}}
    lines = dict(line.split(maxsplit=1) for line in commands._lines(found) if len(line.split()) > 1)
    assert lines["weight_bytes"] == "324.1 kB"
    assert (lines["overlap"], lines["regret"], lines["passed"]) == ("0.9635", "0.0005832", "True")
    assert commands._lines({"weight_bytes": 43_210_000})[0].split(maxsplit=1)[1] == "43.2 MB"
    assert main(["info", model_dir, "--json", "--dtype", "float32"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out)["engine"]["weight_bytes"], int)


def test_bench_prints_times_and_writes_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    arguments = [
        "bench",
        "goal_cost",
        "cem_update",
        "--quick",
        "--threads",
        "1",
        "--quiet",
        "--json",
        str(path),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["machine"]["processor"] in printed
    assert [line["kernel"] for line in found["results"]] == ["goal_cost"] * 2 + ["cem_update"] * 2
    for line in found["results"]:
        assert line["passed"]
        if line["engine"] == "fastwm":
            assert f"{line['milliseconds']['median']:.4g}" in printed


def test_an_interruption_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(parsed: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "info", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "\nfastwm info: interrupted\n"
    monkeypatch.setattr(commands, "train", interrupted)
    assert main(["train", "data.h5", "run"]) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err


def test_a_demo_stopped_by_ctrl_c_says_so_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastwm.cli", "demo", "--env", "two-room", "--out", str(tmp_path)]
    command += ["--collect", "20", "--steps", "100000", "--threads", "1"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if line.startswith("train"):
                break
        demo.send_signal(signal.SIGINT)
        rest = demo.stderr.read()
    assert demo.returncode == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "fastwm demo: interrupted; the same command goes on from here"
