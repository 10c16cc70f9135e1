"""Every clock is what a simulated loop pays for a unit of progress, within the simulation's standard error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from sim.engine import FiniteSample
from sim.loops import Lengths, moves, pay
from sim.weighting import PromptWeights, read
from theory import clocks
from theory.finite_group import speed
from theory.log_linear import LogLinear

RHO = (0.03, 0.3, 0.7)
LENGTHS = Lengths(right=100.0, wrong=700.0)
# Mean length at every place that is tried: right and wrong responses in their shares.
MEAN = LogLinear(RHO, tuple(rho * LENGTHS.right + (1 - rho) * LENGTHS.wrong for rho in RHO))
TOKENS = {kind: clocks.Tabulated(kind, "lengths", MEAN) for kind in clocks.TABULATED}
STEPS, PROMPTS = 400, 1000
FIVE = 5  # standard errors; each of some 50 comparisons is further off once in two million seeds


def weights(name: str = "grpo", size: int = 8) -> PromptWeights:
    return read(name, size)


def agrees(clock, rho, table, **loop):
    """The price that a loop paid, and how many standard errors c/u is away from it."""
    paid = pay(clock, table, rho, np.random.default_rng(7), steps=STEPS, prompts=PROMPTS, **loop)
    moved = float(paid.progress.mean())
    u = float(speed([rho], table.correct, table.wrong, "ratio")[0])
    single = {"until-success", "until-both"} & set(clock.loops)
    due = float(clock(np.asarray(rho))) / (float(table.curve(np.asarray(rho))) if single else u)
    assert moved > 0
    # A thought experiment divides by a random number of draws, which is biased by one part in the prompts of a step.
    room = FIVE * paid.error + 1e-12 * paid.price + (paid.price / PROMPTS if clocks.NO_LOOP in clock.loops else 0.0)
    assert paid.error < 0.01 * paid.price  # or the comparison would say little
    return paid, abs(paid.price - due) <= room, due


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("name", ["regular", "effective", "failures", "both", "affine:1,0.5", "mixed:8", "success:8"])
def test_a_loop_pays_its_clock(name, rho):
    # GRPO has no rule for uniform groups: with one, groups that are not kept would move too.
    paid, fine, due = agrees(clocks.parse(name), rho, weights())
    assert fine, (paid.price, paid.error, due)


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("name", ["linear-r", "sqrt-r", "rloo"])
def test_a_fixed_batch_pays_the_regular_clock_with_rules_for_uniform_groups_too(name, rho):
    paid, fine, due = agrees(clocks.REGULAR, rho, weights(name))
    assert fine, (paid.price, paid.error, due)


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("prices", ["1,0", "0,1", "1,2.5"])
def test_refilling_pays_draws_and_updates(prices, rho):
    paid, fine, due = agrees(clocks.parse(f"refill:8,{prices}"), rho, weights())
    assert fine, (paid.price, paid.error, due)


@pytest.mark.parametrize("rho", RHO)
def test_refilling_in_groups_drawn_pays_the_regular_clock_and_not_the_mixed_one(rho):
    paid, fine, due = agrees(clocks.REGULAR, rho, weights(), refill=True)
    assert fine, (paid.price, paid.error, due)
    _, as_charged, _ = agrees(clocks.Mixed(8), rho, weights())
    assert as_charged  # by a loop that divides by the groups drawn
    charged = due * float(clocks.Mixed(8)(np.asarray(rho)))
    assert charged > paid.price + 8 * paid.error


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("refill", [False, True], ids=["fixed batch", "refill"])
def test_tokens_drawn_pay_the_clock_of_tokens(refill, rho):
    paid, fine, due = agrees(TOKENS["tokens"], rho, weights(), refill=refill, lengths=LENGTHS)
    assert fine, (paid.price, paid.error, due)


@pytest.mark.parametrize("rho", RHO)
def test_tokens_until_a_success_and_measured_costs(rho):
    for clock, lengths in ((TOKENS["tokens-effective"], LENGTHS), (TOKENS["csv"], None)):
        paid, fine, due = agrees(clock, rho, weights(), lengths=lengths)
        assert fine, (clock.name, paid.price, paid.error, due)


@pytest.mark.parametrize("rho", RHO)
def test_updates_by_mixed_pairs_pay_the_variance_of_the_reward(rho):
    paid, fine, due = agrees(clocks.VARIANCE, rho, weights("rloo", 2))
    assert fine, (paid.price, paid.error, due)


def test_every_clock_names_loops_that_there_are():
    names = [*clocks.PLAIN, "mixed:8", "success:8", "success:1", "affine:1,0.5", "refill:8,1,1"]
    for clock in (*map(clocks.parse, names), *TOKENS.values()):
        assert set(clock.loops) <= clocks.LOOPS.keys()
        assert clock.loops
        assert "\n" not in clock.paid_by


def test_the_engine_moves_kept_groups_as_the_loop_says():
    # The engine that simulations run on, with groups drawn again until they are mixed: groups per progress are 1/u.
    table, rho, n, step = weights(), 0.05, 400_000, 1e-6
    theta = np.full(n, logit(rho))
    tally = FiniteSample(table, step, "ratio", most_groups=10_000)(theta, np.random.default_rng(3))
    progress = (theta - logit(rho)) / step
    price = tally.groups / n / progress.mean()
    u = float(speed([rho], table.correct, table.wrong, "ratio")[0])
    spread = np.std(progress) / progress.mean() + 1  # draws are geometric: of about their mean's spread
    assert price == pytest.approx(1 / u, rel=FIVE * spread / np.sqrt(n))
    assert np.allclose(np.unique(np.round(progress, 6)), np.unique(np.round(moves(table, rho)[1:-1], 6)), atol=1e-5)
