"""What to use: sentences made from answers to population problems, and advice from a pilot's counts.

The advice of a pilot is for one table and one group size. Costs are compared at equal responses a step, and in tokens
where lengths are known. The table is solved for the estimated starts; what it saves against the best named weighting is
asked of the starts of prompts drawn anew, with table and named weighting as they are, so that the interval holds what
the counts leave open about the starts, and what a table made for them loses elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from theory import catalogue
from weightopt.catalogue_tables import catalogue_table
from weightopt.curves.problem import Problem
from weightopt.errors import ProblemError
from weightopt.groups import group
from weightopt.populations.group_flow import GroupBudget
from weightopt.populations.group_population import (
    NAMES,
    GroupPopulationAnswer,
    GroupPopulationProblem,
    named_tables,
    solve,
)
from weightopt.populations.lengths import Lengths
from weightopt.populations.population import PopulationAnswer, Row
from weightopt.populations.starts import Starts, interval
from weightopt.table import WeightTable

SYMMETRIC, ASYMMETRIC = ("rloo", "grpo"), ("linear-r", "sqrt-r")
WHAT = {"regular": "steps", "effective": "draws"}
NEGLIGIBLE = 0.02  # share of a time that no training run would show
PARTS = 10**9  # of a population, of which shares become counts
MOST_SIZES = 8
HARD = 0.1  # mean success below which the model has been wrong in trained runs
LIMIT = 0.3  # the crowding limit of the table that is handed out from such starts
LIMITED_TARGET, LIMITED_TO = 0.9, 0.7  # success the limited table is solved for, and to which the limit holds
# What training says of starts below HARD: the one place to change when docs/results.md does.
EVIDENCE = (
    "Where a small network learned several kinds of problems, on eight seeds and at the lower of two learning rates, "
    "Linear-R, MaxRL and Sqrt-R ended at 54 to 55 %, tables with a crowding limit at 49 to 54 % and GRPO at 45 %; on "
    "Countdown from scratch at 60 to 61, 58 to 59 and 51 %. A short run of a language model on one kind did not tell "
    "GRPO, Sqrt-R and such a table apart (docs/results.md)."
)
UNKNOWN = "whether it pays depends on how kinds of problems compete, which has not been trained from such a start"
LEFT_OUT = (
    "prompts that share habits (kinds of problem that crowd each other out can change the order), wrong answers of "
    "more than one kind, lengths that drift as training goes on, and that small groups see more prompts for the same "
    "responses"
)


def compare_targets(solutions: Sequence[PopulationAnswer]) -> list[str]:
    """What to use for which target, in sentences made from the numbers alone.

    One sentence for each problem: the best named weighting, which others take no more than 2 % longer, and what the
    best shared one found would save. One more over all of them: whether favouring hard prompts pays (Linear-R and
    Sqrt-R against RLOO and GRPO), which is what separates the two regimes.
    """
    parts: dict[str, list[str]] = {"save": [], "cost": [], "make less than 2% of difference for": []}
    for solution in solutions:
        gain, where = _asymmetric_gain(solution), _where(solution)
        if gain > NEGLIGIBLE:
            parts["save"].append(f"{gain:.1%} of the {where}")
        elif gain < -NEGLIGIBLE:
            parts["cost"].append(f"{-gain:.1%} more {where}")
        else:
            parts["make less than 2% of difference for"].append(where)
    said = "; ".join(f"{verb} {_list(what)}" for verb, what in parts.items() if what)
    return [
        *(_advise_one(solution) for solution in solutions),
        f"From mean success {solutions[0].problem.mean:.2g}, against the better of RLOO and GRPO, weights that favour "
        f"hard prompts (the better of Linear-R and Sqrt-R) {said}.",
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What there is to choose for one group size.

    Attributes
    ----------
    answer
        Best table found, its bound, and the named weightings.
    saving
        Share of the cost that the best table saves against the best named weighting.
    low, high
        Its 95 % interval over the uncertainty of the starts.
    helps
        Whether the interval lies above 0 and the saving is not below the threshold.
    """

    answer: GroupPopulationAnswer
    saving: float
    low: float
    high: float
    helps: bool

    @property
    def group_size(self) -> int:
        """M."""
        return self.answer.problem.group_size

    @property
    def named(self) -> Row:
        """The best named weighting."""
        return self.answer.best_named

    @property
    def cost(self) -> float:
        """Of the table to use: the best one if it helps, else the best named one."""
        return self.answer.time if self.helps else self.named.time

    def table(self) -> WeightTable:
        """The table to use."""
        if self.helps:
            return self.answer.table()
        return catalogue_table(catalogue.EVERYTHING[self.named.weighting], self.group_size)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "group_size": self.group_size,
            "named": {row.weighting: row.time for row in self.answer.rows},
            "best_named": self.named.weighting,
            "best_table": self.answer.time,
            "weight": list(self.answer.weight),
            "uniform": list(self.answer.uniform),
            "lower_bound": self.answer.lower_bound,
            "gap": self.answer.gap,
            "saving": self.saving,
            "saving_low": self.low,
            "saving_high": self.high,
            "helps": self.helps,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limited:
    """A table whose push hardly grows with success, for starts at which kinds of problems compete for shared habits.

    In the model of kinds that compete this bounds how fast a more successful one gets ahead. In trained networks kinds
    were still lost.

    Attributes
    ----------
    answer
        The table of least time for one prompt from the mean start to 90 % in the loop's clock, with a limit on the push
        from the start to 70 %, and its certificate.
    cost
        What it costs in the model of independent prompts, in the unit of `Choice.cost`.
    """

    answer: group.GroupAnswer
    cost: float

    @property
    def limit(self) -> float:
        """κ."""
        return float(self.answer.problem.crowding or 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """Which group size and which table for a pilot's starts.

    Attributes
    ----------
    starts
        Estimated starts.
    target
        Mean success to reach.
    choices
        One for each group size, rising.
    recommended
        Which of them: that of the run if it costs at most 2 % more than the cheapest, else the smallest that does. From
        hard starts, where the model that ranks them does not hold, that of the run whatever it costs.
    threshold
        Saving below which a table is said not to help.
    limited
        The table that is handed out in place of what the model of independent prompts recommends.
    used
        M of the run, if it has one.
    """

    starts: Starts
    target: float
    choices: tuple[Choice, ...]
    recommended: int
    threshold: float
    limited: Limited | None = None
    used: int | None = None

    @property
    def choice(self) -> Choice:
        """The recommended one."""
        return self.choices[self.recommended]

    @property
    def hard(self) -> bool:
        """Whether the starts are so hard that the model of independent prompts has been wrong in trained runs."""
        return self.starts.mean()[0] < HARD

    def table(self) -> WeightTable:
        """The table that is handed out."""
        return self.choice.table() if self.limited is None else self.limited.answer.table()

    @property
    def verdict(self) -> str:
        """What to do, in one sentence or a few."""
        choice = self.choice
        if self.hard:
            return (
                "No table is shown to help over the best named weighting from starts as hard as these. "
                f"{EVIDENCE} Use Sqrt-R or MaxRL, and try half the learning rate before another table."
            )
        if self.limited is not None:
            return f"{self._price}; {UNKNOWN}."
        saving = f"{choice.saving:.1%} [{choice.low:.1%}, {choice.high:.1%}]"
        against = f"{choice.named.label}, the best named weighting"
        if choice.helps:
            return (
                f"Use groups of {choice.group_size} with the table found: by the model it saves {saving} of the cost "
                f"against {against}."
            )
        reason = (
            "the interval includes 0" if choice.low <= 0 else f"that is below the threshold of {self.threshold:.1%}"
        )
        return (
            f"No table will help here: in groups of {choice.group_size} the best one found saves {saving} against "
            f"{against}, and {reason}. Use {choice.named.label}."
        )

    @property
    def _price(self) -> str:
        """What the limited table costs by the model."""
        assert self.limited is not None
        choice = self.choice
        return (
            f"In groups of {choice.group_size} the table with the crowding limit κ = {self.limited.limit:g} would cost "
            f"{self.limited.cost / choice.cost - 1:.1%} more than "
            f"{'the best table found' if choice.helps else choice.named.label} if prompts were independent"
        )

    @property
    def cautions(self) -> tuple[str, ...]:
        """What to know before one acts on it."""
        said = []
        if self.hard:
            size = self.choice.group_size
            said.append(
                "Group sizes are ranked by a model of independent prompts, which does not hold from such starts: "
                + (f"keep the pilot's {size}." if size == self.used else f"{size} is what it would take.")
            )
            said += [] if self.limited is None else [f"{self._price}."]
        return (*said, f"The model leaves out: {LEFT_OUT}.")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        problem = self.choice.answer.problem
        mean, low, high = self.starts.mean()
        return {
            "source": self.starts.counts.source,
            "prompts": self.starts.counts.total,
            "mean": [mean, low, high],
            "rates": self.starts.rates.tolist(),
            "share": self.starts.share.tolist(),
            "resamples": self.starts.resampled.shape[0],
            "target": self.target,
            "budget_kind": problem.budget_kind,
            "unit": problem.unit,
            "lengths": None if problem.lengths is None else problem.lengths.to_dict(),
            "dynamic_sampling": problem.dynamic_sampling,
            "uniform_groups": problem.uniform_groups,
            "threshold": self.threshold,
            "group_sizes": [choice.to_dict() for choice in self.choices],
            "group_size": self.choice.group_size,
            "helps": self.choice.helps and not self.hard,
            "limited": None
            if self.limited is None
            else {
                "crowding": self.limited.limit,
                "cost": self.limited.cost,
                "gap": self.limited.answer.certificate.gap,
            },
            "verdict": self.verdict,
            "cautions": list(self.cautions),
        }


def advise(
    starts: Starts,
    group_sizes: Sequence[int],
    target: float | None = None,
    *,
    lengths: Lengths | None = None,
    dynamic_sampling: bool = False,
    uniform_groups: bool = False,
    budget_kind: GroupBudget = "advantage-variance",
    threshold: float = NEGLIGIBLE,
    used: int | None = None,
    crowding: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Advice:
    """Advice on group size and table.

    Parameters
    ----------
    starts
        Estimated starts.
    group_sizes
        M to compare, each from 2 to 256, at most 8.
    target
        Mean success to reach; default half of the way from the start to 1, at most 0.9.
    lengths, dynamic_sampling, uniform_groups, budget_kind
        See `GroupPopulationProblem`.
    threshold
        Saving below which a table is said not to help, 0 to 0.5.
    used
        The group size that the user has, one of `group_sizes`; it is kept where another one saves little, and from a
        mean success below 0.1.
    crowding
        κ of a table that is handed out whatever the model of independent prompts says, see `Limited`; None: no limit,
        and none is needed from a mean success of 0.7.
    progress
        Called with each group size once it is done.

    Raises
    ------
    ProblemError
        If a parameter is out of range.
    """
    sizes = sorted(set(group_sizes))
    if not 1 <= len(sizes) <= MOST_SIZES:
        raise ProblemError("group_sizes", f"must be from 1 to {MOST_SIZES} whole numbers, got {len(sizes)}")
    if not 0 <= threshold <= 0.5:
        raise ProblemError("threshold", f"must be a share from 0 to 0.5, got {threshold:g}")
    mean = starts.mean()[0]
    target = default_target(mean) if target is None else target
    counts = tuple(int(count) for count in np.maximum(1, np.rint(starts.share * PARTS)))
    problems = [
        GroupPopulationProblem(
            starts.counts.source,
            tuple(starts.rates.tolist()),
            counts,
            target,
            size,
            budget_kind,
            lengths,
            dynamic_sampling,
            uniform_groups,
        )
        for size in sizes
    ]
    choices = []
    for problem in problems:
        choices.append(_choice(starts, problem, threshold))
        progress(problem.group_size)
    cheapest = min(choice.cost for choice in choices)
    near = [at for at, choice in enumerate(choices) if choice.cost <= cheapest * (1 + NEGLIGIBLE)]
    kept = [at for at in (range(len(choices)) if mean < HARD else near) if choices[at].group_size == used]
    recommended = (kept or near)[0]
    return Advice(
        starts=starts,
        target=target,
        choices=tuple(choices),
        recommended=recommended,
        threshold=threshold,
        used=used,
        limited=None
        if crowding is None or float(f"{mean:.2g}") >= LIMITED_TO
        else _limited(choices[recommended].answer.problem, mean, crowding),
    )


def default_limit(mean: float) -> float | None:
    """κ of the table that is handed out: `LIMIT` below a mean success of `HARD`, else None."""
    return LIMIT if mean < HARD else None


def _limited(population: GroupPopulationProblem, start: float, limit: float) -> Limited:
    start, target = float(f"{start:.2g}"), max(LIMITED_TARGET, population.target)
    problem = group.GroupProblem(
        Problem(start=start, target=target, clock="regular"),
        population.group_size,
        crowding=limit,
        crowding_range=(start, LIMITED_TO),
        crowding_measure="push",
    )
    answer = group.solve(problem)
    table = answer.table()
    push = 0.0 if population.dynamic_sampling else -table.all_wrong_advantage
    vector = np.array([push, *table.weight, table.all_right_advantage])
    share = np.array(population.counts, dtype=float) / sum(population.counts)
    return Limited(answer=answer, cost=population.flow().time(vector, share, population.target))


def default_target(mean: float) -> float:
    """Half of the way from the mean success to 1, at most 0.9; beyond 0.88, four fifths of the way."""
    half = (1 + mean) / 2
    return round(min(0.9, half), 3) if mean < 0.88 else mean + 0.8 * (1 - mean)


def _choice(starts: Starts, problem: GroupPopulationProblem, threshold: float) -> Choice:
    answer = solve(problem, names=NAMES)
    named = named_tables(problem, [answer.best_named.weighting])[answer.best_named.weighting]
    flow = problem.flow()
    found, known = (flow.times(table, starts.resampled, problem.target) for table in (answer.vector, named))
    ahead = found > 0  # a sample whose mean success has the target already says nothing
    if np.mean(ahead) < 0.5:
        raise ProblemError("target", f"of {problem.target:g} may be reached already, as far as the counts can tell")
    low, high = interval(1 - found[ahead] / known[ahead])
    saving = 1 - answer.time / answer.best_named.time
    return Choice(answer=answer, saving=saving, low=low, high=high, helps=low > 0 and saving >= threshold)


def _where(solution: PopulationAnswer) -> str:
    return f"{WHAT[solution.problem.clock]} to {solution.problem.target:.3g}"


def _asymmetric_gain(solution: PopulationAnswer) -> float:
    """Share of the time that the better of Linear-R and Sqrt-R saves against the better of RLOO and GRPO."""
    times = {row.weighting: row.time for row in solution.rows}
    symmetric, asymmetric = (min(times[name] for name in names) for names in (SYMMETRIC, ASYMMETRIC))
    return 1 - asymmetric / symmetric


def _advise_one(solution: PopulationAnswer) -> str:
    best = solution.best_named
    near = [row.label for row in solution.rows if row is not best and row.time <= best.time * (1 + NEGLIGIBLE)]
    worst = max(solution.rows, key=lambda row: row.time)
    where = f"For {_where(solution)}"
    if len(near) == len(solution.rows) - 1:
        sentence = f"{where} the choice hardly matters: {best.label} is best and no named weighting takes more than "
        sentence += f"{NEGLIGIBLE:.0%} longer"
    else:
        alike = f"; {_list(near)} within {NEGLIGIBLE:.0%} of {best.label}" if near else ""
        sentence = f"{where} use {best.label}, at most {best.gap:.1%} above the optimum{alike}; "
        sentence += f"{worst.label} takes {worst.time / best.time - 1:.0%} longer"
    saved = max(0.0, 1 - solution.certificate.time / best.time)
    if saved > NEGLIGIBLE:
        return f"{sentence}; the shared weighting found saves another {saved:.1%}."
    return f"{sentence}; the shared weighting found saves {saved:.1%}, which is negligible."


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
