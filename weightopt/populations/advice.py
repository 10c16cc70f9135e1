"""What to use for which target: sentences made from answers to population problems."""

from __future__ import annotations

from collections.abc import Sequence

from weightopt.populations.population import PopulationAnswer

SYMMETRIC, ASYMMETRIC = ("rloo", "grpo"), ("linear-r", "sqrt-r")
WHAT = {"regular": "steps", "effective": "draws"}
NEGLIGIBLE = 0.02  # share of a time that no training run would show


def advise(solutions: Sequence[PopulationAnswer]) -> list[str]:
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
