"""``weightopt population``: which weighting for many prompts under one budget per step."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightopt.commands.options import AllRight, AllWrong, AsJson, Csv, Output
from weightopt.commands.output import check_folders, print_json, print_table, print_weights, refuse, write

if TYPE_CHECKING:
    from weightopt.answer import Answer
    from weightopt.populations.group_population import GroupPopulationAnswer
    from weightopt.populations.pass_rates import PassRates
    from weightopt.populations.population import PopulationAnswer

MOST_TARGETS = 6
MANY = 0.05  # share of prompts at the floor that is worth a remark


def population(
    preset: Annotated[
        str | None,
        typer.Option(
            help="Start: from-scratch, Beta(0.3, 3), or post-sft, Beta(2, 2); from-scratch if nothing is given."
        ),
    ] = None,
    beta: Annotated[str | None, typer.Option(help="Start: a,b of a Beta distribution, each from 0.05 to 500.")] = None,
    rates: Annotated[
        Path | None, typer.Option(help="Start: CSV file of pass rates, columns rho or rho,count (prompts with it).")
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Start: a run's metrics.jsonl, or its folder; a Beta distribution is fitted to one step."),
    ] = None,
    step: Annotated[int | None, typer.Option(help="With --metrics: which step; default the first.")] = None,
    target: Annotated[
        list[float] | None,
        typer.Option(help="Mean success to reach; repeat for several. Default: one half way and one far."),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Responses per prompt M, 2 to 256: the best table for groups of M in place of a curve, with the noise "
            "of its groups."
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="With --group-size: what a response costs, its mean length. CSV file rho,right,wrong (or rho,tokens), "
            "or a run's folder or metrics.jsonl."
        ),
    ] = None,
    dynamic_sampling: Annotated[
        bool,
        typer.Option(
            "--dynamic-sampling", help="With --group-size: groups all right or all wrong are drawn again, and cost."
        ),
    ] = False,
    uniform_groups: Annotated[
        bool,
        typer.Option(
            "--uniform-groups",
            help="With --group-size: advantages in groups all wrong and all right are sought too; by default they are "
            "0. The gain is sure only where there is one wrong answer.",
        ),
    ] = False,
    clock: Annotated[
        list[str] | None,
        typer.Option(
            help="What time costs without --group-size: regular, update steps, or effective, draws per prompt when "
            "each is drawn until it succeeds; default both."
        ),
    ] = None,
    budget_kind: Annotated[
        str | None,
        typer.Option(
            help="What a step may spend, a mean over prompts: kl (default), the root of ρ(1-ρ)ω², the KL of the step; "
            "weight, ω; or square, the root of ω². With --group-size: advantage-variance (default), the root of the "
            "mean squared advantage, what AdamW and clipping by norm leave; kl; or constant-step, the squared "
            "advantage on average over the run, as with plain SGD."
        ),
    ] = None,
    budget: Annotated[float, typer.Option(help="How much of it, positive; times are proportional to 1/budget.")] = 1.0,
    solved: Annotated[
        float,
        typer.Option(
            help="Success probability from which a prompt gets no weight and costs no budget, 0.5 to 0.9999; with "
            "--group-size nothing of the kind is needed, and only the default target hangs on it."
        ),
    ] = 0.99,
    steepness: Annotated[
        float,
        typer.Option(help="Largest |d ln ω / d log-odds| of the shared weighting, 1 to 2.5; no named one exceeds 1."),
    ] = 2.0,
    prompts: Annotated[
        int,
        typer.Option(help="Into how many equal prompts a distribution is divided, at quantile midpoints; 1 to 2000."),
    ] = 200,
    floor: Annotated[
        float,
        typer.Option(help="Success probabilities are clipped to [floor, 1 - floor]; 1e-6 to 0.1."),
    ] = 0.001,
    all_wrong: AllWrong = None,
    all_right: AllRight = None,
    output: Output = None,
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Which weighting raises the mean success of many prompts fastest, under a budget per step?

    Named weightings and the best shared one found are compared with a lower bound on the time of all weights, prompt
    by prompt and step by step. With --group-size it is a table for groups of M, whose noise counts. With --output, one
    target and one clock, the shared one is written as a table.
    """
    from weightopt.kinds import solve
    from weightopt.populations.advice import compare_targets
    from weightopt.populations.group_population import GroupPopulationProblem
    from weightopt.populations.lengths import read_lengths
    from weightopt.populations.problem import CLOCKS, PopulationProblem

    check_folders(output=output, csv=csv)
    start = _read_start(preset, beta, rates, metrics, step, prompts, floor)
    if len(target or ()) > MOST_TARGETS:
        refuse(f"--target may be given at most {MOST_TARGETS} times, got {len(target or ())}")
    shared: dict[str, Any] = {
        "source": start.source,
        "rates": start.rates,
        "counts": start.counts,
        "budget": budget,
        "steepness": steepness,
    }
    targets = target or _default_targets(start, solved)
    problems: list[Any]
    if group_size is None:
        if tokens is not None or dynamic_sampling or uniform_groups:
            refuse("--tokens, --dynamic-sampling and --uniform-groups need --group-size: they are about groups")
        curve = {**shared, "budget_kind": budget_kind or "kl", "solved": solved}
        clocks: list[Any] = list(clock or CLOCKS)
        problems = [PopulationProblem(**curve, clock=name, target=mean) for name in clocks for mean in targets]
    else:
        if clock is not None:
            refuse("--clock goes without --group-size: a batch of groups is paid in steps, or with --tokens in tokens")
        group = {
            **shared,
            "group_size": group_size,
            "budget_kind": budget_kind or "advantage-variance",
            "lengths": None if tokens is None else read_lengths(str(tokens)),
            "dynamic_sampling": dynamic_sampling,
            "uniform_groups": uniform_groups,
        }
        problems = [GroupPopulationProblem(**group, target=mean) for mean in targets]
    problems = list(dict.fromkeys(problems))
    single = problems[0] if len(problems) == 1 else None
    if single is None and not (output is csv is all_wrong is all_right is None):
        refuse(
            "--output, --csv, --all-wrong and --all-right need one --target and one --clock: a table solves one problem"
        )
    answers = [solve(problem) for problem in problems]
    advice = compare_targets(answers) if group_size is None else [_advise_groups(answer) for answer in answers]
    table = None
    if single is not None:
        table = answers[0].table(None, all_wrong, all_right)
        write(table, output, csv)
    if as_json:
        print_json(_document(start, answers, advice))
        return
    _print_start(start, answers[0].problem)
    if group_size is None:
        _print(start, answers)
    else:
        _print_groups(answers)
    if table is not None:
        print(
            f"\nThe best shared {'weighting' if group_size is None else 'table'} found; a first step spends the budget:"
        )
        print_weights(table)
    print()
    for sentence in advice:
        print(textwrap.fill(sentence, 100, subsequent_indent="  "))


