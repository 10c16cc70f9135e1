"""How fast the dedicated solvers are against general-purpose ones: `python -m benchmarks.solver`.

Needs `make .venv/.bench`; a peer that is not installed is named and left out.

What is compared. On N cells of success probability 0.01 → 0.9, even in log-odds, minimise Σ cost/w under
Σ mass·w = 1. The constraints bind on a good part of the interval:

    basic       clock effective, no constraint
    box         clock effective, weights in [0.75, 3]: about a third of the cells at either bound
    monotone    clock regular, decreasing: the right 47 % of the cells is pooled
    lipschitz   clock effective, at most 1.75 per unit of log-odds: the left half is at the bound
    group       clock effective, the best convex table for groups of 16 under the drift budget, step model ratio;
                peers on 400 quadrature points, ours on those it needs to certify its error

Why it is fair. Everybody starts from the same arrays (group: from start, target and size), knows no answer and is
timed cold: modelling, solving and reading the weights, in a process in which every library has run before, BLAS on one
thread (two are slower for everybody). Seconds are CPU seconds of the process: other programs that share the machine
lengthen the wait and hardly the work. Solvers take turns; in its turn a short solve is repeated for 20 ms and the
median counts, for everybody alike. Ratios are formed within each round. Peers are set up as by somebody who knows them:

    units       weights in units of the unconstrained optimum, objective and budget times N, so that the numbers a
                solver sees are of order one: else Clarabel's answer at N = 20 000 is off by 7e-7 and IPOPT slower
    cvxpy       constants, no parameters; inv_pos, as fast as explicit cones; Clarabel, tolerance 1e-10
    ipopt       through CasADi, matrix expressions, the sparse Hessian given; tolerance 1e-10, Mehrotra's predictor and
                corrector, bounds not relaxed (by default they are, by 1e-8); MUMPS without permutation and with the
                ordering for dense rows, the budget being one: else lipschitz at N = 20 000 takes 40 s instead of 1
    lbfgsb      basic: w = softmax/mass. monotone, group: minimise time + budget, which is scale-free, over increments
                or hinges ≥ 0 (in softmax form it ends 4e-6 off, and later). Bounds have no natural form
    slsqp       dense, so N = 200 only; all gradients and Jacobians given

Also timed: `weightopt --help` in CPU seconds of a new process, beside a bare Python and the help of an empty typer
application; and a sweep of 10 000 solves with two workers, all of them certified, by the clock on the wall.

Starts: the constant weight; for lbfgsb equal shares of the budget.

Error: the largest of the relative errors of time and budget, and of the violation of a constraint relative to the mean
weight. The exact answers are computed here, not by our solver: the formula; water-filling by Brent's method; isotonic
regression; for lipschitz the best weights with one run at the bound, by Brent's method; for group L-BFGS-B's table on
800 points. Each has a dual bound of its own, which would show if it were wrong; what that leaves open is printed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gc
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import solver_peers
from benchmarks.harness import THREADS, cpu_seconds, duration, introduce, machine, on_one_thread, paired, save, verdict
from benchmarks.solver_peers import LABELS, OF_CELLS, OF_GROUPS, OURS, Answer, Solver, absent
from benchmarks.solver_problems import GROUP_SIZE, Exact, Group, cells_of

ACCURATE = 1e-6  # error from which a peer does not count
CERTIFIED = 1e-9  # gap and violation allowed to ours
TURN = 0.02  # seconds for which a short solve is repeated
AIM_SIZE = 2000
PACKAGES = ("weightopt", "numpy", "scipy", "cvxpy", "clarabel", "casadi")
# How many times as fast as the fastest peer (None) or the one that is named.
AIMS: dict[str, tuple[tuple[float, str | None], ...]] = {
    "basic": ((50, None),),
    "box": ((300, None),),
    "monotone": ((300, None),),
    "lipschitz": ((10, None),),
    "group": ((20, "cvxpy"), (5, "lbfgsb")),
}
# Seconds in which the help and the sweep should end; 125 starts × 4 clocks × 20 pairs of bounds are 10 000 solves.
HELP, SWEPT = 0.25, 20.0
LEAST_HELP = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
SWEEP = ["sweep", "--start=0.001:0.5:125", "--target=0.9", "--min-weight=0,0.5", "--max-weight=3:60:10", "--workers=2"]
SWEEP += [f"--clock={clock}" for clock in ("regular", "effective", "failures", "mixed:16")]


@dataclasses.dataclass
class Row:
    """What one solver did on one problem; a note says why it did not take part, or not to the end."""

    solver: str
    note: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    error: float = 0.0
    gap: float | None = None

    @property
    def counts(self) -> bool:
        return bool(self.seconds) and not self.note and self.error <= ACCURATE

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def turn(solve: Solver, problem: Any, limit: float) -> tuple[float, Answer]:
    """Median CPU seconds of the solves that fit into a turn, at least one."""
    gc.collect()
    seconds: list[float] = []
    while True:
        begin = time.process_time()
        answer = solve(problem, limit)
        seconds.append(time.process_time() - begin)
        if sum(seconds) >= TURN:
            return statistics.median(seconds), answer


def measure(problem: str, size: int, names: list[str], repeats: int, limit: float) -> tuple[list[Row], Exact]:
    """Let the solvers take turns; one that fails or runs out of time takes no further turn."""
    solvers = OF_GROUPS if problem == "group" else OF_CELLS
    small, full = (Group.of(), Group.of()) if problem == "group" else (cells_of(problem, 50), cells_of(problem, size))
    exact = full.exact()
    rows = [Row(name, absent(problem, size, name)) for name in names]
    for round_ in range(-1, repeats):
        for row in rows:
            if row.note:
                continue
            try:
                seconds, answer = turn(solvers[row.solver], small if round_ < 0 else full, limit)
            except Exception as failure:  # whatever a library raises is its result here
                row.note = f"failed: {str(failure)[:60]}".splitlines()[0]
                continue
            if round_ < 0:  # to warm up
                continue
            row.seconds.append(seconds)
            row.error = max(row.error, full.error(answer.weight, exact))
            row.gap = answer.gap
            row.note = f"stopped after {limit:g} s" if answer.stopped else ""
    return rows, exact


def judge(problem: str, size: int, rows: list[Row]) -> list[dict[str, Any]]:
    """The ratio to the fastest peer or to the one an aim names, and whether it is reached; rows[0] is ours."""
    ours, *peers = rows
    sound = ours.counts and ours.gap is not None and ours.gap <= CERTIFIED and ours.error <= CERTIFIED
    found = []
    for aim, against in AIMS[problem]:
        rivals = [peer for peer in peers if peer.counts and against in (None, peer.solver)]
        ratio = None
        if rivals and ours.counts:
            ratio = statistics.median(paired(ours.seconds, *(rival.seconds for rival in rivals)))
        judged = ratio is not None and (problem == "group" or size == AIM_SIZE)
        found.append(
            {
                "problem": problem,
                "size": size,
                "against": against,
                "fastest": min(rivals, key=lambda row: row.median).solver if rivals else None,
                "ratio": ratio,
                "sound": sound,
                "aim": aim if judged else None,
                "reached": ratio is not None and ratio >= aim and sound if judged else None,
            }
        )
    return found


def start_up(repeats: int) -> dict[str, Any]:
    """CPU seconds from the start to the end of `weightopt --help`, of a bare Python, and of the least help by typer."""
    starts = {"help": ["-m", "weightopt", "--help"], "python": ["-c", ""], "typer": ["-c", LEAST_HELP]}
    taken = {name: [cpu_seconds([sys.executable, *rest])[1] for _ in range(repeats)] for name, rest in starts.items()}
    least = {name: min(seconds) for name, seconds in taken.items()}
    return {"problem": "help", "seconds": least, "aim": HELP, "reached": least["help"] < HELP}


def sweep(_: int) -> dict[str, Any]:
    """Wall time of a sweep as a user would run it; what it writes must all be certified."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.csv"
        seconds, cpu = cpu_seconds([sys.executable, "-m", "weightopt", *SWEEP, "--output", str(file)])
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    sound = len(rows) == 10_000 and all(float(row["gap"] or "inf") <= CERTIFIED for row in rows)
    reached = sound and seconds < SWEPT
    return {"problem": "sweep", "seconds": seconds, "cpu": cpu, "sound": sound, "aim": SWEPT, "reached": reached}


