"""README's results from files of results: the right numbers, nothing that was not measured, and a check that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_lines import MACHINE, line, rollout

from bench import report, report_latency, report_rollout


def row(markdown: str, start: str) -> str:
    return next(text for text in markdown.splitlines() if text.startswith(f"| {start}"))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "rollout.json").write_text(json.dumps(rollout()))
    return tmp_path


# ---- numbers -------------------------------------------------------------------------------------------------------------


def test_latency_of_few_plans_has_dashes_for_percentiles() -> None:
    times = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 3.0, "jitter": 0.5, "wake_p99": 0.1}
    line = {"model": "m", "way": "w", "passed": True, "rate": 20.0, "threads": 1, "plans": 50, "missed": 2}
    text = report_latency.table({"results": [{**line, "milliseconds": times}]})
    assert "| m | w | 1 | 2 | – | 3 | 0.5 | – | 2 of 50 |" in text


def test_ratios_are_to_the_fastest_in_the_dtype_or_a_wider_one() -> None:
    markdown = report_rollout.ratios(rollout())
    assert (
        "| **219** | 90% | **4.1 ×** (897 ms, torch.compile float32) | **2.1 ×** (456 ms, float32) |"
        in row(markdown, "float32, 1 thread")
    )
    assert "**4.1 ×** (500 ms, float32)" in row(markdown, "bfloat16, 1 thread")  # ONNX Runtime: float32 alone
    assert "**5.3 ×** (384 ms, torch.compile bfloat16) | **3.5 ×** (250 ms, int8)" in row(
        markdown, "int8, 1 thread"
    )
    assert "On 2 threads it is 1.95 in float32, 1.95 in bfloat16" in markdown


def test_a_narrow_dtype_that_is_slower_is_compared_with_the_wider_one() -> None:
    ways = [
        line("fastwm avx2", "bfloat16", 100.0),
        line("torch eager", "bfloat16", 900.0),
        line("torch eager", "float32", 300.0),
    ]
    machine = {**MACHINE, "isas": ["avx2"]}
    assert "**3.0 ×** (300 ms, torch eager float32)" in report_rollout.ratios(
        {"machine": machine, "results": ways}
    )


def test_what_was_not_measured_or_did_not_agree_does_not_appear() -> None:
    content = rollout()
    content["results"] = [x for x in content["results"] if x["engine"] != "openvino"]
    for x in content["results"]:
        if x["dtype"] == "int8" or x["engine"] == "onnxruntime":
            x["passed"] = False
            del x["milliseconds"]
    everything = "".join(make(content) for stem, make in report.BLOCKS.values() if stem == "rollout")
    assert "OpenVINO" not in everything.replace("openvino 2026.1", "")
    assert "int8" not in everything
    assert "ONNX" not in everything
    assert "**219**" in everything


def test_the_headline_is_the_most_threads_narrowest_dtype_first() -> None:
    text = report_rollout.headline(rollout())
    assert (
        "on 2 threads of an AMD EPYC, takes 36.9 ms in int8, where the fastest peers take 197 (PyTorch) and 128 (OpenVINO)"
        in text
    )
    assert (
        text.index("int8")
        < text.index("in bfloat16, 62.1 ms")
        < text.index("in float32, 112 ms against 460 (PyTorch)")
    )
    assert report_rollout.headline(rollout(only="torch")) == ""


def test_the_caption_says_how_far_off_each_dtype_is() -> None:
    content = rollout()
    for x in content["results"]:
        if x["dtype"] == "int8":
            x |= {"relative_cost_error": 7e-4, "elite_overlap": 0.967}
    text = report_rollout.ratios(content)
    assert (
        "1.0e-07 in float32, 1.0e-07 in bfloat16, 7.0e-04 in int8 (96.7% of the elites are float64's)" in text
    )


def test_every_way_has_its_row_and_the_best_of_a_column_is_bold() -> None:
    markdown = report_rollout.ways(rollout())
    assert "| **219** | **112** | **121** | **62.1** | **72** | **36.9** |" in row(
        markdown, "fastwm, AVX-512 with"
    )
    assert row(markdown, "torch.compile").endswith("| 897 | 460 | 384 | 197 | – | – |")


def test_sizes_and_small_models() -> None:
    content = rollout()
    assert "| 1 | 32 | 5 | 1 | 75% (28 ms) |" in report_rollout.sizes(content)
    assert report_rollout.sizes(
        {**content, "results": [x for x in content["results"] if x["T"] == 5 and x["S"] == 300]}
    )
    only_default = [x for x in content["results"] if (x["B"], x["S"], x["T"], x["K"]) == (1, 300, 5, 1)]
    assert report_rollout.sizes({**content, "results": only_default}) == ""
    small = report_rollout.small_models(content)
    assert (
        "| TD-MPC2's MLP dynamics, 5M | 512 × 3 | float32 | 19.7 | **4.1 ×** (80.7 ms, torch.compile float32) |"
        in small
    )


def test_results_of_an_older_format_count_as_not_measured() -> None:
    old = {
        "machine": MACHINE,
        "results": [{"context": 1, "threads": 1, "way": "torch eager float32", "passed": True}],
    }
    assert [make(old) for stem, make in report.BLOCKS.values() if stem == "rollout"] == [""] * 5


# ---- the README ----------------------------------------------------------------------------------------------------------


def test_a_readme_is_rewritten_and_then_checks(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "# a\n<!-- bench:rollout -->\nold\n<!-- /bench:rollout -->\nkept\n<!-- bench:latency -->\nx\n<!-- /bench:latency -->\n"
    )
    arguments = ["--readme", str(readme), "--results", str(results)]
    assert report.main([*arguments, "--check"]) == 1
    assert "block rollout differs" in capsys.readouterr().err
    assert "old" in readme.read_text()
    assert report.main(arguments) == 0
    text = readme.read_text()
    assert "old" not in text
    assert text.endswith("kept\n<!-- bench:latency -->\nx\n<!-- /bench:latency -->\n"), (
        "what was not measured stays"
    )
    assert report.main([*arguments, "--check"]) == 0
    readme.write_text(text.replace("**219**", "**218**"))
    assert report.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<!-- bench:rollout -->\n",
        "<!-- bench:rollout -->\n<!-- /bench:ways -->\n",
        "<!-- bench:dance -->\n<!-- /bench:dance -->\n",
        2 * "<!-- bench:rollout -->\n<!-- /bench:rollout -->\n",
    ],
)
def test_markers_that_do_not_match_are_refused(text: str, results: Path) -> None:
    with pytest.raises(ValueError, match="blocks"):
        report.generate(text, results)


@pytest.mark.parametrize("content", ["{", "[]", '{"machine": {}}', '{"machine": 1, "results": []}'])
def test_damaged_results_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_text(content)
    with pytest.raises(ValueError, match=r"rollout.json holds no results"):
        report.generate("<!-- bench:rollout -->\n<!-- /bench:rollout -->\n", tmp_path)


def test_the_readme_shows_its_results() -> None:
    text, changed, _ = report.generate(report.README.read_text(encoding="utf-8"), report.RESULTS)
    assert not changed, "run python -m bench.report"
    assert text.count("<!-- bench:") == len(report.BLOCKS)
