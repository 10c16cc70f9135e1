"""``weightopt advise``: from a pilot's counts to a group size and a table, or to the sentence that none will help."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightopt.commands.options import AsJson, Output
from weightopt.commands.output import check_folders, print_json, print_table, print_weights, refuse, replace

if TYPE_CHECKING:
    from weightopt.populations.advice import Advice
    from weightopt.populations.metrics import Run
    from weightopt.populations.starts import Counts

SIZES = "4,8,16,32,64"
LOWEST = 0.05  # crowding limit; lower ones can hardly be held by small groups
POOL = 5  # steps that are taken together while a run is followed
PATIENCE = 60.0  # seconds after which a folder without a run's metrics is worth a word


def advise(
    metrics: Annotated[
        Path | None,
        typer.Option(help="Pilot: a run's metrics.jsonl, or its folder; it tells starts, lengths and loop."),
    ] = None,
    pass_rates: Annotated[
        Path | None,
        typer.Option(
            help="Pilot: CSV file correct,responses, a line for each prompt: K of M responses were right; or with a "
            "third column, prompts, how many were so."
        ),
    ] = None,
    step: Annotated[int | None, typer.Option(help="With --metrics: which step; default the first.")] = None,
    pool: Annotated[
        int | None,
        typer.Option(
            help="With --metrics: how many steps are taken together as one measurement, 1 to 1000; default 1, with "
            "--follow the last 5. More steps are more prompts, of a policy that has moved on."
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Mean lengths of right and wrong answers: CSV file rho,right,wrong (or rho,tokens), or a run. Default "
            "those that --metrics states; without any, responses are what costs."
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Mean success to reach; default half of the way from the start to 1, at most 0.9."),
    ] = None,
    group_sizes: Annotated[
        str | None,
        typer.Option(
            help="Group sizes M to compare, between commas; default 4,8,16,32,64 and that of --metrics. With --follow "
            "that of the run."
        ),
    ] = None,
    budget_kind: Annotated[
        str,
        typer.Option(
            help="What a step may spend: advantage-variance, its mean squared advantage, as with AdamW or clipping; "
            "kl, the KL of the expected step; or constant-step, the mean squared advantage of the whole run, as with "
            "plain SGD."
        ),
    ] = "advantage-variance",
    dynamic_sampling: Annotated[
        bool | None,
        typer.Option(
            "--dynamic-sampling/--fixed-batch",
            help="Whether groups all right or all wrong are drawn again; default as in --metrics, else not.",
        ),
    ] = None,
    uniform_groups: Annotated[
        bool,
        typer.Option(
            "--uniform-groups",
            help="Advantages in groups all wrong and all right are sought too; by default they are 0. The gain "
            "is sure only where there is one wrong answer.",
        ),
    ] = False,
    crowding: Annotated[
        str,
        typer.Option(
            help="Crowding limit κ of the table, from 0.05 to 1: bounds how fast a more successful kind of problems "
            "gets ahead (in the model; in trained networks kinds were still lost). Or none; or auto, 0.3 below a mean "
            "success of 0.1 and else none; with --follow auto is decided at the first look."
        ),
    ] = "auto",
    threshold: Annotated[
        float, typer.Option(help="Saving below which a table is said not to help, a share from 0 to 0.5.")
    ] = 0.02,
    floor: Annotated[float, typer.Option(help="Smallest success probability that is considered, 1e-6 to 0.1.")] = 0.001,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of the prompts, 20 to 10000.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the bootstrap, from 0.")] = 0,
    follow: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run that is going on: advise on its last steps again and again, and write --output each "
            "time; ends when the run has ended or reached --target."
        ),
    ] = None,
    every: Annotated[float, typer.Option(help="With --follow: seconds between two looks, 0.1 to 3600.")] = 30.0,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Which group size and which table, and what does it save? Or will it not matter here?

    The starts are estimated from the counts with the binomial noise taken out. For each group size the time to the
    target is compared, at equal tokens or responses, between the named weightings and the best table found for a budget
    on every step. The saving has an interval that holds the uncertainty of the starts.
    """
    from weightopt.commands.options import read_numbers
    from weightopt.populations.lengths import read_lengths, run_lengths
    from weightopt.populations.metrics import read_run
    from weightopt.populations.starts import counts_of_steps, read_counts

    check_folders(output=output)
    if sum(given is not None for given in (metrics, pass_rates, follow)) != 1:
        refuse("--metrics, --pass-rates and --follow each say where the counts come from; give one of them")
    for name, given in (("step", step), ("pool", pool)):
        if given is not None and pass_rates is not None:
            refuse(f"--{name} needs --metrics: it names steps of that file")
    if pool is not None and not 1 <= pool <= 1000:
        refuse(f"--pool must be a whole number from 1 to 1000, got {pool}")
    if seed < 0:
        refuse(f"--seed must be a whole number from 0, got {seed}")
    sizes = [_whole(size) for size in read_numbers("group_sizes", SIZES if group_sizes is None else group_sizes)]
    measured = None if tokens is None else read_lengths(str(tokens))
    settings: dict[str, Any] = {
        "target": target,
        "budget_kind": budget_kind,
        "uniform_groups": uniform_groups,
        "threshold": threshold,
        "crowding": _limit(crowding),
        "floor": floor,
        "resamples": resamples,
        "seed": seed,
    }
    if follow is not None:
        if group_sizes is not None:
            refuse("--group-sizes goes with --metrics and --pass-rates; a run that goes on keeps its own")
        if step is not None:
            refuse("--step goes with --metrics; --follow takes the last steps")
        if output is None:
            refuse("--follow needs --output, the table file that it keeps up to date")
        if not 0.1 <= every <= 3600:
            refuse(f"--every must be a number of seconds from 0.1 to 3600, got {every:g}")
        _follow(follow, output, every, pool or POOL, measured, dynamic_sampling, settings, as_json)
        return
    run: Run | None = None
    if metrics is not None:
        run = read_run(str(metrics))
        chosen = run.since(step, pool or 1)
        counts, used, refilled = counts_of_steps(run, chosen), chosen[0].group_size, any(s.refilled for s in chosen)
        measured = run_lengths(run) if measured is None else measured
    else:
        counts, used, refilled = read_counts(str(pass_rates)), None, False
    refilled = refilled if dynamic_sampling is None else dynamic_sampling
    advice = _advise(counts, sizes, used, measured, refilled, settings, quiet=as_json)
    table = advice.table()
    if output is not None:
        replace("--output", output, table.to_json().encode())
    if as_json:
        print_json(advice.to_dict())
        return
    _print(advice)
    if output is not None:
        kind = "" if advice.limited is None else ", with the crowding limit, one to compare with"
        print(f"\nWritten to {output}{kind}:")
        print_weights(table)


