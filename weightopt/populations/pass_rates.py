"""Start distributions of a population: Beta(a, b), pass rates from a CSV file, or a run's metrics file.

Two rules, the same for all. Success probabilities below `floor` or above 1 - floor are set there, since a measured 0 or
1 stands for "too rare to have been seen", and how many were is said. At most `prompts` different ones are kept: a
longer list becomes its quantiles at (k+½)/prompts, as a Beta distribution does.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from theory.beta_rates import beta_binomial_log_likelihood, beta_midpoints
from weightopt.columns import number, separated_by
from weightopt.errors import ProblemError
from weightopt.files import read_file
from weightopt.populations.metrics import plain, read_run
from weightopt.populations.problem import HARDEST, MAX_PROMPTS

Array = NDArray[np.float64]
PROMPTS, FLOOR = 200, 0.001
MAX_BYTES = 64 * 2**20
MAX_LINES = 100_000
LARGEST_COUNT = 10**6
SMALLEST_SHAPE, LARGEST_SHAPE = 0.05, 500.0  # of a Beta distribution

# Training from scratch: few prompts are ever solved. After supervised fine-tuning: success spread around one half.
PRESETS = {"from-scratch": (0.3, 3.0), "post-sft": (2.0, 2.0)}


class PassRates(NamedTuple):
    """A start distribution.

    Attributes
    ----------
    source
        Where it comes from and what was done with it, one line for people.
    rates
        Different success probabilities, rising.
    counts
        How many prompts have each.
    clipped
        How many prompts were set to the floor or to 1 - floor.
    """

    source: str
    rates: tuple[float, ...]
    counts: tuple[int, ...]
    clipped: int


def from_beta(a: float, b: float, prompts: int = PROMPTS, floor: float = FLOOR, name: str | None = None) -> PassRates:
    """Beta(a, b) as equal prompts at its quantile midpoints; a and b from 0.05 to 500.

    Raises
    ------
    ProblemError
        If a parameter is out of range.
    """
    _check(prompts, floor)
    for value in (a, b):
        if not SMALLEST_SHAPE <= value <= LARGEST_SHAPE:
            raise ProblemError(
                "beta", f"needs two numbers a,b from {SMALLEST_SHAPE:g} to {LARGEST_SHAPE:g}, got {a:g},{b:g}"
            )
    rates = beta_midpoints(a, b, prompts)
    return _gather(name or f"Beta({a:.4g}, {b:.4g})", rates, np.ones(prompts, dtype=int), prompts, floor)


def read_beta(text: str, prompts: int = PROMPTS, floor: float = FLOOR) -> PassRates:
    """`from_beta` of a text a,b."""
    try:
        a, b = map(number, text.split(","))
    except ValueError:
        raise ProblemError("beta", f"needs two numbers a,b, such as 0.3,3, got {text[:40]!r}") from None
    return from_beta(a, b, prompts, floor)


def from_preset(name: str, prompts: int = PROMPTS, floor: float = FLOOR) -> PassRates:
    """The start distribution of a regime of the paper."""
    if name not in PRESETS:
        raise ProblemError("preset", f"must be one of {', '.join(PRESETS)}, got {name[:40]!r}")
    a, b = PRESETS[name]
    return from_beta(a, b, prompts, floor, f"{name}, Beta({a:g}, {b:g})")


def read_rates(path: str, prompts: int = PROMPTS, floor: float = FLOOR) -> PassRates:
    """Pass rates from a CSV file with column rho, a line for each prompt, or rho,count, a line for each pass rate.

    Raises
    ------
    ProblemError
        With the line and column that is wrong.
    """
    _check(prompts, floor)

    def refuse(sentence: str) -> NoReturn:
        raise ProblemError("rates", f"file {path}: {sentence}")

    try:
        data = read_file(path, MAX_BYTES)
        if len(data) > MAX_BYTES:
            refuse(f"is larger than {MAX_BYTES >> 20} MiB; give at most {MAX_LINES} lines")
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        rows = [(line, row) for line, row in enumerate(lines, 1) if row and line <= MAX_LINES + 2]
    except OSError as error:
        refuse(f"cannot be read ({error.strerror}); give a CSV file with the column rho, or rho,count")
    except (ValueError, csv.Error):
        refuse("is not CSV text; give the column rho, or rho,count")
    header = [name.strip() for name in rows[0][1]] if rows else []
    if header not in (["rho"], ["rho", "count"]):
        refuse(f"line 1 must be the header rho, or rho,count{separated_by(rows[0][1] if rows else [])}")
    if not 1 <= len(rows) - 1 <= MAX_LINES:
        refuse(f"must have from 1 to {MAX_LINES} lines of numbers under its header, has {len(rows) - 1}")
    rates, counts = np.empty(len(rows) - 1), np.ones(len(rows) - 1, dtype=int)
    for at, (line, row) in enumerate(rows[1:]):
        if len(row) != len(header):
            refuse(f"line {line} has {len(row)} columns, must have {len(header)}")
        try:
            rates[at] = number(row[0])
        except ValueError:
            refuse(f"line {line}, column rho: {row[0].strip()[:40]!r} is not a number")
        if not 0 <= rates[at] <= 1:
            refuse(f"line {line}, column rho: must lie in [0, 1], is {rates[at]:g}")
        if len(row) == 2:
            text = row[1].strip()
            if not (text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= LARGEST_COUNT):
                refuse(f"line {line}, column count: must be a whole number from 1 to {LARGEST_COUNT}, is {text[:40]!r}")
            counts[at] = int(text)
    return _gather(f"{plain(Path(path).name)}, {int(np.sum(counts))} prompts", rates, counts, prompts, floor)


def read_metrics(path: str, step: int | None = None, prompts: int = PROMPTS, floor: float = FLOOR) -> PassRates:
    """The start distribution of a training run from the success histogram of one of its steps.

    K/M of a group of M is a noisy pass rate: its spread is that of ρ and that of the binomial together, and with M = 16
    a prompt at ρ = 0.05 shows 0 in 44 % of the groups. The noise is taken out by a model: ρ ~ Beta(a, b),
    K ~ Bin(M, ρ), a and b by maximum likelihood from the histogram. What is used is that Beta distribution.

    Parameters
    ----------
    path
        ``metrics.jsonl``, or the folder of a run.
    step
        Which step; default the first in the file.
    prompts, floor
        As in `from_beta`.

    Raises
    ------
    ProblemError
        If the file, the step or the histogram is not usable.
    """
    _check(prompts, floor)
    run = read_run(path)
    (chosen,) = run.since(step)
    histogram = chosen.histogram.astype(np.float64)
    size, groups = chosen.group_size, int(np.sum(histogram))
    for at, outcome in ((0, "wrong"), (size, "right")):
        if histogram[at] == groups:
            run.refuse(
                f"line {chosen.line}: all responses of the step are {outcome}, which says nothing about a distribution"
            )
    a, b = fit_beta(histogram)
    name = f"Beta({a:.3g}, {b:.3g}) fitted to {groups} groups of {size}, {run.name} step {chosen.step}"
    return from_beta(a, b, prompts, floor, name[:200])


def fit_beta(histogram: Array) -> tuple[float, float]:
    """(a, b) of largest beta-binomial likelihood, each 0.05 to 500, from groups with K = 0..M correct; shape (M+1,)."""
    correct = np.arange(histogram.size)
    return fit_beta_counts(correct, np.full(histogram.size, histogram.size - 1), histogram)


def fit_beta_counts(correct: NDArray[Any], responses: NDArray[Any], prompts: NDArray[Any]) -> tuple[float, float]:
    """The same from `prompts` prompts with `correct` of `responses` each, all of shape (c,)."""
    limits, total = (math.log(SMALLEST_SHAPE), math.log(LARGEST_SHAPE)), float(np.sum(prompts))

    def loss(logs: Array) -> float:
        a, b = np.exp(logs).tolist()
        return -beta_binomial_log_likelihood(a, b, correct, responses, prompts) / total

    mean = float((correct / responses) @ prompts) / total
    starts = [np.clip(np.log([mean * total, (1 - mean) * total]), *limits) for total in (0.3, 3.0, 30.0)]
    fits = [minimize(loss, start, method="L-BFGS-B", bounds=[limits, limits]) for start in starts]
    best = min(fits, key=lambda fit: fit.fun).x
    # Rounding must not carry exp(ln limit) over the limit.
    a, b = np.clip(np.exp(best), SMALLEST_SHAPE, LARGEST_SHAPE).tolist()
    return a, b


def _check(prompts: int, floor: float) -> None:
    if not 1 <= prompts <= MAX_PROMPTS:
        raise ProblemError("prompts", f"must be a whole number from 1 to {MAX_PROMPTS}, got {prompts}")
    check_floor(floor)


def check_floor(floor: float) -> None:
    """Refuse a floor of success probabilities that is out of range; raises `ProblemError`."""
    if not HARDEST <= floor <= 0.1:
        raise ProblemError("floor", f"must be a success probability from {HARDEST:g} to 0.1, got {floor:g}")


def _gather(source: str, rates: Array, counts: NDArray[np.int_], prompts: int, floor: float) -> PassRates:
    """Clip, merge equal rates, and thin out to quantiles what is still too long."""
    clipped = int(np.sum(counts[(rates < floor) | (rates > 1 - floor)]))
    different, index = np.unique(np.clip(rates, floor, 1 - floor), return_inverse=True)
    merged = np.bincount(index, counts, different.size).astype(int)
    if different.size > prompts:
        below = np.cumsum(merged)
        at = np.searchsorted(below, (np.arange(prompts) + 0.5) / prompts * below[-1])
        different, merged = np.unique(different[at], return_counts=True)
        source += f" as {prompts} quantiles"
    return PassRates(source, tuple(different.tolist()), tuple(merged.tolist()), clipped)