def told(found: dict[str, Any]) -> str:
    """What a command line took, in words."""
    verdict_ = verdict(found["aim"], found["reached"], " s")
    if found["problem"] == "sweep":
        took = f"{duration(found['seconds'])}, {duration(found['cpu'])} of CPU time"
        return f"weightopt sweep, 10 000 solves, 2 workers: {took}{verdict_}"
    help_, python, typer = (duration(found["seconds"][name]) for name in ("help", "python", "typer"))
    return f"weightopt --help: {help_} of CPU time; the least help by typer {typer}, a bare Python {python}{verdict_}"


def table(rows: list[Row]) -> str:
    """One line for each solver; rows[0] is ours."""
    lines = [f"  {'':<18}{'median':>9}   {'min to max':<21}{'times ours':>11}   {'error':<8}{'gap':<8}".rstrip()]
    for row in rows:
        line = f"  {LABELS[row.solver]:<18}"
        if row.seconds:
            span = f"{duration(min(row.seconds))} to {duration(max(row.seconds))}"
            each = [theirs / own for theirs, own in zip(row.seconds, rows[0].seconds, strict=False)]
            ratio = f"{statistics.median(each):.3g}" if each and row is not rows[0] else ""
            gap = "" if row.gap is None else f"{row.gap:.0e}"
            line += f"{duration(row.median):>9}   {span:<21}{ratio:>11}   {row.error:<8.0e}{gap:<8}"
        counted = not row.seconds or row.note or row.counts
        lines.append((line + (row.note if counted else f"does not count, error above {ACCURATE:g}")).rstrip())
    return "\n".join(lines)


