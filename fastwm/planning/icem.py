"""The improved cross-entropy method: noise that is correlated over the horizon, elites that are tried again, fewer and fewer
candidates.

Pinneri et al., "Sample-efficient cross-entropy method for real-time planning", arXiv:2008.06389. Elites are tried again in
the next iteration and, shifted by the blocks executed, in the next plan that is given this one as its `warm_start`, as an
`Agent` does.
"""

from __future__ import annotations

import dataclasses

from fastwm.planning.cem import CEM


@dataclasses.dataclass(frozen=True)
class ICEM(CEM):
    """`CEM` with the paper's options: red noise, 5 elites kept, momentum 0.1, candidates divided by 1.25 each iteration."""

    samples: int = 100
    elites: int = 10
    iterations: int = 10
    momentum: float = dataclasses.field(default=0.1, kw_only=True)
    noise_exponent: float = dataclasses.field(default=2.0, kw_only=True)
    keep: int = dataclasses.field(default=5, kw_only=True)
    decay: float = dataclasses.field(default=1.25, kw_only=True)