def _read_start(
    preset: str | None,
    beta: str | None,
    rates: Path | None,
    metrics: Path | None,
    step: int | None,
    prompts: int,
    floor: float,
) -> PassRates:
    from weightopt.populations.pass_rates import from_preset, read_beta, read_metrics, read_rates

    if sum(given is not None for given in (preset, beta, rates, metrics)) > 1:
        refuse("--preset, --beta, --rates and --metrics each say where the population starts; give one of them")
    if step is not None and metrics is None:
        refuse("--step needs --metrics: it names a step of that file")
    if beta is not None:
        return read_beta(beta, prompts, floor)
    if rates is not None:
        return read_rates(str(rates), prompts, floor)
    if metrics is not None:
        return read_metrics(str(metrics), step, prompts, floor)
    return from_preset(preset or "from-scratch", prompts, floor)


def _default_targets(start: PassRates, solved: float) -> tuple[float, float]:
    """One target far, 0.9 or most of the way where that is near, and one half way to it."""
    import numpy as np

    rates, share = np.array(start.rates), np.array(start.counts) / sum(start.counts)
    mean, most = float(rates @ share), float(np.maximum(rates, solved) @ share)
    if most - mean < 1e-3:
        refuse(f"--solved {solved:g} leaves nothing to raise: the mean success is {mean:.4g} at the start; raise it")
    far = 0.9 if mean < 0.8 and most > 0.95 else mean + 0.8 * (most - mean)
    half = (mean + far) / 2
    return (round(half, 2) if far - mean > 0.1 else half), far


