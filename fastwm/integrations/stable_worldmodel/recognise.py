"""Which of stable-worldmodel's cost objects the engine computes, and what they compute."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn


class NotOnEngine(Exception):
    """Why a cost runs through its own `get_cost`."""


class Terms(NamedTuple):
    """cost = (goal_sum + goal_mean / E) * |last latent - last goal latent|^2 + action * |actions|^2"""

    goal_sum: float = 0.0
    goal_mean: float = 0.0
    action: float = 0.0

    def times(self, weight: float) -> Terms:
        """All terms, weighted."""
        return Terms(*(weight * term for term in self))

    def plus(self, other: Terms) -> Terms:
        """The sum of both."""
        return Terms(*(a + b for a, b in zip(self, other, strict=True)))


class Known(NamedTuple):
    """A cost that the engine computes."""

    model: nn.Module
    terms: Terms
    past_in_candidate: (
        bool  # a candidate's first K blocks go with the K frames of the context (the release on PyPI)
    )


def recognise(cost: Any) -> Known:
    """What a cost is. Raises NotOnEngine, with the reason, for one that the engine does not know.

    Known are LeWM with its own `get_cost` (the release), and ShootingCostEvaluator (main) of a LeWM and GoalMSE, alone or
    with GoalMSE and ControlPenalty in a WeightedSum.
    """
    if is_theirs(cost, "LeWM") and hasattr(cost, "get_cost"):
        _refuse_changed(cost, ("encode", "predict", "rollout", "criterion", "get_cost"))
        known = Known(cost, Terms(goal_sum=1.0), past_in_candidate=True)
    elif is_theirs(cost, "ShootingCostEvaluator"):
        _refuse_changed(cost, ("get_cost", "_rollout"))
        model, encode_goal = cost.model, cost.encode_goal
        if not is_theirs(model, "LeWM"):
            raise NotOnEngine(f"its model is {_name(model)}, known is LeWM")
        if not _is_function(encode_goal, ("default_goal_encode", "flat_goal_encode")):
            raise NotOnEngine(f"its encode_goal is {getattr(encode_goal, '__name__', encode_goal)!r}")
        _refuse_changed(model, ("encode", "predict", "rollout"))
        known = Known(model, _terms(cost.objective), past_in_candidate=False)
    else:
        raise NotOnEngine(f"{_name(cost)} is not known (LeWM and ShootingCostEvaluator of LeWM are)")
    if known.model.training:
        raise NotOnEngine("the model is in training mode; call its eval()")
    devices = {tensor.device.type for tensor in known.model.parameters()}
    if devices - {"cpu"}:
        raise NotOnEngine(f"the model is on {', '.join(sorted(devices))}, the engine runs on the CPU")
    return known


def is_theirs(thing: object, name: str) -> bool:
    """Whether it is stable-worldmodel's class of that name, and no subclass, which may compute something else."""
    return type(thing).__name__ == name and type(thing).__module__.partition(".")[0] == "stable_worldmodel"


def _terms(objective: Any) -> Terms:
    if is_theirs(objective, "GoalMSE"):
        if (objective.pred_key, objective.goal_key) != ("predicted_emb", "goal_emb"):
            raise NotOnEngine(f"GoalMSE reads {objective.pred_key!r} and {objective.goal_key!r}")
        return Terms(**{f"goal_{objective.reduction}": 1.0})
    if is_theirs(objective, "ControlPenalty"):
        if objective.action_key != "action_candidates":
            raise NotOnEngine(f"ControlPenalty reads {objective.action_key!r}")
        return Terms(action=1.0)
    if is_theirs(objective, "WeightedSum"):
        total = Terms()
        for weight, term in zip(objective.weights, objective.objectives, strict=True):
            total = total.plus(_terms(term).times(float(weight)))
        return total
    raise NotOnEngine(
        f"its objective has a {_name(objective)}, known are GoalMSE, ControlPenalty and WeightedSum"
    )


def _refuse_changed(thing: Any, methods: tuple[str, ...]) -> None:
    """NotOnEngine if the object has a method of its own in the place of its class's."""
    for name in methods:
        if name in vars(thing):
            raise NotOnEngine(f"{_name(thing)}.{name} was replaced")


def _is_function(function: Any, names: tuple[str, ...]) -> bool:
    home = getattr(function, "__module__", None) or ""
    return getattr(function, "__name__", None) in names and home.partition(".")[0] == "stable_worldmodel"


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
