"""The search that reaches goals with few candidates through latent world models."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastwm.planning.cem import CEM
from fastwm.planning.inputs import Dynamics

SEARCH_OPTIONS = frozenset(field.name for field in dataclasses.fields(CEM))


def recommended_search(engine: Dynamics, **changes: Any) -> CEM:
    """CEM with 128 candidates, 8 elites, 2 iterations, red noise, and a std from 1.5 down to 0.15 of the training actions'.

    Red noise over the environment steps, those inside action blocks included, moves an agent where independent noise leaves it
    in its place. Many iterations find what the model is wrong about: measured in CONTRIBUTING.md. changes: options of `CEM`.
    """
    known: dict[str, Any] = {
        "samples": 128,
        "elites": 8,
        "iterations": 2,
        "std": 1.5,
        "min_std": 0.15 * float(engine.action_std.mean()),
        "steps": engine.action_block,
        "noise_exponent": 2.0,
    }
    if "correlation" in changes:  # another noise takes the place of this one
        del known["noise_exponent"]
    return CEM(**known | changes)