def _advise(
    counts: Counts,
    sizes: list[int],
    used: int | None,
    lengths: Any,
    refilled: bool,
    settings: dict[str, Any],
    *,
    quiet: bool,
    began: float | None = None,
) -> Advice:
    """The advice; `began` is the mean success that says how hard the start was, by default that of the counts."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from weightopt.errors import ProblemError, SolverError
    from weightopt.populations.advice import advise as compare
    from weightopt.populations.advice import default_limit
    from weightopt.populations.starts import estimate

    settings = dict(settings)
    starts = estimate(counts, **{key: settings.pop(key) for key in ("floor", "resamples", "seed")})
    if automatic := settings["crowding"] == "auto":
        settings["crowding"] = default_limit(starts.mean()[0] if began is None else began)
    sizes = sorted({*sizes, *([] if used is None else [used])})
    columns = TextColumn("group sizes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    progress = Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True)
    bar = progress.add_task("", total=len(sizes))

    def advance(_: int) -> None:
        progress.start()  # from the first group size on: advice that is refused shows no bar
        progress.advance(bar)

    problem: dict[str, Any] = settings | {"lengths": lengths, "dynamic_sampling": refilled, "used": used}
    try:
        try:
            return compare(starts, sizes, progress=advance, **problem)
        except (ProblemError, SolverError):
            if not automatic or problem["crowding"] is None:
                raise
            problem["crowding"] = None  # a limit that nobody asked for stops no advice
            return compare(starts, sizes, progress=advance, **problem)
    finally:
        if progress.live.is_started:  # what never began leaves no empty line behind
            progress.stop()


def _follow(
    folder: Path,
    output: Path,
    every: float,
    pool: int,
    lengths: Any,
    dynamic_sampling: bool | None,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """Advise again whenever the run has made a step; the run's own group size alone can be changed to."""
    from weightopt.errors import ProblemError
    from weightopt.populations.advice import default_target
    from weightopt.populations.lengths import run_lengths
    from weightopt.populations.metrics import METRICS, read_run
    from weightopt.populations.starts import counts_of_steps

    if not folder.is_dir():
        refuse(f"--follow: {folder} is no folder; give that of a run")
    seen = began = None
    print(f"waiting for the steps of {folder}", file=sys.stderr, flush=True)
    patience: float | None = time.monotonic() + PATIENCE
    while True:
        ended = (folder / "model").exists()
        if patience is not None and time.monotonic() >= patience:
            patience = None
            if not (folder / METRICS).exists():
                print(f"no {METRICS} yet in {folder}; waiting on", file=sys.stderr, flush=True)
        # A run that has just begun has no step yet.
        begun = ended or (folder / METRICS).exists()
        run = read_run(str(folder), may_be_empty=not ended, option="follow") if begun else None
        if run is not None and run.steps and run.steps[-1].step != seen:
            chosen = run.latest(pool)
            counts, seen = counts_of_steps(run, chosen), run.steps[-1].step
            began = counts.mean if began is None else began
            if settings["target"] is None:  # stays what it was at the first look, as the limit does
                settings["target"] = default_target(began)
            if counts.mean >= settings["target"]:
                print(f"step {seen}: mean success {counts.mean:.3g} has reached the target, {settings['target']:g}")
                return
            refilled = any(each.refilled for each in chosen) if dynamic_sampling is None else dynamic_sampling
            measured = run_lengths(run) if lengths is None else lengths
            used = chosen[0].group_size
            try:
                advice = _advise(counts, [used], used, measured, refilled, settings, quiet=True, began=began)
            except ProblemError as error:
                if error.field != counts.option:
                    raise
                # Counts that say nothing yet: the table stays as it is.
                print(f"step {seen}: no advice, the counts {error.sentence}", flush=True)
            else:
                replace("--output", output, advice.table().to_json().encode())
                if as_json:
                    print_json({"step": seen, **advice.to_dict()})
                else:
                    print(f"step {seen}: {advice.verdict}", flush=True)
        if ended:
            return
        time.sleep(every)


