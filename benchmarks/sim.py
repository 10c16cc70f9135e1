"""Prompt-steps per second of `sim.engine.FiniteSample`, and of what it is to be compared with.

    python -m benchmarks.sim [--prompts N] [--group-size M]

The step: for each prompt K ~ Bin(M, ρ), a table look-up at K, θ moved. Compared are

* plain numpy, the readable reference: `plain_numpy` below, whose distribution a test compares with the engine's;
* numba with inversion of the binomial distribution function, one uniform number a group;
* a floor, the least that any such step does: one random word, one table look-up and one sigmoid a prompt, once as the
  plain loop and once in the engine's own vector code.

Start it as a module: by its path this file would shadow the package it measures.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from numba import njit

from benchmarks.harness import introduce, machine
from sim import kernels
from sim.engine import FiniteSample, in_threads
from sim.weighting import read

STEP_SIZE = 1e-3
STEPS = 5
ROUNDS = 9
LIMIT = kernels.LOG_ODDS_LIMIT
_mix, _BLOCK = kernels._mix, kernels.BLOCK


def plain_numpy(log_odds, rng, correct, wrong, step_size):
    """One finite-sample step, model ``ratio``, in place: θ += η [(K/M) A⁺_K/ρ - (1-K/M) A⁻_K/(1-ρ)]."""
    size = correct.size - 1
    rho = 1 / (1 + np.exp(-log_odds))
    successes = rng.binomial(size, rho)
    share = successes / size
    log_odds += step_size * (share * correct[successes] / rho - (1 - share) * wrong[successes] / (1 - rho))
    np.clip(log_odds, -LIMIT, LIMIT, out=log_odds)


@njit(nogil=True, error_model="numpy")
def inversion(log_odds, first, key, size, gain_correct, gain_wrong):
    """The same step; K by inversion: the terms of the distribution function added up until they exceed a uniform."""
    for i in range(log_odds.size):
        theta = log_odds[i]
        odds = math.exp(-abs(theta))
        uniform = np.float64(_mix(key + np.uint64(first + i)) >> np.uint64(11)) * 2.0**-53
        term = (1 / (1 + odds)) ** size
        total, rare = term, 0
        while uniform > total and rare < size:
            rare += 1
            term *= odds * (size - rare + 1) / rare
            total += term
        k = size - rare if theta > 0 else rare
        minus = odds if theta > 0 else 1 / odds
        moved = theta + gain_correct[k] * (1 + minus) + gain_wrong[k] * (1 + 1 / minus)
        log_odds[i] = min(max(moved, -LIMIT), LIMIT)


@njit(nogil=True, error_model="numpy")
def floor_loop(log_odds, first, key, size, gain):
    """One random word, one sigmoid, one look-up."""
    for i in range(log_odds.size):
        uniform = np.float64(_mix(key + np.uint64(first + i)) >> np.uint64(11)) * 2.0**-53
        rho = 1 / (1 + math.exp(-log_odds[i]))
        log_odds[i] += gain[np.int64(uniform * rho * size)]


@njit(nogil=True, error_model="numpy")
def _floor_move(log_odds, odds, power, first, key, size, gain):
    for i in range(log_odds.size):
        uniform = np.float64(_mix(key + np.uint64(first + i)) >> np.uint64(11)) * 2.0**-53
        e = odds[i] * power[i]
        rho = (1 if log_odds[i] > 0 else e) / (1 + e)
        log_odds[i] += gain[np.int64(uniform * rho * size)]


@njit(nogil=True, error_model="numpy")
def floor_blocks(log_odds, first, key, size, gain):
    """The same with the engine's exponential, block by block."""
    odds, power = np.empty(_BLOCK), np.empty(_BLOCK, np.int64)
    for start in range(0, log_odds.size, _BLOCK):
        here = log_odds[start : start + _BLOCK]
        kernels._exponential(here, odds, power)
        _floor_move(here, odds, power.view(np.float64), first + start, key, size, gain)


def threaded(kernel: Callable[..., None], log_odds, key, *arguments) -> None:
    """Run a kernel over the prompts in as many threads as the engine uses."""

    def part(start: int, stop: int) -> tuple[int, int, int]:
        kernel(log_odds[start:stop], start, key, *arguments)
        return 0, 0, 0

    in_threads(part, log_odds.size, arguments[0], 0)


def seconds(step: Callable[[np.ndarray, int], object], start: np.ndarray) -> float:
    """Seconds a step takes, mean over a few from the same start."""
    log_odds = start.copy()
    began = time.perf_counter()
    for key in range(STEPS):
        step(log_odds, key)
    return (time.perf_counter() - began) / STEPS


def measure(prompts: int, size: int) -> dict[str, float]:
    """Prompt-steps per second by what was measured: the best of rounds in which everybody has a turn."""
    rng = np.random.default_rng(0)
    rho = np.clip(rng.beta(0.3, 3, prompts), 1e-3, 1 - 1e-3)
    start = np.log(rho) - np.log1p(-rho)
    weights = read("grpo", size)
    share = np.arange(size + 1) / size
    gain = STEP_SIZE * share * weights.correct, -STEP_SIZE * (1 - share) * weights.wrong
    engines = {model: FiniteSample(weights, STEP_SIZE, model) for model in ("ratio", "outcome")}
    steps: dict[str, Callable[[np.ndarray, int], object]] = {
        "plain numpy (one thread)": lambda theta, _: plain_numpy(theta, rng, weights.correct, weights.wrong, STEP_SIZE),
        "numba, inversion": lambda theta, key: threaded(inversion, theta, np.uint64(key), size, *gain),
        "floor, plain loop": lambda theta, key: threaded(floor_loop, theta, np.uint64(key), size, gain[0]),
        "floor, vector code": lambda theta, key: threaded(floor_blocks, theta, np.uint64(key), size, gain[0]),
        "ours, ratio": lambda theta, _: engines["ratio"](theta, rng),
        "ours, outcome": lambda theta, _: engines["outcome"](theta, rng),
    }
    for step in steps.values():
        seconds(step, start[: 1 << 17])  # compiled
    rounds = [{name: seconds(step, start) for name, step in steps.items()} for _ in range(ROUNDS)]
    return {name: prompts / min(each[name] for each in rounds) for name in steps}


def main() -> None:
    parser = argparse.ArgumentParser(description="Prompt-steps per second of the finite-sample engine.")
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--group-size", type=int, default=16)
    arguments = parser.parse_args()
    rates = measure(arguments.prompts, arguments.group_size)
    introduce(machine(("weightopt", "numpy", "numba")))
    print(f"{arguments.prompts:,} prompts, M = {arguments.group_size}")
    for name, value in rates.items():
        print(f"  {name:<26}{value / 1e6:8.1f} million prompt-steps per second")
    ours = rates["ours, ratio"]
    print(f"  ours is {ours / rates['plain numpy (one thread)']:.1f} times plain numpy (to reach: 6)")
    for floor in ("floor, plain loop", "floor, vector code"):
        print(f"  {floor} is {rates[floor] / ours:.2f} times ours (to reach: at most 2)")


if __name__ == "__main__":
    main()
