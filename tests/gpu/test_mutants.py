"""The tests see every planted fault, and none where none is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import mutate
import pytest
from mutants import Mutant

pytestmark = pytest.mark.slow
STEMS = mutate.stems()


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mutate.Ladder]:
    ladder = mutate.Ladder(tmp_path_factory.mktemp("mutants"))
    yield ladder
    ladder.close()


@pytest.mark.parametrize(
    ("stem", "rung"),
    [
        (stem, rung)
        for stem, mutants in STEMS.items()
        for rung in sorted({r for mutant in mutants for r in mutant.rungs})
    ],
)
def test_without_a_fault_all_pass(ladder: mutate.Ladder, stem: str, rung: str) -> None:
    verdict = ladder.run(stem, None, rung)
    assert not verdict.killed, verdict.why


@pytest.mark.parametrize(
    ("stem", "mutant"),
    [pytest.param(stem, m, id=f"{stem}-{m.name}") for stem, mutants in STEMS.items() for m in mutants],
)
def test_a_fault_is_seen(ladder: mutate.Ladder, stem: str, mutant: Mutant, record_property: Callable) -> None:
    verdicts = {rung: ladder.run(stem, mutant, rung) for rung in mutant.rungs}
    killers = {rung: verdict for rung, verdict in verdicts.items() if verdict.killed}
    row = {"stem": stem, "fault": mutant.name, "file": mutant.file, "first": next(iter(killers), None)}
    row["rungs"] = {rung: verdict.why if verdict.killed else None for rung, verdict in verdicts.items()}
    record_property("mutant", json.dumps(row))
    assert killers, f"no rung of {mutant.rungs} sees it"


def test_a_fault_must_be_plantable_in_one_place() -> None:
    mutant = Mutant("twice", "fastwm/triton/x.py", "a", "b")
    assert mutant.rungs == ("values", "ttsem")
    assert mutant.apply("cad") == "cbd"
    for text in ("aa", "x"):
        with pytest.raises(ValueError, match="expected once"):
            mutant.apply(text)
    with pytest.raises(ValueError, match=r"rungs \['speed'\]"):
        Mutant("x", "y.cu", "a", "b", ("speed",))
