"""The tests see every planted fault, and none where none is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import mutate
import pytest
from mutants import Mutant

pytestmark = pytest.mark.slow
STEMS = mutate.stems()
Verdicts = dict[str, Future[dict[str, mutate.Verdict]]]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verdicts]:
    """For each test, by its name, what the rungs say; some are at work at the same time."""
    ladders: SimpleQueue[mutate.Ladder] = SimpleQueue()
    for _ in range(min(4, os.cpu_count() or 1)):
        ladders.put(mutate.Ladder(tmp_path_factory.mktemp("mutants")))

    def run(stem: str, mutant: Mutant | None, rungs: tuple[str, ...]) -> dict[str, mutate.Verdict]:
        ladder = ladders.get()
        try:
            return {rung: ladder.run(stem, mutant, rung) for rung in rungs}
        finally:
            ladders.put(ladder)

    pool = ThreadPoolExecutor(ladders.qsize())
    mine = [item for item in request.session.items if "verdicts" in getattr(item, "fixturenames", ())]
    yield {item.nodeid: pool.submit(run, **item.callspec.params) for item in mine}
    pool.shutdown(cancel_futures=True)
    while not ladders.empty():
        ladders.get().close()


@pytest.mark.parametrize(
    ("stem", "mutant", "rungs"),
    [
        pytest.param(stem, None, (rung,), id=f"{stem}-{rung}")
        for stem, mutants in STEMS.items()
        for rung in sorted({rung for mutant in mutants for rung in mutant.rungs})
    ],
)
def test_without_a_fault_all_pass(
    verdicts: Verdicts, request: pytest.FixtureRequest, stem: str, mutant: None, rungs: tuple[str, ...]
) -> None:
    for verdict in verdicts[request.node.nodeid].result().values():
        assert not verdict.killed, verdict.why


@pytest.mark.parametrize(
    ("stem", "mutant", "rungs"),
    [
        pytest.param(stem, m, m.rungs, id=f"{stem}-{m.name}")
        for stem, mutants in STEMS.items()
        for m in mutants
    ],
)
def test_a_fault_is_seen(
    verdicts: Verdicts,
    request: pytest.FixtureRequest,
    record_property: Callable,
    stem: str,
    mutant: Mutant,
    rungs: tuple[str, ...],
) -> None:
    words = {name: v.why if v.killed else None for name, v in verdicts[request.node.nodeid].result().items()}
    seen = [name for name, why in words.items() if why is not None]
    row = {
        "stem": stem,
        "fault": mutant.name,
        "file": mutant.file,
        "first": seen[0] if seen else None,
        "rungs": words,
    }
    record_property("mutant", json.dumps(row))
    assert seen, f"no rung of {rungs} sees it"


def test_a_fault_must_be_plantable_in_one_place() -> None:
    mutant = Mutant("twice", "fastwm/triton/x.py", "a", "b")
    assert mutant.rungs == ("values", "ttsem")
    assert mutant.apply("cad") == "cbd"
    for text in ("aa", "x"):
        with pytest.raises(ValueError, match="expected once"):
            mutant.apply(text)
    with pytest.raises(ValueError, match=r"rungs \['speed'\]"):
        Mutant("x", "y.cu", "a", "b", ("speed",))
