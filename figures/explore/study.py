"""The numbers of the page: the answer with its certificate, the named weightings beside it, and how success rises."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_simpson

from figures import style
from figures.explore.question import Question
from theory import catalogue
from theory.finite_group import speed
from theory.quadrature import log_odds
from weightopt.answer import Answer
from weightopt.catalogue_tables import catalogue_table
from weightopt.comparison import GROUP_NAMES, NAMES, compare_curves, compare_groups
from weightopt.curves.problem import Problem
from weightopt.groups.group import GroupProblem, time_and_budget
from weightopt.kinds import solve
from weightopt.table import WeightTable
from weightopt.tabulate import even_grid

POINTS = 241  # of a line on the page
OWN = "answer"  # the name of what is asked for, among the named weightings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One weighting as the page draws it, scaled to the budget.

    Attributes
    ----------
    name, label
        `OWN` for what is asked for, or a key of the catalogue; and what it is called.
    ratio
        Its time over the least possible one.
    rho, weight
        Success probabilities, and ω there. Of groups one for each mixed K.
    share, correct, wrong
        Share of right responses, and the advantages of a right and of a wrong response there; NaN where there is none.
    time, success
        Time over the least possible one, and the success probability then.
    """

    name: str
    label: str
    ratio: float
    rho: NDArray[np.float64]
    weight: NDArray[np.float64]
    share: NDArray[np.float64]
    correct: NDArray[np.float64]
    wrong: NDArray[np.float64]
    time: NDArray[np.float64]
    success: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """All that the page shows of a question.

    Attributes
    ----------
    question
        What was asked.
    answer
        With its certificate, which is the curve's where a curve is read in groups.
    table
        What ``weightopt solve`` writes for this question.
    lines
        Named weightings, and what is asked for, last.
    least
        The least possible time, by which times are divided: of any curve, or of any table of the shape.
    reference
        What takes that time, in words.
    """

    question: Question
    answer: Answer
    table: WeightTable
    lines: tuple[Line, ...]
    least: float
    reference: str

    @property
    def own(self) -> Line:
        """The line of what is asked for."""
        return self.lines[-1]

    def file(self) -> bytes:
        """The file that ``weightopt solve --output`` writes, byte for byte."""
        return self.table.to_json().encode()


def study(question: Question) -> Study:
    """Answer a question.

    Raises
    ------
    ProblemError
        If something in it is out of range.
    TableError
        If its answer cannot be tabulated.
    SolverError
        If it cannot be certified.
    """
    problem, group = question.problem(), question.group()
    return _of_curves(question, problem) if group is None else _of_groups(question, problem, group)


def _of_curves(question: Question, problem: Problem) -> Study:
    free = problem.unconstrained
    best, rows = compare_curves(free)
    answer = best if problem == free else solve(problem)
    table = answer.table()
    weightings: list[tuple[str, str, Any, float]] = [
        (row.weighting, style.short(row.weighting), catalogue.WEIGHTINGS[row.weighting], row.ratio)
        for row in rows
        if row.weighting in NAMES
    ]
    weightings.append((OWN, "Solved", answer.weighting, answer.time / best.time))
    lines = []
    rho = even_grid(problem.start, problem.target, POINTS)
    cost = problem.cost_density(rho)
    for name, label, weighting, ratio in weightings:
        weight = np.asarray(weighting(rho), dtype=float)
        # A named weighting is scaled to the budget: by how much tells its time.
        time = _clock_time(rho, cost / weight)
        scale = time[-1] / (ratio * best.time) if name != OWN else 1.0
        lines.append(
            Line(
                name=name,
                label=label,
                ratio=ratio,
                rho=rho,
                weight=weight * scale,
                share=rho,
                correct=(1 - rho) * weight * scale,
                wrong=-rho * weight * scale,
                time=time * (ratio / time[-1]),
                success=rho,
            )
        )
    return Study(
        question=question,
        answer=answer,
        table=table,
        lines=tuple(lines),
        least=best.time,
        reference="the best curve" if problem == free else "the best curve without constraints",
    )


def _of_groups(question: Question, problem: Problem, group: GroupProblem) -> Study:
    size, curve = group.group_size, group.curve
    best, rows = compare_groups(group, factors=())
    if question.form == "table":
        answer: Answer = best
        table = best.table()
    else:
        answer = solve(problem)
        table = answer.table(size)
    tables: dict[str, WeightTable] = {}
    for row in rows:
        if row.weighting in GROUP_NAMES:
            tables[row.weighting] = catalogue_table(catalogue.EVERYTHING[row.weighting], size)
    tables[OWN] = table
    lines = []
    rho = even_grid(curve.start, curve.target, POINTS)
    cost = curve.cost_density(rho)
    share = np.arange(size + 1) / size
    for name, of in tables.items():
        correct, wrong = np.array(of.advantage_correct), np.array(of.advantage_wrong)
        time, spent = time_and_budget(group, correct, wrong)
        ratio = time * spent / curve.budget / best.time
        # A quadratic budget, advantage variance, is as homogeneous as a linear one: both grow with the scale.
        scale = 1.0 if name == OWN else curve.budget / spent
        line = _clock_time(rho, cost / speed(rho, correct, wrong, group.step_model))
        correct, wrong = correct * scale, wrong * scale
        correct[0], wrong[-1] = math.nan, math.nan  # nobody is right, nobody is wrong: there is no such response
        lines.append(
            Line(
                name=name,
                label="Solved" if name == OWN else style.short(name),
                ratio=ratio,
                rho=share[1:-1],
                weight=np.array(of.weight) * scale,
                share=share,
                correct=correct,
                wrong=wrong,
                time=line * (ratio / line[-1]),
                success=rho,
            )
        )
    return Study(
        question=question,
        answer=answer,
        table=table,
        lines=tuple(lines),
        least=best.time,
        reference=f"the best {group.shape} table for groups of {size}, {group.budget_kind} budget",
    )


def _clock_time(rho: NDArray[np.float64], slowness: NDArray[np.float64]) -> NDArray[np.float64]:
    """∫ of the slowness from the first success probability to each; both have shape (n,), even in log-odds."""
    theta = np.asarray(log_odds(rho))
    return cumulative_simpson(slowness * rho * (1 - rho), x=theta, initial=0)
