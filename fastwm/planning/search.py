"""The search: sample, evaluate, refit, until its iterations, its convergence or the deadline ends it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastwm.engine.backend import own_precision
from fastwm.planning.clock import Clock
from fastwm.planning.draws import Draws
from fastwm.planning.record import Record
from fastwm.planning.sampling import Sampling, State, choose

# How a search ended, best first: all iterations ran; every environment's converged; the next iteration would not have ended in
# time; an iteration was cut short by the deadline (its candidates count, its refit does not); not one iteration fitted.
End = Literal["complete", "converged", "deadline", "cut", "fallback"]
Propose = Literal["every", "first"]  # iteration that proposals take part in


class Iteration(NamedTuple):
    """What a callback sees: candidates [B, S, T, A], their cost [B, S], and the search before and after them."""

    number: int
    actions: Tensor
    cost: Tensor
    state: State
    before: State


class Found(NamedTuple):
    """What a search leaves: its last state, the best it saw, and how it ended."""

    state: State
    record: Record
    end: End
    graph: str = "none"  # what of it was a captured CUDA graph: "search", "iteration" or "none"

    def map(self, change: Callable[..., Tensor], *others: Found) -> Found:
        """The same with other tensors, made of this one's and those of other searches: on another device, or joined."""
        states = (one.state for one in (self, *others))
        state = tree_map(lambda *x: change(*x) if isinstance(x[0], Tensor) else x[0], *states)
        record = self.record.map(change, *(one.record for one in others))
        end = max((one.end for one in (self, *others)), key=get_args(End).index)
        return self._replace(state=state, record=record, end=end)


def search(
    method: Sampling,
    evaluate: Callable[[Tensor], Tensor],
    mean: Tensor,
    std: Tensor,
    draws: Draws,
    clock: Clock,
    *,
    fallback: Tensor | None = None,
    proposals: Tensor | None = None,
    propose_in: Propose = "every",
    kept: Tensor | None = None,
    judge: Callable[[], Tensor] | None = None,
    callback: Callable[[Iteration], object] | None = None,
    expected: float = 0.0,
    threads: int = 1,
) -> Found:
    """Make `evaluate` small, candidates [B, S, T, A] -> cost [B, S], from the first mean and std [B, T, A].

    fallback: [B, T, A], what counts as the best seen until a candidate is; the first mean by default.
    evaluate: has to carry gradients to the candidates if `method.gradients`; NaN is a candidate that was not evaluated.
    judge: where costs change from one iteration to the next, by what the candidates last evaluated compare with others, [B, S].
    proposals: [B, n, T, A] candidates of every iteration, or of the first alone (`propose_in`); kept: of the first.
    expected: seconds that the first iteration is expected to take.
    """
    record = Record(mean if fallback is None else fallback, recovers=method.gradients)
    first = state = method.start(mean, std)._replace(kept=kept)
    end: End = "complete"
    active: Tensor | None = None  # [B] environments whose search goes on; None: of all
    for iteration in clock.iterations(method.iterations, expected):
        proposed = proposals if propose_in == "every" or iteration == 0 else None
        actions = method.sample(state, draws, iteration, proposals=proposed, threads=threads)  # [B, S, T, A]
        if method.gradients:
            cost, gradient = _with_gradient(evaluate, actions)
        else:
            cost, gradient = evaluate(actions), None  # [B, S]
        judged = None if judge is None else judge()  # [B, S]
        if clock.passed:
            record.glance(actions, cost if judged is None else judged, active)
            end = "cut"
            break
        known = state._replace(best=record.best if judged is None else None)
        after = method.update(known, actions, cost, gradient=gradient, threads=threads)
        record.add(actions, cost, after, active, judged=judged)
        before, state = state, after if active is None else _where(active, after, state)
        if callback is not None:
            callback(Iteration(iteration, actions, cost, state, before))
        if method.tolerance:
            active = ~method.converged(state, first)
            if not active.any():
                end = "converged"
                break
    else:
        if not record.iterations:
            end = "fallback"
        elif clock.cut_short:
            end = "deadline"
    return Found(state, record, end)


def _with_gradient(evaluate: Callable[[Tensor], Tensor], actions: Tensor) -> tuple[Tensor, Tensor]:
    """cost [B, S] and its gradient [B, S, T, A]; a candidate's cost is a function of that candidate alone."""
    with torch.enable_grad():
        leaf = actions.detach().requires_grad_()
        cost = evaluate(leaf)
        if not cost.requires_grad:
            if cost.isnan().all():  # no candidate was evaluated in time
                return cost, torch.full_like(actions, math.nan)
            raise ValueError("the cost carries no gradient to the actions, which this search needs")
        with own_precision():  # autocast reaches backward passes, too
            (gradient,) = torch.autograd.grad(cost.sum(), leaf)
    return cost.detach(), gradient


def _where(active: Tensor, after: State, before: State) -> State:
    """Of each environment the state after an iteration if it is active, else the one before."""
    return after._replace(
        mean=choose(active, after.mean, before.mean),
        std=choose(active, after.std, before.std),
        elite_cost=choose(active, after.elite_cost, before.elite_cost),
        memory=tuple(choose(active, new, old) for new, old in zip(after.memory, before.memory, strict=True)),
        kept=None if after.kept is None or before.kept is None else choose(active, after.kept, before.kept),
    )
