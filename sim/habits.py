"""A world of kinds: prompts of several kinds share habits and compete for them.

A prompt is of kind j with probability q_j. The policy chooses an act a with probability
π_j(a) ∝ exp(b_a + S_j 1[a = j]) and, where a is what the kind needs, carries it out with probability
r_j = 1/(1 + exp(-e_j)), so ρ_j = π_j(j) r_j. The habit b is shared by all kinds; the skill S_j of telling from the
prompt which act is needed and the execution e_j belong to the kind. Acts beyond the kinds are never right: habits that
have to be unlearned.

A group of M responses to a prompt of kind j gives the policy gradient (1/M) Σ A_i ∇ln p(response i), with the table's
advantages. Because the mean of ∇ln p is 0, its expectation is u(ρ_j) ∇ρ_j, u the table's expected speed
(`theory.finite_group.speed`), whatever wrong responses do:

    ∇ρ_j = ρ_j (1[a = j] - π_j(a))  for b_a,      ρ_j (1 - π_j(j))  for S_j,      ρ_j (1 - r_j)  for e_j

A step multiplies the batch mean of it by η for habits, by ηλ for skills and by ημ for execution. With normalised steps,
which stand for what AdamW does to the length of a step, it is divided by the root of the mean squared advantage,
averaged over the steps so far with weights 0.95^age. `sample` draws every response; `mean_field` takes the expected
step. What the model leaves out: prompts of a kind are alike, and kinds share nothing but the habit.

The model is the minimal one in which a weighting decides which kinds survive; it is a derivation of this project, not
of the paper.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb

MEMORY = 0.95  # of the mean squared advantage, a step
TINY = 1e-12  # added to the mean squared advantage, so that a batch without any signal makes no step
LOST = 0.05  # success below which a kind counts as lost

Real = NDArray[np.float64]
Values = float | Real


@dataclasses.dataclass(frozen=True, kw_only=True)
class Habits:
    """Parameters of the world. All but `shares` broadcast against replicas in front: shape (R, 1) or (R, J).

    Attributes
    ----------
    shares
        Shape (J,). q_j > 0; they add up to 1.
    acts
        Shape (..., A), A ≥ J. π(a) of the start without skill; they add up to 1. Act j is what kind j needs.
    execution
        Shape (..., J). r_j of the start, in (0, 1).
    skill
        S_j of the start, 0 from scratch.
    step_size
        η > 0, for habits.
    skill_rate, execution_rate
        λ and μ ≥ 0: how fast skill and execution are learned, in units of the habit's speed.
    normalised
        Whether steps are divided by the root of the mean squared advantage.
    """

    shares: Real
    acts: Real
    execution: Real
    skill: Values = 0.0
    step_size: Values = 4.0
    skill_rate: Values = 0.02
    execution_rate: Values = 0.0
    normalised: bool = True


@dataclasses.dataclass
class State:
    """Where the policy stands: habits (..., A), skills and execution (..., J); log-odds scale."""

    habit: Any
    skill: Any
    execution: Any

    def policy(self) -> Any:
        """π_j(a), shape (..., J, A)."""
        kinds = self.skill.shape[-1]
        logits = np.repeat(self.habit[..., None, :], kinds, axis=-2)
        at = np.arange(kinds)
        logits[..., at, at] += self.skill
        weight = np.exp(logits - np.real(logits).max(axis=-1, keepdims=True))
        return weight / weight.sum(axis=-1, keepdims=True)

    def executed(self) -> Any:
        """r_j, shape (..., J)."""
        return 1 / (1 + np.exp(-self.execution))

    def success(self) -> Any:
        """ρ_j, shape (..., J)."""
        return np.diagonal(self.policy(), axis1=-2, axis2=-1) * self.executed()


def start(world: Habits, shape: tuple[int, ...] = (), dtype: Any = np.float64) -> State:
    """The state of the start, for replicas of that shape."""
    kinds = world.shares.size
    habit = np.log(np.asarray(world.acts, dtype=dtype))
    odds = np.asarray(world.execution, dtype=dtype)
    return State(
        np.broadcast_to(habit, (*shape, habit.shape[-1])).copy(),
        np.broadcast_to(np.asarray(world.skill, dtype=dtype), (*shape, kinds)).copy(),
        np.broadcast_to(np.log(odds / (1 - odds)), (*shape, kinds)).copy(),
    )


def mean_field(world: Habits, correct: ArrayLike, wrong: ArrayLike, steps: int) -> Any:
    """Success of each kind under expected steps.

    Works for complex numbers too, so that one call with an imaginary perturbation a row gives exact derivatives in all
    parameters and in all entries of a table.

    Parameters
    ----------
    world
        Parameters, broadcast against the leading shape of the tables.
    correct, wrong
        Shape (..., M+1). Advantage of a correct and of a wrong response by the number correct.
    steps
        Updates.

    Returns
    -------
    ndarray
        Shape (steps + 1, ..., J). ρ_j before each update and after the last.
    """
    correct, wrong = np.asarray(correct), np.asarray(wrong)
    values = (world.acts, world.execution, world.skill, world.step_size, world.skill_rate, world.execution_rate)
    dtype = np.result_type(correct, wrong, *values, np.float64)
    columns = [np.asarray(value).shape[:-1] for value in values if np.ndim(value) > 1]
    shape = np.broadcast_shapes(correct.shape[:-1], *columns)
    state = start(world, shape, dtype)
    size, q = correct.shape[-1] - 1, world.shares
    held = 0.0
    path = np.empty((steps + 1, *shape, q.size), dtype=dtype)
    at = np.arange(q.size)
    share = np.arange(size + 1) / size
    moment = share * correct**2 + (1 - share) * wrong**2
    for step in range(steps + 1):
        policy, executed = state.policy(), state.executed()
        own = policy[..., at, at]
        rho = own * executed
        path[step] = rho
        if step == steps:
            break
        groups, others = _binomial(rho, size), _binomial(rho, size - 1)
        speed = (others * (correct[..., None, 1:] - wrong[..., None, :-1])).sum(axis=-1)
        push = q * rho * speed
        if world.normalised:
            held = MEMORY * held + (1 - MEMORY) * (q * (groups * moment[..., None, :]).sum(axis=-1)).sum(axis=-1)
            push = push / np.sqrt(held / (1 - MEMORY ** (step + 1)) + TINY)[..., None]
        habit = -(push[..., None] * policy).sum(axis=-2)
        habit[..., at] += push
        state.habit = state.habit + world.step_size * habit
        state.skill = state.skill + world.step_size * world.skill_rate * push * (1 - own)
        state.execution = state.execution + world.step_size * world.execution_rate * push * (1 - executed)
    return path


def sample(
    world: Habits,
    correct: ArrayLike,
    wrong: ArrayLike,
    steps: int,
    rng: np.random.Generator,
    *,
    replicas: int = 64,
    prompts: int = 16,
) -> Real:
    """Success of each kind when every response is drawn, for independent replicas at once.

    The random numbers of a step do not depend on the table, so that tables compared with equal generators are paired.

    Parameters
    ----------
    world
        Parameters; those with a leading axis have one row a replica.
    correct, wrong
        Shape (M+1,). Advantage of a correct and of a wrong response by the number correct.
    steps
        Updates.
    rng
        Asked for the same amount of numbers whatever the table.
    replicas
        R.
    prompts
        Prompts of an update, each of a kind drawn by `shares`, with M responses each.

    Returns
    -------
    ndarray
        Shape (steps + 1, R, J).
    """
    correct, wrong = np.asarray(correct, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    size, kinds = correct.size - 1, world.shares.size
    state = start(world, (replicas,))
    edges = np.cumsum(world.shares)[:-1]
    row = np.arange(replicas)[:, None]
    path = np.empty((steps + 1, replicas, kinds))
    held = np.zeros(replicas)
    scale = 1 / (prompts * size)
    of_kind = np.eye(kinds)
    for step in range(steps + 1):
        policy, executed = state.policy(), state.executed()
        own = policy[:, np.arange(kinds), np.arange(kinds)]
        path[step] = own * executed
        if step == steps:
            break
        kind = np.searchsorted(edges, rng.random((replicas, prompts)))
        drawn, luck = rng.random((2, replicas, prompts, size))
        below = np.cumsum(policy, axis=-1)[row, kind, :-1]
        act = (drawn[..., None] >= below[..., None, :]).sum(axis=-1)
        chosen = act == kind[..., None]
        right = chosen & (luck < executed[row, kind][..., None])
        count = right.sum(axis=-1)[..., None]
        advantage = np.where(right, correct[count], wrong[count])
        if world.normalised:
            held = MEMORY * held + (1 - MEMORY) * (advantage**2).mean(axis=(1, 2))
            advantage = advantage / np.sqrt(held / (1 - MEMORY ** (step + 1)) + TINY)[:, None, None]
        total = advantage.sum(axis=-1)
        acts = policy.shape[-1]
        flat = (row[..., None] * acts + act).ravel()
        habit = np.bincount(flat, advantage.ravel(), replicas * acts).reshape(replicas, acts)
        habit -= np.einsum("rn,rna->ra", total, policy[row, kind])
        on = np.where(chosen, advantage, 0).sum(axis=-1)
        onto = of_kind[kind]  # (R, N, J)
        skill = np.einsum("rn,rnj->rj", on - total * own[row, kind], onto)
        done = np.where(right, advantage, 0).sum(axis=-1) - on * executed[row, kind]
        execution = np.einsum("rn,rnj->rj", done, onto)
        state.habit += world.step_size * scale * habit
        state.skill += world.step_size * world.skill_rate * scale * skill
        state.execution += world.step_size * world.execution_rate * scale * execution
    return path


def lost(path: ArrayLike) -> Any:
    """How many kinds are lost at the end: shape (...) from (steps + 1, ..., J)."""
    return (np.asarray(path)[-1].real < LOST).sum(axis=-1)


def _binomial(rho: Any, trials: int) -> Any:
    """Bin(k; n, ρ), shape (..., n+1), of real or complex ρ (`theory.finite_group.binomial` is for real ones)."""
    k = np.arange(trials + 1)
    return comb(trials, k) * rho[..., None] ** k * (1 - rho[..., None]) ** (trials - k)
