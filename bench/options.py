"""What was asked of a run of benchmarks."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """repeats: rounds of all ways at most; seconds: about as long for one problem. Empty models or ways: all of them."""

    repeats: int = 20
    seconds: float = 120.0
    threads: tuple[int, ...] = (1,)
    compiled: bool = True
    quick: bool = False
    sweep: bool = False
    models: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()

    def wants(self, way: str) -> bool:
        """Whether a way's name holds one of the words asked for."""
        return not self.ways or any(word in way for word in self.ways)
