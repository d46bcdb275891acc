"""An existing solver or policy of stable-worldmodel's -> the fast one with its settings."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from fastwm.integrations.stable_worldmodel.categorical_cem import CategoricalCEMSolver
from fastwm.integrations.stable_worldmodel.cem import CEMSolver
from fastwm.integrations.stable_worldmodel.icem import ICEMSolver
from fastwm.integrations.stable_worldmodel.mppi import MPPISolver
from fastwm.integrations.stable_worldmodel.recognise import is_theirs
from fastwm.integrations.stable_worldmodel.solver import Solver

_SOLVERS: dict[str, type[Solver]] = {
    solver.__name__: solver for solver in (CEMSolver, ICEMSolver, MPPISolver, CategoricalCEMSolver)
}
_OWN = ("self", "cost", "model", "seed", "callbacks", "backend", "dtype", "threads")  # not copied by name


def accelerate(
    solver_or_policy: Any, *, backend: str = "auto", dtype: str = "float32", threads: int | None = None
) -> Any:
    """The fast solver, or a policy with it: settings, callbacks, configuration and the generator's state as they are.

    solver_or_policy: a CEMSolver, ICEMSolver, MPPISolver or CategoricalCEMSolver of stable-worldmodel, or a policy whose
    `solver` is one. It is left as it is; a policy's copy has its own buffers. The other arguments are those of the solvers.
    Raises TypeError for anything else, subclasses included, as they may search in another way.
    """
    if hasattr(solver_or_policy, "solver"):
        policy = copy.copy(solver_or_policy)
        policy.solver = accelerate(solver_or_policy.solver, backend=backend, dtype=dtype, threads=threads)
        for name in ("_action_buffer", "_next_init", "_history_buffer"):
            if hasattr(policy, name):
                setattr(policy, name, copy.deepcopy(getattr(policy, name)))
        return policy
    name = type(solver_or_policy).__name__
    if name not in _SOLVERS or not is_theirs(solver_or_policy, name):
        raise TypeError(
            f"solver_or_policy is {type(solver_or_policy).__module__}.{name}, expected stable-worldmodel's "
            f"{', '.join(_SOLVERS)}, or a policy with one"
        )
    return _fast(_SOLVERS[name], solver_or_policy, backend=backend, dtype=dtype, threads=threads)


def _fast(kind: type[Any], solver: Any, **options: Any) -> Any:
    settings = {
        setting: getattr(solver, setting)
        for setting in inspect.signature(kind).parameters
        if setting not in _OWN
    }
    given = "cost" if hasattr(solver, "cost") else "model"
    callbacks = {"callbacks": solver.callbacks} if hasattr(solver, "callbacks") else {}
    fast = kind(**{given: getattr(solver, given)}, **settings, **callbacks, **options)
    fast.torch_gen.set_state(solver.torch_gen.get_state())
    if getattr(solver, "_configured", False):
        fast.configure(action_space=solver._action_space, n_envs=solver._n_envs, config=solver._config)
    return fast