def sentence(found: dict[str, Any]) -> str:
    """What `judge` found, in words."""
    text = "no peer to compare with"
    if found["ratio"] is not None:
        text = f"{found['ratio']:.3g} times as fast as {LABELS[found['fastest']]}"
        text += "" if found["against"] else ", the fastest peer"
    text += verdict(found["aim"], found["reached"])
    return text + ("" if found["sound"] else f"; NOT certified to {CERTIFIED:g}")


CAPTION = f"""
CPU seconds. Ratios are formed within each round; their median is shown. A peer whose error (of time, budget or a
constraint) exceeds {ACCURATE:g}, that failed or that ran out of time is shown but cannot be the fastest.
gap: certified, relative.
Aims: N = {AIM_SIZE} against the fastest peer, group against cvxpy and L-BFGS-B; gap and error at most {CERTIFIED:g}."""


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 1 where an aim is missed, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = {"help": start_up, "sweep": sweep}
    problems, peers = [*AIMS, *commands], [name for name in LABELS if name != OURS]
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 2000, 20000], help="numbers of cells")
    parser.add_argument("--problems", nargs="+", choices=problems, default=problems)
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    parser.add_argument("--only", nargs="+", choices=peers, default=peers, help="peers")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that one solve of a peer may take")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    options = parser.parse_args(arguments)
    if min(options.sizes) < 10 or options.repeats < 1 or not options.limit > 0:
        parser.error("--sizes must be at least 10, --repeats at least 1, --limit positive")

    about = machine(PACKAGES, **{"BLAS threads": os.environ.get(THREADS[0], "default")})
    introduce(about)
    if solver_peers.ca is None and "ipopt" in options.only:
        print("CasADi is not installed, IPOPT is left out: make .venv/.bench")
    results: list[dict[str, Any]] = []
    for problem in options.problems:
        if problem in commands:
            results.append(commands[problem](options.repeats))
            print(f"\n{told(results[-1])}", flush=True)
            continue
        for size in [GROUP_SIZE] if problem == "group" else options.sizes:
            rows, exact = measure(problem, size, [OURS, *options.only], options.repeats, options.limit)
            found = judge(problem, size, rows)
            where = f"M = {size}" if problem == "group" else f"N = {size}"
            print(f"\n{problem}, {where}: exact time {exact.time:.12g}, known to {exact.uncertainty:.0e}")
            print(table(rows), *(f"  {sentence(each)}" for each in found), sep="\n", flush=True)
            details = {"exact": exact._asdict(), "rows": [dataclasses.asdict(row) for row in rows]}
            results += [{**each, **details} for each in found]
    judged = [found for found in results if found["reached"] is not None]
    missed = [found["problem"] for found in judged if not found["reached"]]
    text = f"; missed: {', '.join(missed)}" if missed else ""
    print(f"{CAPTION}\naims reached: {len(judged) - len(missed)} of {len(judged)}{text}")
    save(options.json, about, results)
    return 1 if missed else 0


if __name__ == "__main__":
    on_one_thread()
    sys.exit(main())
