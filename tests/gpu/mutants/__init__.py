"""Planted faults, to know that the tests would see them: `MUTANTS` of a file per stem, run by tests/gpu/mutate.py."""

from __future__ import annotations

from dataclasses import dataclass

RUNGS = ("values", "ttsem", "address", "thread")


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file` (from the repository's root) the text `old`, which must be there exactly once, becomes `new`.

    rungs: of which at least one must fail the stem's tests (tests/gpu/test_<stem>.py). "values": the emulation in three
    schedules, or the guarded interpreter in three orders; "ttsem": Triton alone; "address" and "thread": the emulation under
    ASan with UBSan, or TSan. By default "values", and for files of Triton "ttsem" as well.
    """

    name: str
    file: str
    old: str
    new: str
    rungs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rungs:
            default = ("values", "ttsem") if self.file.startswith("fastwm/triton/") else ("values",)
            object.__setattr__(self, "rungs", default)
        if unknown := set(self.rungs) - set(RUNGS):
            raise ValueError(f"{self.name}: rungs {sorted(unknown)}, expected some of {RUNGS}")

    def apply(self, text: str) -> str:
        """The file's text with the fault. Raises ValueError unless `old` is there exactly once."""
        if (found := text.count(self.old)) != 1 or self.old == self.new:
            raise ValueError(
                f"{self.name}: {self.old!r} is {found} times in {self.file}, expected once, and another `new`"
            )
        return text.replace(self.old, self.new)