def _print_start(start: PassRates, first: Any) -> None:
    clipped = f", {start.clipped} clipped to the floor or 1 - floor" if start.clipped else ""
    print(f"Population  {start.source}; {sum(start.counts)} prompts{clipped}; mean success {first.mean:.3g}")
    print(f"Budget      {first.reading}")


def _print_groups(answers: list[GroupPopulationAnswer]) -> None:
    first = answers[0].problem
    if first.lengths is not None:
        print(f"Cost        mean lengths of right and wrong answers, {first.lengths.source}")
    print(f"\n{first.unit.capitalize()} to mean success, relative to the lower bound; groups of {first.group_size}")
    print_table(None, ("weighting", *(f"to {s.problem.target:.3g}" for s in answers)), _rows(answers))
    _print_bounds(answers)
    print(
        "Lower bound: over all tables without advantages in uniform groups, prompt by prompt and step by step. The best"
    )
    print(
        "shared table is the best found, a local optimum; its certified distance to the bound contains what sharing one"
    )
    print("table costs. Named weightings come with their rules for uniform groups.")


def _advise_groups(answer: GroupPopulationAnswer) -> str:
    best, target = answer.best_named, answer.problem.target
    if answer.time < best.time:
        beyond = f"the best table found saves {1 - answer.time / best.time:.1%} against it"
    else:
        ends = "" if answer.problem.uniform_groups else " without advantages in uniform groups"
        beyond = f"no better table{ends} was found"
    return (
        f"To {target:.3g} the best named weighting is {best.label}; {beyond}, and is within {answer.gap:.1%} of the "
        f"lower bound."
    )


def _print(start: PassRates, answers: list[PopulationAnswer]) -> None:
    from weightopt.populations.problem import CLOCKS

    first = answers[0].problem
    for clock, reading in CLOCKS.items():
        shown = [answer for answer in answers if answer.problem.clock == clock]
        if shown:
            print(f"\nTime to mean success, relative to the lower bound over all weights; {clock} clock ({reading})")
            print_table(None, ("weighting", *(f"to {s.problem.target:.3g}" for s in shown)), _rows(shown))
            _print_bounds(shown)
    print("Lower bound: over all weights, prompt by prompt and step by step. The best shared weighting is the best")
    print("found, a local optimum; its certified distance to the bound contains what sharing one ω(ρ) costs.")
    if first.budget_kind != "kl":
        print("Bound and 'Optimum at most' let a prompt be split into parts that are treated differently; for whole")
        print(f"prompts the optimum can be higher by about one part in their number, {sum(start.counts)}.")
    if not all(answer.exact for answer in answers):
        print("Effective clock: only bounded. The optimum lies between the bound and the row 'Optimum at most'.")
        hardest, lowest = first.share[0], first.rates[0]
        if start.clipped and hardest >= MANY:
            print(
                f"{hardest:.0%} of the prompts start at {lowest:g}, {1 / lowest:g} draws each: it depends on --floor."
            )


def _print_bounds(answers: Sequence[PopulationAnswer | GroupPopulationAnswer]) -> None:
    """What the ratios of a table are relative to, and how far the best shared weighting can be from it."""
    for answer in answers:
        print(
            f"to {answer.problem.target:.3g}: lower bound {answer.certificate.lower_bound:.4g}, in units of time; "
            f"best shared found is certified within {answer.gap:.2%} of it"
        )


def _rows(answers: Sequence[PopulationAnswer | GroupPopulationAnswer]) -> list[tuple[str, ...]]:
    from weightopt.populations.population import PopulationAnswer

    named = [(row.label, *(f"{s.rows[k].ratio:.3f}" for s in answers)) for k, row in enumerate(answers[0].rows)]
    schedules = [s.schedule / s.certificate.lower_bound for s in answers if isinstance(s, PopulationAnswer)]
    return [
        *named,
        ("Best shared found", *(f"{s.ratio:.3f}" for s in answers)),
        *([("Optimum at most", *(f"{ratio:.3f}" for ratio in schedules))] if schedules else []),
    ]


def _document(start: PassRates, answers: Sequence[Answer], advice: list[str]) -> dict[str, Any]:
    return {
        "source": start.source,
        "prompts": sum(start.counts),
        "clipped": start.clipped,
        "mean": answers[0].problem.mean,
        "results": [answer.to_dict() for answer in answers],
        "advice": advice,
    }
