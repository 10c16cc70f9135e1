"""Where prompts start, estimated from K correct of M responses each, with its uncertainty.

K/M is a noisy pass rate: its spread is that of ρ and that of the binomial together. The distribution of ρ is sought by
maximum likelihood among all distributions on a grid even in log-odds (Kiefer and Wolfowitz' nonparametric maximum
likelihood), by the EM algorithm. It begins at the beta-binomial fit and ends when a step gains next to nothing: what
the counts say overrules the Beta distribution, and where they say nothing (prompts far below one success in M
responses) its shape is kept. How uncertain this is, is asked of prompts drawn anew with replacement (bootstrap), and
where their counts differ by less than binomial noise of prompts and responses drawn from the estimate.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln

from theory.beta_rates import beta_masses
from theory.quadrature import log_odds
from weightopt.columns import separated_by
from weightopt.errors import ProblemError
from weightopt.files import read_file
from weightopt.populations.metrics import Run, Step, plain
from weightopt.populations.pass_rates import (
    FLOOR,
    MAX_BYTES,
    MAX_LINES,
    check_floor,
    fit_beta_counts,
)

Array = NDArray[np.float64]
POINTS = 200  # of the grid; 0.07 in log-odds between two, what 1000 responses to a prompt tell apart
NOBODY = 1e-9  # share at which a point of the grid is left out
GAIN = 1e-3  # nats by which a step of EM must raise the log-likelihood to be followed by another one
LONGEST = 500  # steps of EM
FEWEST = 8  # prompts from which a bootstrap says anything
HEADER = ["correct", "responses", "prompts"]
LARGEST = 65536


class Counts(NamedTuple):
    """What was counted: prompts with `correct` of `responses`, `prompts` of them alike; all of shape (c,).

    ``source`` is for people, ``option`` the one of the command line that names it.
    """

    source: str
    correct: NDArray[np.int64]
    responses: NDArray[np.int64]
    prompts: NDArray[np.int64]
    option: str = "pass_rates"

    @property
    def total(self) -> int:
        """Prompts."""
        return int(np.sum(self.prompts))

    @property
    def mean(self) -> float:
        """Mean success, every prompt alike."""
        return float((self.correct / self.responses) @ self.prompts / self.total)


class Starts(NamedTuple):
    """Estimated starts.

    Attributes
    ----------
    counts
        What they are estimated from.
    rates
        Shape (g,). Success probabilities of the grid.
    share
        Shape (g,). Their estimated shares, sum 1.
    resampled
        Shape (b, g). The same from prompts, or prompts and responses, drawn anew.
    """

    counts: Counts
    rates: Array
    share: Array
    resampled: Array

    def mean(self) -> tuple[float, float, float]:
        """Mean success, and its 95 % interval."""
        return float(self.rates @ self.share), *interval(self.resampled @ self.rates)

    def below(self, rho: float) -> tuple[float, float, float]:
        """Share of prompts below a success probability, and its 95 % interval."""
        under = self.rates < rho
        return float(self.share[under].sum()), *interval(self.resampled[:, under].sum(axis=1))


def interval(values: Array) -> tuple[float, float]:
    """Percentile interval of 95 %."""
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def estimate(counts: Counts, *, floor: float = FLOOR, resamples: int = 200, seed: int = 0) -> Starts:
    """The distribution of success probabilities behind the counts.

    Parameters
    ----------
    counts
        At least 8 prompts; neither all responses right nor all wrong.
    floor
        The grid goes from here to 1 - floor, 1e-6 to 0.1; points of it at which nobody is are left out.
    resamples
        Bootstrap samples, 20 to 10,000.
    seed
        Of their draws.

    Raises
    ------
    ProblemError
        If a parameter is out of range, or the counts say nothing about a distribution.
    """
    check_floor(floor)
    if not 20 <= resamples <= 10_000:
        raise ProblemError("resamples", f"must be a whole number from 20 to 10000, got {resamples}")
    if counts.total < FEWEST:
        raise ProblemError(counts.option, f"must hold {FEWEST} prompts at least, holds {counts.total}")
    for wrong, outcome in ((counts.responses, "right"), (np.zeros_like(counts.responses), "wrong")):
        if np.all(counts.correct == wrong):
            raise ProblemError(counts.option, f"must not be all {outcome}: that says nothing about a distribution")
    theta = np.linspace(-log_odds(1 - floor), log_odds(1 - floor), POINTS)
    # Prompts that all have one pass rate find it on the grid.
    alike = log_odds(min(max(counts.mean, floor), 1 - floor))
    theta[np.argmin(np.abs(theta - alike))] = alike
    rates = expit(theta)
    edges = expit((theta[1:] + theta[:-1]) / 2)
    prior = beta_masses(*fit_beta_counts(counts.correct, counts.responses, counts.prompts), edges)
    prior = np.maximum(prior, 1e-6)
    prior /= prior.sum()
    rng = np.random.default_rng(seed)
    pairs, drawn = (counts.correct, counts.responses), counts.prompts[None].astype(np.float64)
    chances = _chances(*pairs, rates)
    shares = _fit(chances, prior, drawn)
    if _spread(counts) < 1:
        # Prompts drawn anew show nothing of the noise of counts that differ by less than it: responses are drawn too.
        pairs, drawn = _responses_drawn_anew(counts, rates, shares[0], resamples, rng)
        chances = _chances(*pairs, rates)
    else:
        drawn = rng.multinomial(counts.total, counts.prompts / counts.total, size=resamples).astype(np.float64)
    shares = np.vstack([shares, _fit(chances, prior, drawn)])
    held = np.max(shares, axis=0) >= NOBODY
    shares = shares[:, held] / shares[:, held].sum(axis=1, keepdims=True)
    return Starts(counts, rates[held], shares[0], shares[1:])


def _chances(correct: NDArray[np.int64], responses: NDArray[np.int64], rates: Array) -> Array:
    """Chance of each count at each success probability, shape (c, g)."""
    k, m = correct[:, None], responses[:, None]
    choose = gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)
    return np.exp(choose + k * np.log(rates) + (m - k) * np.log1p(-rates))


def _spread(counts: Counts) -> float:
    """Variance of the counts over that of the binomial, if all prompts had one success probability (Pearson)."""
    mean = float(counts.correct @ counts.prompts / (counts.responses @ counts.prompts))
    squares = (counts.correct - counts.responses * mean) ** 2 / (counts.responses * mean * (1 - mean))
    return float(squares @ counts.prompts) / counts.total


def _responses_drawn_anew(
    counts: Counts, rates: Array, share: Array, resamples: int, rng: np.random.Generator
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Array]:
    """As many prompts, from the estimate: which (correct, responses) there are, shape (c,), how many of each (b, c)."""
    correct, responses, drawn = [], [], []
    for size in np.unique(counts.responses):
        prompts = int(counts.prompts[counts.responses == size].sum())
        seen = np.arange(size + 1)
        chance = _chances(seen, np.full(seen.size, size), rates) @ share
        found = rng.multinomial(prompts, chance / chance.sum(), size=resamples)
        seen = np.flatnonzero(found.any(axis=0))
        correct.append(seen)
        responses.append(np.full(seen.size, size))
        drawn.append(found[:, seen])
    return (np.concatenate(correct), np.concatenate(responses)), np.hstack(drawn).astype(np.float64)


def _fit(likelihood: Array, prior: Array, prompts: Array) -> Array:
    """EM from `prior` for every row of counts, shape (b, c), at once; shape (b, g)."""
    total = prompts.sum(axis=1, keepdims=True)
    shares, before = np.tile(prior, (prompts.shape[0], 1)), np.full(prompts.shape[0], -math.inf)
    going = np.arange(prompts.shape[0])
    for _ in range(LONGEST):
        mixed = shares[going] @ likelihood.T
        reached = np.sum(prompts[going] * np.log(mixed), axis=1)
        shares[going] *= (prompts[going] / mixed) @ likelihood / total[going]
        still = reached - before[going] >= GAIN
        before[going] = reached
        going = going[still]
        if going.size == 0:
            break
    return shares


def read_counts(path: str) -> Counts:
    """Counts from a CSV file: correct,responses, a line for each prompt, or correct,responses,prompts.

    Raises
    ------
    ProblemError
        With the line and column that is wrong.
    """

    def refuse(sentence: str) -> NoReturn:
        raise ProblemError("pass_rates", f"file {path}: {sentence}")

    try:
        data = read_file(path, MAX_BYTES)
        if len(data) > MAX_BYTES:
            refuse(f"is larger than {MAX_BYTES >> 20} MiB; give at most {MAX_LINES} lines")
        text = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        rows = [(line, row) for line, row in enumerate(text, 1) if row and line <= MAX_LINES + 2]
    except OSError as error:
        refuse(f"cannot be read ({error.strerror}); give a CSV file with the columns correct,responses")
    except (ValueError, csv.Error):
        refuse("is not CSV text; give the columns correct,responses")
    header = [name.strip() for name in rows[0][1]] if rows else []
    if header not in (HEADER, HEADER[:2]):
        more = ": a pass rate alone does not say how far to trust it" if "rho" in header else ""
        more += separated_by(rows[0][1] if rows else [])
        refuse(f"line 1 must be the header correct,responses or correct,responses,prompts{more}")
    if not 1 <= len(rows) - 1 <= MAX_LINES:
        refuse(f"must have from 1 to {MAX_LINES} lines of numbers under its header, has {len(rows) - 1}")
    found = []
    for line, row in rows[1:]:
        if len(row) != len(header):
            refuse(f"line {line} has {len(row)} columns, must have {len(header)}")
        numbers = []
        for name, text in zip(header, (text.strip() for text in row), strict=True):
            if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= LARGEST):
                refuse(f"line {line}, column {name}: must be a whole number up to {LARGEST}, is {text[:40]!r}")
            numbers.append(int(text))
        correct, responses, prompts = (*numbers, 1)[:3]
        if not correct <= responses or responses < 1 or prompts < 1:
            refuse(f"line {line}: {correct} of {responses} responses to {prompts} prompts cannot be correct")
        found.append((correct, responses, prompts))
    lines = np.array(found)
    pairs, where = np.unique(lines[:, :2], axis=0, return_inverse=True)
    prompts = np.bincount(where.ravel(), lines[:, 2]).astype(np.int64)
    return Counts(f"{plain(Path(path).name)}, {prompts.sum()} prompts", pairs[:, 0], pairs[:, 1], prompts)


def counts_of_steps(run: Run, steps: Sequence[Step]) -> Counts:
    """Counts of the groups of some steps of a run, all of one group size."""
    size = steps[0].group_size
    histogram = np.sum([step.histogram for step in steps], axis=0)
    seen = np.flatnonzero(histogram)
    first, last = steps[0].step, steps[-1].step
    which = f"step {first}" if len(steps) == 1 else f"steps {first} to {last}"
    source = f"{run.name} {which}, {int(histogram.sum())} groups of {size}"
    return Counts(source, seen, np.full(seen.size, size), histogram[seen], run.option)
