"""The group kind: time-optimal tables for a finite group size, a convex program in at most 2M numbers.

Unknown are the advantages y ≥ 0 of the table (centred: the M-1 weights; uncentred: A⁺_1..A⁺_M and -A⁻_0..-A⁻_{M-1}).
The expected speed u = S y is linear in them (`theory.finite_group`), the time T = ∫ c/(κu) dρ is convex and of degree
-1, and so are, with degree 1, both budgets

    drift                V = ∫ u dρ                    the curve's ∫ω dρ: no table beats the curve's T*
    advantage-variance   V = ∫ E[A²]/(κu) dρ           pays for sampling noise too; equals ∫ω dρ as M → ∞

so minimising T at V = B is minimising T + V over a cone y = R v, v ≥ 0, whose rays R say what shape a table may have,
and rescaling, which Newton's method does. Certificate: with G = -∇T and g = ∇V along the rays, Cauchy-Schwarz and
convexity give, for every table y' of that shape, T(y') V(y') ≥ T(y)²/max_k(G_k/g_k); nothing about the method enters.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, lapack

from theory.clocks import made_for
from theory.crowding import MEASURES, Measure
from theory.finite_group import STEP_MODELS, StepModel, binomial, second_moment, speed, weight_speeds
from theory.quadrature import EPS
from weightopt.answer import CONVEX, FEASIBLE, Answer, Promise, TimeCertificate, promised
from weightopt.curves.interior_point import reach
from weightopt.curves.problem import Problem, number, read_range
from weightopt.errors import ProblemError
from weightopt.fields import read_fields
from weightopt.groups.limit import (
    LimitPrices,
    added_savings,
    default_range,
    excess,
    largest_exchange,
    least_limit,
    least_time_limited,
    read_prices,
)
from weightopt.table import TableError, WeightTable
from weightopt.tabulate import loop_stated, tabulate_advantages

BudgetKind = Literal["drift", "advantage-variance"]
Shape = Literal["free", "convex", "nonincreasing"]
BUDGET_KINDS: tuple[BudgetKind, ...] = ("drift", "advantage-variance")
SHAPES: tuple[Shape, ...] = ("free", "convex", "nonincreasing")
LARGEST_GROUP = 256
# Solution of a symmetric positive definite system; scipy's stubs do not know it.
_solve = lapack.dposv  # pyright: ignore[reportAttributeAccessIssue]
METHOD = "interior point (Newton) on the table"
LIMIT_METHOD = "interior point (Newton) and exchange on the table"
# Fields that came after the first files, with the value that a file without them means.
ROOM = 0.1  # of a crowding limit above the least that groups can hold; closer to it an answer may stay uncertified
LATER_LIMITS: dict[str, Any] = {"crowding": None, "crowding_range": None, "crowding_measure": "gradient"}
CONVEX_METHOD = "convex program on the table (Clarabel)"
SHAPE_ROUNDING = 1e-12  # of sums of rays, relative to the largest weight

TOLERANCE = 1e-8
PROMISE = Promise(TOLERANCE)
AIM = 1e-11  # the gap at which Newton's method stops, well inside what is promised
TRACE = 1e-9
# Rays with less drift than this share of the largest are left out: groups that never occur between start and target,
# where no weight below 1e100 could be told from 0.
UNSEEN = 1e-150
HUGE = 1e3  # times the median of the positive weights, from where a table is dangerous outside its range
FIRST_CENTRING, CENTRING = 0.1, 0.01  # how much of the barrier a step leaves: the first, and at least
ITERATIONS = 200  # after which a gap within what is promised is enough
STEP_BACK = 0.99  # share of the way to the boundary that a step may go


@dataclasses.dataclass(frozen=True)
class GroupProblem:
    """Which table of a group of M responses takes ρ from start to target in least expected time?

    Parameters
    ----------
    curve
        Start, target, clock, mobility and budget; without bounds or monotonicity, which shape a curve.
    group_size
        M, from 2 to 256.
    step_model
        How a group moves the policy, see `theory.finite_group`. "ratio" or "outcome".
    budget_kind
        What the budget counts, see this module. "drift" or "advantage-variance".
    shape
        What the weights must be as a function of K. The free optimum is sparse and jagged; convex is what one would
        train with and cost at most 2.4 % in what was tried. "convex", "free" or "nonincreasing".
    centred
        Whether advantages are a weight times the centred reward. If not, A⁺_K ≥ 0 ≥ A⁻_K are free, the push on
        all-wrong groups among them; needs the advantage-variance budget, since the drift does not tell the two apart,
        and the free shape.
    crowding
        κ: the elasticity of φ(ρ) = ρu(ρ) must not exceed it on a range (`theory.crowding`); the push on all-wrong
        groups is then solved for too. Needs the ratio step. From above what a table can hold there, to M; None: no
        limit.
    crowding_range
        The range, two success probabilities; None: from 1/M to 1/2, or what of that lies between start and target.
    crowding_measure
        Whose elasticity: that of the mean gradient, φ = ρu, or that of the mean push on a wrong response, E[-A⁻_K],
        which differ where all-wrong groups are pushed. "gradient" or "push".

    Raises
    ------
    ProblemError
        If a parameter is out of range.

    Examples
    --------
    >>> from weightopt import GroupProblem, Problem, solve
    >>> problem = Problem(start=0.01, target=0.9, clock="effective")
    >>> answer = solve(GroupProblem(problem, group_size=8, budget_kind="drift"))
    >>> f"{answer.time:.4f}, all right in a group: advantage {answer.advantage_correct[8]:g}"
    '34.4177, all right in a group: advantage 0'
    """

    kind: ClassVar[str] = "group"
    curve: Problem
    group_size: int
    step_model: StepModel = "ratio"
    budget_kind: BudgetKind = "advantage-variance"
    shape: Shape = "convex"
    centred: bool = True
    crowding: float | None = None
    crowding_range: tuple[float, float] | None = None
    crowding_measure: Measure = "gradient"

    def __post_init__(self) -> None:
        size = self.group_size
        if not isinstance(size, int) or isinstance(size, bool) or not 2 <= size <= LARGEST_GROUP:
            raise ProblemError("group_size", f"must be a whole number from 2 to {LARGEST_GROUP}, got {size!r}")
        for field, choices in (("step_model", STEP_MODELS), ("budget_kind", BUDGET_KINDS), ("shape", SHAPES)):
            if getattr(self, field) not in choices:
                raise ProblemError(
                    field, f"must be one of {', '.join(choices)}, got {str(getattr(self, field))[:40]!r}"
                )
        if not isinstance(self.centred, bool):
            raise ProblemError("centred", "must be true or false")
        if not self.centred and (self.budget_kind != "advantage-variance" or self.shape != "free"):
            raise ProblemError("centred", "can be false only with the advantage-variance budget and the free shape")
        if not self.curve.only_budget:
            raise ProblemError("curve", "must have no constraint but the budget: others shape a curve, not a table")
        self._check_crowding()

    def _check_crowding(self) -> None:
        if self.crowding_measure not in MEASURES:
            raise ProblemError(
                "crowding_measure", f"must be one of {', '.join(MEASURES)}, got {str(self.crowding_measure)[:40]!r}"
            )
        if self.crowding is None:
            for field, default in (("crowding_range", None), ("crowding_measure", "gradient")):
                if getattr(self, field) != default:
                    raise ProblemError(field, "needs --crowding, the limit that it is about")
            return
        if self.step_model != "ratio":
            raise ProblemError("crowding", "needs the ratio step, which is the direction of the gradient")
        object.__setattr__(self, "crowding", number("crowding", self.crowding))
        if self.crowding_range is not None:
            object.__setattr__(self, "crowding_range", read_range(self.crowding_range, 0, 1))
        low, high = self.limited_on
        if not low < high:
            raise ProblemError(
                "crowding_range",
                f"must be given: between 1/M and 1/2 there is nothing from start to target, got {low:g} {high:g}",
            )
        least = least_limit(self.crowding_measure, self.group_size, low)
        if not least < self.crowding <= self.group_size:
            wanted = self.crowding + (self.crowding_measure == "push") - ROOM
            way_out = ""
            if self.crowding <= least and wanted < 1:
                nearest = (1 - wanted) / (self.group_size - wanted)  # where `least_limit` is that much below
                ways = [f"the low end of --crowding-range to {nearest:.3g}"] if nearest < high else []
                way_out = f": raise it to {least + ROOM:.3g}, " + ", ".join([*ways, "or the group size"])
            raise ProblemError(
                "crowding",
                f"must be above {least:.6g}, the least that groups of {self.group_size} can hold from {low:g} on, and "
                f"at most {self.group_size}, from where it asks nothing; got {self.crowding:g}{way_out}",
            )

    @property
    def limited_on(self) -> tuple[float, float]:
        """The range of the crowding limit."""
        return self.crowding_range or default_range(self.curve.start, self.curve.target, self.group_size)

    def starting_at(self, start: float) -> GroupProblem:
        """The same problem from another start."""
        return dataclasses.replace(self, curve=self.curve.starting_at(start))

    @property
    def budget_in_words(self) -> str:
        """The budget and what it counts."""
        return f"budget {self.curve.budget:g} ({self.budget_kind})"

    @property
    def about(self) -> dict[str, str]:
        """The clock, the loop that pays it, the mobility, and what the table has to be."""
        line = made_for(self.curve.clock, self.group_size)[1]
        return {"clock": self.curve.movement, "made for": line, "table": self.design_in_words}

    @property
    def design_in_words(self) -> str:
        """Shape of the table and step model."""
        words = f"{self.shape if self.centred else 'uncentred'}; step model {self.step_model}"
        if self.crowding is None:
            return words
        low, high = self.limited_on
        whose = "φ = ρu" if self.crowding_measure == "gradient" else "the push on wrong responses"
        return f"{words}; elasticity of {whose} at most {self.crowding:g} from {low:.4g} to {high:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """The problem as JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "curve"}
        if self.crowding_range is not None:
            fields["crowding_range"] = list(self.crowding_range)
        return {**self.curve.to_dict(), **fields, "kind": self.kind}

    @classmethod
    def from_dict(cls, values: Any) -> GroupProblem:
        """The problem that `to_dict` described; raises `ProblemError` as the constructor does."""
        own = [field.name for field in dataclasses.fields(cls) if field.name != "curve"]
        given = {key: value for key, value in values.items() if key in ("kind", *own)}
        fields = read_fields(cls.kind, given, own, LATER_LIMITS)
        curve = {key: value for key, value in values.items() if key not in ("kind", *own)}
        return cls(Problem.from_dict(curve), **fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advantages:
    """A table of advantages for groups of M.

    Attributes
    ----------
    weight
        Length M-1. A⁺_K - A⁻_K for K = 1..M-1; with centred advantages the prompt weight ω_K.
    advantage_correct, advantage_wrong
        Length M+1. By the number correct.
    """

    weight: tuple[float, ...]
    advantage_correct: tuple[float, ...]
    advantage_wrong: tuple[float, ...]

    def advantages_table(
        self,
        answer: Answer,
        group: GroupProblem,
        label: str,
        group_size: int | None,
        given: tuple[float | None, float | None],
        **more: Any,
    ) -> WeightTable:
        """These advantages as a table of an answer; `more` goes into its certificate."""
        if group_size not in (None, group.group_size):
            raise TableError(f"the answer is for groups of {group.group_size}, not of {group_size!r}; solve it again.")
        if not (group.centred and group.crowding is None) and given != (None, None):
            raise TableError("the advantages of this table are all solved for; state none with --all-wrong.")
        return tabulate_advantages(
            self.weight,
            self.advantage_correct,
            self.advantage_wrong,
            given=given,
            rule="solved",
            name="optimal",
            label=f"{label}, groups of {group.group_size}",
            problem=answer.problem.to_dict(),
            certificate={**answer.stated, **more},
            provenance={
                "method": answer.method,
                "weighting": "optimal",
                **loop_stated(group.curve.clock, group.group_size),
            },
        )

    def advantage_numbers(self) -> dict[str, Any]:
        """The table as JSON values."""
        size = len(self.weight) + 1
        return {"rho": [k / size for k in range(1, size)], "group_size": size, **_advantages(self)}


def _advantages(found: Advantages) -> dict[str, Any]:
    return {field.name: list(getattr(found, field.name)) for field in dataclasses.fields(Advantages)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupAnswer(Answer, Advantages):
    """Answer to a group problem: an `Answer` with its `Advantages`."""

    problem: GroupProblem
    certificate: TimeCertificate
    prices: LimitPrices | None = None

    @property
    def time(self) -> float:
        """T, in units of the clock."""
        return self.certificate.time

    def table(
        self, group_size: int | None = None, all_wrong: float | None = None, all_right: float | None = None
    ) -> WeightTable:
        """The table; see `Answer.table`. The default advantages in uniform groups are 0 for a centred table."""
        more = {} if self.prices is None else {"prices": self.prices.listed()}
        label, given = self.problem.curve.label, (all_wrong, all_right)
        if self.problem.crowding is not None:
            label += f", crowding at most {self.problem.crowding:g}"
        return self.advantages_table(self, self.problem, label, group_size, given, **more)

    def headline(self) -> str:
        """What was asked, in one line."""
        problem, curve = self.problem, self.problem.curve
        return (
            f"Time-optimal table for groups of {problem.group_size}, success {curve.start:g} → {curve.target:g}, "
            f"{problem.budget_in_words}"
        )

    def about(self) -> dict[str, str]:
        """The clock, the mobility, and what the table had to be."""
        return self.problem.about

    def facts(self) -> dict[str, str]:
        """As every answer's, and a warning where the model exploits groups that all but never occur."""
        positive = sorted(weight for weight in self.weight if weight > 0)
        largest = positive[-1]
        if largest <= HUGE * positive[len(positive) // 2]:
            return super().facts()
        where = f"{self.weight.index(largest) + 1}/{self.problem.group_size} correct"
        text = f"weight {largest:.2g} at {where}: do not train prompts outside start to target with it"
        return {**super().facts(), "warning": text}

    def numbers(self) -> dict[str, Any]:
        """The table as JSON values."""
        return self.advantage_numbers()


class Design(NamedTuple):
    """A group problem on quadrature nodes: r nodes, n advantages, k rays."""

    rho: NDArray[np.float64]  # (r,)
    measure: NDArray[np.float64]  # (r,) dm = p dρ
    cost: NDArray[np.float64]  # (r,) f dm = c/κ dρ
    per_time: NDArray[np.float64]  # (r,) p dρ/κ
    speeds: NDArray[np.float64]  # (r, n): u = speeds @ y
    squares: NDArray[np.float64] | None  # (r, n): E[A²] = squares @ y²; None for the drift budget
    rays: NDArray[np.float64]  # (n, k): y = rays @ v
    along: NDArray[np.float64]  # (r, k) speeds @ rays
    drift: NDArray[np.float64]  # (k,) measure @ along

    def scaled(self, unit: NDArray[np.float64]) -> Design:
        """The same with rays in other units, shape (k,)."""
        return self._replace(rays=self.rays * unit, along=self.along * unit, drift=self.drift * unit)

    def at(self, v: NDArray[np.float64]) -> State:
        """`evaluate` along the rays."""
        return evaluate(self, self.rays @ v)

    def bent(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """`curvature` along the rays."""
        y = self.rays @ v
        u = self.speeds @ y
        return curvature(self, y, u, self.cost / u / u)


class State(NamedTuple):
    """Speed, time and budget of a table, and the derivatives of the two along the rays."""

    u: NDArray[np.float64]  # (r,)
    saved: NDArray[np.float64]  # (r,) f dm/u², what time falls by
    time: float
    spent: float
    saving: NDArray[np.float64]  # (k,) -∂T/∂v
    price: NDArray[np.float64]  # (k,) ∂V/∂v
    charged: NDArray[np.float64] | float  # (k,) what is subtracted in ∂V/∂v


def solve(problem: GroupProblem, *, throw: bool = True) -> GroupAnswer:
    """The time-optimal table, with its certificate.

    Parameters
    ----------
    problem
        Centred or uncentred, any shape.
    throw
        Raise when the certified gap exceeds 1e-8; otherwise the status says so.

    Raises
    ------
    SolverError
        See `throw`.
    """
    designs = _both_designs(problem)
    design = designs[0]
    prices = None
    if problem.crowding is None:
        v = least_time_rays(design)
    else:
        v, prices = least_time_limited(problem, design)
    # An interior point leaves a trace of every ray, and on groups that all but never occur the trace can be a huge
    # number. Where a ray adds nothing to the drift the table is as good without it, and safer.
    share = v * design.drift
    candidates = []
    for rays in (np.where(share < TRACE * share.sum(), 0.0, v), v):
        if candidates and _good(candidates[0][1]):
            break
        table = design.rays @ rays
        scale = problem.curve.budget / evaluate(design, table).spent
        table *= scale
        # T falls with the scale, and what a change of the table saves of it with the square.
        scaled = None if prices is None else prices._replace(price=prices.price / scale**2)
        candidates.append((table, _certify(problem, designs, table, scaled), scaled))
    advantages, certificate, prices = next((c for c in candidates if _good(c[1])), candidates[-1])
    answer = _answer(problem, advantages, certificate, METHOD if prices is None else LIMIT_METHOD, prices=prices)
    answer.certified(throw, _close_to_least(problem))
    return answer


def _close_to_least(problem: GroupProblem) -> str:
    """What is likely to blame where a crowding limit has next to no room."""
    if problem.crowding is None:
        return ""
    least = least_limit(problem.crowding_measure, problem.group_size, problem.limited_on[0])
    if problem.crowding - least >= ROOM:
        return ""
    return f"; the crowding limit is within {problem.crowding - least:.2g} of the least that these groups can hold"


def _good(certificate: TimeCertificate) -> bool:
    """Whether a certificate has room to spare."""
    return certificate.gap <= TOLERANCE / 10 and certificate.violation <= FEASIBLE / 10


def answered(
    problem: GroupProblem,
    advantages: NDArray[np.float64],
    method: str,
    promise: Promise = PROMISE,
    prices: LimitPrices | None = None,
) -> GroupAnswer:
    """The answer that advantages are, whoever found them, certified from problem and advantages, their shape too."""
    certificate = certify_group(problem, advantages, prices)
    worst = max(certificate.violation, shape_violation(problem, advantages))
    return _answer(problem, advantages, dataclasses.replace(certificate, violation=worst), method, promise, prices)


def _answer(
    problem: GroupProblem,
    advantages: NDArray[np.float64],
    certificate: TimeCertificate,
    method: str,
    promise: Promise = PROMISE,
    prices: LimitPrices | None = None,
) -> GroupAnswer:
    weight, correct, wrong = unpack(problem, advantages)
    return GroupAnswer(
        problem=problem,
        certificate=certificate,
        method=method,
        promise=promise,
        weight=weight,
        advantage_correct=correct,
        advantage_wrong=wrong,
        prices=prices,
    )


def certify(problem: GroupProblem, table: WeightTable) -> GroupAnswer:
    """The answer that a table's advantages are, certified from them and the problem alone; nothing is solved.

    Raises
    ------
    TableError
        If the table has another group size, or no advantage at all, or a limited one no prices.
    """
    own = METHOD if problem.crowding is None else LIMIT_METHOD
    method, promise = promised({own: PROMISE, CONVEX_METHOD: CONVEX}, table)
    prices = None
    if problem.crowding is not None:
        try:
            prices = read_prices(problem, (table.certificate or {}).get("prices"))
        except ValueError as error:
            raise TableError(f"key 'certificate.prices' {error}; build the table again.") from None
    return answered(problem, packed(problem, table), method, promise, prices)


def packed(problem: GroupProblem, table: WeightTable) -> NDArray[np.float64]:
    """The unknowns y of this module that a table holds; the inverse of `unpack`."""
    if table.group_size != problem.group_size or table.advantage_correct is None or table.advantage_wrong is None:
        raise TableError(f"key 'group_size' must be the problem's, {problem.group_size}; build the table again.")
    y = np.array(table.weight)
    if not problem.centred:
        y = np.concatenate([table.advantage_correct[1:], -np.array(table.advantage_wrong[:-1])])
    elif problem.crowding is not None:
        y = np.append(0.0 - table.advantage_wrong[0], y)
    if not np.max(y) > 0:
        raise TableError("key 'weight' must have a positive entry; build the table again.")
    return y


def shape_violation(problem: GroupProblem, y: NDArray[np.float64]) -> float:
    """How far advantages are from the shape that was asked for, relative to the largest; 0 is not at all."""
    y = y[1:] if problem.crowding is not None and problem.centred else y
    if problem.shape == "free" or y.size < 2:
        return 0.0
    beyond = np.diff(y) if problem.shape == "nonincreasing" else -np.diff(y, 2)
    worst = float(np.max(beyond, initial=0.0)) / float(np.max(y))
    return worst if worst > SHAPE_ROUNDING else 0.0


def certify_group(
    problem: GroupProblem, advantages: NDArray[np.float64], prices: LimitPrices | None = None
) -> TimeCertificate:
    """Certify any table against a group problem.

    Parameters
    ----------
    problem
        Its clock, budget and shape count.
    advantages
        The unknowns y of this module: shape (M-1,) centred, (M,) with a crowding limit, (2M,) uncentred; non-negative,
        some positive.
    prices
        Of a crowding limit: without them the bound is that without the limit.

    Returns
    -------
    TimeCertificate
        ``violation`` is the largest negative entry relative to the largest; the shape is not checked, it enters
        through the lower bound, which holds for tables of that shape.
    """
    return _certify(problem, _both_designs(problem), advantages, prices)


def _both_designs(problem: GroupProblem) -> tuple[Design, Design]:
    """The problem on panels, and on the halves of them."""
    return design_of(problem), design_of(problem, pieces=2)


@np.errstate(all="ignore")
def _certify(
    problem: GroupProblem,
    designs: tuple[Design, Design],
    advantages: NDArray[np.float64],
    prices: LimitPrices | None = None,
) -> TimeCertificate:
    budget, found = problem.curve.budget, []
    noise = rounding(problem)
    for design in designs:
        state = evaluate(design, advantages)
        # Prices of a quadratic budget are differences: their rounding is that of what they are the difference of.
        price = state.price - noise * (np.abs(state.price) + 2 * state.charged)
        saving = state.saving
        if prices is not None:
            added, size = added_savings(problem, design, prices)
            saving = saving + added + noise * size
        worst = largest_exchange(saving, price)
        found.append((state.time * max(1.0, state.spent / budget), state.time**2 / worst / budget, state.spent, worst))
    (coarse_time, coarse_bound, coarse_spent, _), (time, bound, spent, worst) = found
    time_error = 2 * abs(coarse_time - time) + time * (2 * abs(coarse_spent - spent) / budget + 2 * noise)
    bound_error = 2 * abs(coarse_bound - bound) + 4 * noise * bound
    lower_bound = max(0.0, bound - bound_error)
    apart = abs(time - bound) + time_error + bound_error
    return TimeCertificate(
        time=time,
        lower_bound=lower_bound,
        gap=apart / lower_bound if lower_bound > 0 else float("inf"),
        quadrature_error=max(time_error / time, bound_error / bound if bound > 0 else 0.0),
        multiplier=worst,
        budget_error=spent / budget - 1,
        violation=max(
            0.0,
            -float(np.min(advantages)) / float(np.max(advantages)),
            0.0 if problem.crowding is None else excess(problem, advantages),
        ),
    )


def rounding(problem: GroupProblem) -> float:
    """Relative error of a probability of a group and of sums of them: that of the logarithms they are made from."""
    curve, size = problem.curve, problem.group_size
    largest = math.lgamma(size + 1) + size * max(-math.log(curve.start), -math.log1p(-curve.target))
    return curve.rounding + EPS * (size + largest)


def time_and_budget(
    problem: GroupProblem, correct: NDArray[np.float64], wrong: NDArray[np.float64]
) -> tuple[float, float]:
    """Time T and budget V of any table of advantages: centred or not, of any shape, with any rule for uniform groups.

    Parameters
    ----------
    problem
        What to measure by; its shape does not matter.
    correct, wrong
        Shape (M+1,). Advantage of a correct and of a wrong response by the number correct.

    Returns
    -------
    time, budget : float
        T·V does not depend on the table's scale. Both ∞ where the table's drift is not positive all the way.
    """
    curve = problem.curve
    points = curve.panels(width=panel_width(problem), pieces=2)
    rho, measure = points.rho.ravel(), points.weight.ravel()
    u = speed(rho, correct, wrong, problem.step_model)
    if not np.all(u > 0):
        return np.inf, np.inf
    cost = measure * curve.cost_density(rho)
    time = float(np.sum(cost / u))
    if problem.budget_kind == "drift":
        return time, float(measure @ u)
    return time, float(np.sum(_budget_per_time(curve, rho, cost) * second_moment(rho, correct, wrong) / u))


def panel_width(problem: GroupProblem) -> float:
    """The weight of one K is a bump of width 2/√M in log-odds at its narrowest; a panel has 16 nodes."""
    return min(1.0, 4 / np.sqrt(problem.group_size))


def design_of(problem: GroupProblem, breaks: tuple[float, ...] = (), pieces: int = 1) -> Design:
    """The problem on panels split at `breaks`, each cut into `pieces`."""
    curve, size = problem.curve, problem.group_size
    points = curve.panels(breaks, panel_width(problem), pieces=pieces)
    rho, measure = points.rho.ravel(), points.weight.ravel()
    k = np.arange(size + 1) / size
    squares = None
    if problem.centred:
        speeds = weight_speeds(rho, size, problem.step_model)
        if problem.budget_kind == "advantage-variance":
            squares = (binomial(rho, size) * k * (1 - k))[:, 1:-1]
        if problem.crowding is not None:
            speeds = np.hstack([binomial(rho, size - 1)[:, :1], speeds])
            squares = None if squares is None else np.hstack([binomial(rho, size)[:, :1], squares])
    else:
        groups = binomial(rho, size)
        of_others = binomial(rho, size - 1)
        correct, wrong = (of_others, of_others) if problem.step_model == "ratio" else (groups[:, 1:], groups[:, :-1])
        speeds = np.hstack([correct, wrong])
        squares = np.hstack([(groups * k)[:, 1:], (groups * (1 - k))[:, :-1]])
    pushed = int(problem.centred and problem.crowding is not None)  # the push on all-wrong groups has no shape
    rays = _rays(problem.shape, speeds.shape[1] - pushed)
    if pushed:
        rays = np.asarray(block_diag(1.0, rays), dtype=np.float64)
    along = (rays.T @ speeds.T).T  # columns are read more often than rows
    drift = measure @ along
    seen = drift > UNSEEN * drift.max()
    if not seen.all():
        rays, along, drift = rays[:, seen], along[:, seen], drift[seen]
    cost = measure * curve.cost_density(rho)
    return Design(
        rho=rho,
        measure=measure,
        cost=cost,
        per_time=_budget_per_time(curve, rho, cost),
        speeds=speeds,
        squares=squares,
        rays=rays,
        along=along,
        drift=drift,
    )


def _budget_per_time(curve: Problem, rho: NDArray[np.float64], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """p dm/κ from the cost c/κ dm: what ∫E[A²]/u is taken in, p being 1 without a budget density."""
    spent = cost if curve.budget_density is None else cost * curve.budget_density(rho)
    return spent / curve.clock(rho)


@functools.lru_cache(maxsize=8)
def _rays(shape: Shape, count: int) -> NDArray[np.float64]:
    """Extreme rays of the cone of admissible tables, as columns; read-only."""
    if shape == "free" or count == 1:
        rays = np.eye(count)
    elif shape == "nonincreasing":
        rays = np.triu(np.ones((count, count)))
    else:
        # A convex non-negative sequence is a sum of hinges: those that fall to 0 and those that rise from 0.
        k = np.arange(float(count))
        falling = np.maximum(k[1:] - k[:, None], 0)
        rising = np.maximum(k[:, None] - k[:-1], 0)
        rays = np.hstack([falling, rising])
    rays.flags.writeable = False
    return rays


def evaluate(design: Design, y: NDArray[np.float64]) -> State:
    """Time and budget of the advantages y, shape (n,), non-negative."""
    return _state(design, design.speeds @ y, y)


def _state(design: Design, u: NDArray[np.float64], y: NDArray[np.float64]) -> State:
    """`evaluate` where the speed is known; the drift budget does without y."""
    slowness = design.cost / u
    saved = slowness / u
    time, saving = float(slowness.sum()), saved @ design.along
    if design.squares is None:
        return State(u, saved, time, float(design.measure @ u), saving, design.drift, 0.0)
    per_time = design.per_time / u
    moment = design.squares @ y**2
    charged = (per_time * moment / u) @ design.along
    price = (2 * y * (per_time @ design.squares)) @ design.rays - charged
    return State(u, saved, time, float(per_time @ moment), saving, price, charged)


def curvature(
    design: Design, y: NDArray[np.float64], u: NDArray[np.float64], saved: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Second derivative of T + V along the rays, shape (k, k), at advantages y whose `State` has u and saved."""
    # Along the rays, which may be scaled: the square of what a rare group adds is below the smallest float.
    along = design.along
    if design.squares is None:
        return (along.T * (2 * saved / u)) @ along
    per_time = design.per_time / u
    bend = 2 * (saved + per_time * (design.squares @ y**2) / u) / u
    cross = 2 * (((design.squares * y) @ design.rays).T * (per_time / u)) @ along
    own = (design.rays.T * (2 * per_time @ design.squares)) @ design.rays
    return (along.T * bend) @ along - cross - cross.T + own


@np.errstate(all="ignore")  # an iterate that overflows proves nothing, and the certificate will say so
def least_time_rays(design: Design) -> NDArray[np.float64]:
    """Minimise T + V over v ≥ 0 by a primal-dual interior-point method; v with a gap near `AIM`, shape (k,).

    Where rounding stops the method it is the best v so far.
    """
    drift = design.drift
    # Groups with K correct may be so rare that floating point hardly sees them, and yet the certificate asks for the
    # right advantage in each. So every ray gets a unit of its own, in which the answer is of order one (a linear budget
    # prices it by its drift, a quadratic one by its size), and a barrier as strong as its share of the drift.
    unit = 1 / drift if design.squares is None else 1 / (drift.sum() * np.max(design.rays, axis=0))
    design = design.scaled(unit)
    share = drift * unit
    x = np.full(unit.size, 1 / unit.size)
    z = share.copy()
    # A quadratic budget bends: steps that leave too little of the barrier then run into the boundary.
    least = CENTRING if design.squares is None else FIRST_CENTRING
    best, best_gap, centring = x, np.inf, FIRST_CENTRING
    # The rarest groups settle first and the others one after the other, which takes a few steps for each.
    for step in range(ITERATIONS + 8 * unit.size):
        if step >= ITERATIONS and best_gap <= TOLERANCE / 10:
            break
        y = x if design.squares is None else design.rays @ x
        state = _state(design, design.along @ x, y)
        if math.isinf(best_gap):
            # T and V have degrees -1 and 1: along the ray through x, T + V is least where they are equal.
            factor = math.sqrt(state.time / state.spent)
            x, y = x * factor, y * factor
            state = _state(design, design.along @ x, y)
        if state.price.min() > 0:
            gap = float((state.saving / state.price).max()) * state.spent / state.time - 1
            if gap < best_gap:
                best, best_gap = x, gap
            if gap < AIM:
                break
        gradient = state.price - state.saving
        barrier = (centring * float((x * z / share).sum()) / x.size) * share / x
        stiffness = z / x
        matrix = curvature(design, y, state.u, state.saved)
        diagonal = matrix.reshape(-1)[:: x.size + 1]
        diagonal += stiffness
        _, dx, info = _solve(matrix.T, barrier - gradient, lower=True, overwrite_a=True, overwrite_b=True)
        if info:  # rounding has made the matrix indefinite
            break
        dz = barrier - z - stiffness * dx
        primal, dual = reach(x, dx, STEP_BACK), reach(z, dz, STEP_BACK)
        x, z = x + primal * dx, z + dual * dz
        # The longer the last step was, the less of the barrier the next one needs to leave.
        centring = max((1 - min(primal, dual)) ** 2, least)
    return unit * best


def unpack(
    problem: GroupProblem, y: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Weights, and advantages of correct and wrong responses by the number correct."""
    size = problem.group_size
    if problem.centred:
        rho = np.arange(1, size) / size
        push, y = (0.0, y) if problem.crowding is None else (float(y[0]), y[1:])
        correct, wrong = np.append(0.0, y * (1 - rho)), np.append(0.0 - push, 0.0 - y * rho)
        return tuple(y.tolist()), (*correct.tolist(), 0.0), (*wrong.tolist(), 0.0)
    correct, wrong = np.append(0.0, y[:size]), np.append(-y[size:], 0.0)
    return tuple((correct - wrong)[1:-1].tolist()), tuple(correct.tolist()), tuple(wrong.tolist())