def _print(advice: Advice) -> None:
    from weightopt.populations.group_population import BUDGETS

    starts, problem = advice.starts, advice.choice.answer.problem
    mean, (below, low, high) = starts.mean(), starts.below(0.01)
    print(f"Starts      {starts.counts.source}")
    print(f"            mean success {mean[0]:.3g} [{mean[1]:.3g}, {mean[2]:.3g}]", end="; ")
    print(f"{below:.0%} [{low:.0%}, {high:.0%}] of the prompts below 0.01")
    print(
        f"Loop        {'refilled until every group is mixed' if problem.dynamic_sampling else 'a fixed batch'}", end=""
    )
    print(f"; budget: {BUDGETS[problem.budget_kind]}")
    if problem.lengths is None:
        print("Cost        responses: no lengths are known, see --tokens")
    else:
        lengths = problem.lengths
        ends = (
            f"{lengths.right[at]:.4g} a right answer and {lengths.wrong[at]:.4g} a wrong one "
            f"at success {lengths.rho[at]:.2g}"
            for at in ((0, -1) if len(lengths.rho) > 1 else (0,))
        )
        print(f"Cost        tokens, {lengths.source}: {'; '.join(ends)}")
    what = "tokens" if problem.lengths is not None else "responses"
    print(f"\n{what.capitalize()} until mean success is {advice.target:.3g}, relative to the least")
    least = min(min(choice.answer.time, choice.named.time) for choice in advice.choices)
    columns = ("", *(f"M = {choice.group_size}" for choice in advice.choices))
    named = {row.weighting: row.label for choice in advice.choices for row in choice.answer.rows}
    times = [{row.weighting: row.time for row in choice.answer.rows} for choice in advice.choices]
    rows = [
        (label, *(f"{of[name] / least:.3f}" if name in of else "" for of in times)) for name, label in named.items()
    ]
    rows += [
        ("Best table found", *(f"{choice.answer.time / least:.3f}" for choice in advice.choices)),
        ("  lower bound", *(f"{choice.answer.lower_bound / least:.3f}" for choice in advice.choices)),
        ("Saving over the best named", *(f"{choice.saving:.1%}" for choice in advice.choices)),
        ("  95 % interval", *(f"[{choice.low:.1%}, {choice.high:.1%}]" for choice in advice.choices)),
    ]
    print_table(None, columns, rows)
    ends = "with advantages in uniform groups too" if problem.uniform_groups else "without advantages in uniform groups"
    print(f"The table is the best found {ends}, a local optimum; the bound holds for all")
    print("of these, even if they differ by prompt and step. Equal responses a step for all M.")
    if advice.limited is not None:
        certificate = advice.limited.answer.certificate
        print(
            f"With the crowding limit κ = {advice.limited.limit:g}: {advice.limited.cost / least:.3f} in groups of "
            f"{advice.choice.group_size}; certified gap {certificate.gap:.1e} for a single prompt."
        )
    print()
    for sentence in (advice.verdict, *advice.cautions):
        print(textwrap.fill(sentence, 100, subsequent_indent="  "))


def _limit(text: str) -> float | str | None:
    """What --crowding says: a number, None, or auto."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        limit = float(text)
    except ValueError:
        limit = float("nan")
    if not LOWEST <= limit <= 1:
        refuse(f"--crowding must be a number from {LOWEST:g} to 1, none or auto, got {text!r}")
    return limit


def _whole(number: float) -> int:
    if not 2 <= number <= 256 or number != int(number):
        refuse(f"--group-sizes must be whole numbers from 2 to 256, got {number:g}")
    return int(number)
