"""``weightopt population``: which weighting for many prompts under one budget per step."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightopt.commands.options import AllRight, AllWrong, AsJson, Csv, Output
from weightopt.commands.output import check_folders, print_json, print_table, print_weights, refuse, write

if TYPE_CHECKING:
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
    clock: Annotated[
        list[str] | None,
        typer.Option(
            help="What time costs: regular, update steps, or effective, draws per prompt when each is drawn until it "
            "succeeds; default both."
        ),
    ] = None,
    budget_kind: Annotated[
        str,
        typer.Option(
            help="What a step may spend, a mean over prompts: kl, the root of ρ(1-ρ)ω², the KL of the step; weight, ω; "
            "or square, the root of ω²."
        ),
    ] = "kl",
    budget: Annotated[float, typer.Option(help="How much of it, positive; times are proportional to 1/budget.")] = 1.0,
    solved: Annotated[
        float,
        typer.Option(help="Success probability from which a prompt gets no weight and costs no budget, 0.5 to 0.9999."),
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

    Named weightings and the best shared one found are compared with a lower bound on the time of *all* weights, prompt
    by prompt and step by step. With --output, one target and one clock, the shared one is written as a table.
    """
    from weightopt.kinds import solve
    from weightopt.populations.advice import advise
    from weightopt.populations.problem import CLOCKS, PopulationProblem

    check_folders(output=output, csv=csv)
    start = _read_start(preset, beta, rates, metrics, step, prompts, floor)
    if len(target or ()) > MOST_TARGETS:
        refuse(f"--target may be given at most {MOST_TARGETS} times, got {len(target or ())}")
    shared: dict[str, Any] = {
        "source": start.source,
        "rates": start.rates,
        "counts": start.counts,
        "budget_kind": budget_kind,
        "budget": budget,
        "solved": solved,
        "steepness": steepness,
    }
    chosen: list[dict[str, Any]] = [{"clock": name} for name in clock or CLOCKS]
    problems = list(
        dict.fromkeys(
            PopulationProblem(**shared, **choice, target=mean)
            for choice in chosen
            for mean in target or _default_targets(start, solved)
        )
    )
    single = problems[0] if len(problems) == 1 else None
    if single is None and not (output is csv is all_wrong is all_right is None):
        refuse(
            "--output, --csv, --all-wrong and --all-right need one --target and one --clock: a table solves one problem"
        )
    answers = [solve(problem) for problem in problems]
    advice = advise(answers)
    table = None
    if single is not None:
        table = answers[0].table(None, all_wrong, all_right)
        write(table, output, csv)
    if as_json:
        print_json(_document(start, answers, advice))
        return
    _print(start, answers)
    if table is not None:
        print("\nThe best shared weighting found; a first step with it spends the budget:")
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


def _print(start: PassRates, answers: list[PopulationAnswer]) -> None:
    from weightopt.populations.problem import CLOCKS

    first = answers[0].problem
    clipped = f", {start.clipped} clipped to the floor or 1 - floor" if start.clipped else ""
    print(f"Population  {start.source}; {sum(start.counts)} prompts{clipped}; mean success {first.mean:.3g}")
    print(f"Budget      {first.norm.reading}: {first.budget:g} per step; no weight from success {first.solved:g} on")
    for clock, reading in CLOCKS.items():
        shown = [answer for answer in answers if answer.problem.clock == clock]
        if shown:
            print(f"\nTime to mean success, relative to the lower bound over all weights; {clock} clock ({reading})")
            print_table(None, ("weighting", *(f"to {s.problem.target:.3g}" for s in shown)), _rows(shown))
            for answer in shown:
                print(
                    f"to {answer.problem.target:.3g}: lower bound {answer.certificate.lower_bound:.4g}, in units of "
                    f"time; best shared found is certified within {answer.gap:.2%} of it"
                )
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


def _rows(answers: list[PopulationAnswer]) -> list[tuple[str, ...]]:
    named = [(row.label, *(f"{s.rows[k].ratio:.3f}" for s in answers)) for k, row in enumerate(answers[0].rows)]
    return [
        *named,
        ("Best shared found", *(f"{s.ratio:.3f}" for s in answers)),
        ("Optimum at most", *(f"{s.schedule / s.certificate.lower_bound:.3f}" for s in answers)),
    ]


def _document(start: PassRates, answers: list[PopulationAnswer], advice: list[str]) -> dict[str, Any]:
    return {
        "source": start.source,
        "prompts": sum(start.counts),
        "clipped": start.clipped,
        "mean": answers[0].problem.mean,
        "results": [answer.to_dict() for answer in answers],
        "advice": advice,
    }
