"""Drop-in solvers for stable-worldmodel, its release on PyPI and its main branch. See docs/stable_worldmodel.md.

Nothing here imports stable-worldmodel: its objects are recognised by their classes.
"""

from fastwm.integrations.stable_worldmodel.accelerate import accelerate
from fastwm.integrations.stable_worldmodel.categorical_cem import CategoricalCEMSolver
from fastwm.integrations.stable_worldmodel.cem import CEMSolver
from fastwm.integrations.stable_worldmodel.icem import ICEMSolver
from fastwm.integrations.stable_worldmodel.mppi import MPPISolver
from fastwm.integrations.stable_worldmodel.recommended import RecommendedSolver

__all__ = ["CEMSolver", "CategoricalCEMSolver", "ICEMSolver", "MPPISolver", "RecommendedSolver", "accelerate"]
