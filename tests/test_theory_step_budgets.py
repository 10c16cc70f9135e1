"""Step budgets: coordinates that flatten their norms, and what a step costs."""

import numpy as np
import pytest
from scipy.special import expit

from theory.step_budgets import BUDGETS


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_the_coordinate_flattens_the_norm(budget):
    theta = np.linspace(-9, 9, 37)
    step = 1e-5
    numeric = (budget.coordinate(theta + step) - budget.coordinate(theta - step)) / (2 * step)
    # Central differences: 1e-16/1e-5 of rounding in x, which is up to 9.
    np.testing.assert_allclose(budget.slope(theta), numeric, atol=1e-9)
    np.testing.assert_allclose(budget.success(budget.coordinate(theta)), expit(theta), rtol=1e-12)
    density = {"weight": 1.0, "square": 1.0, "kl": expit(theta) * expit(-theta)}[budget.name]
    np.testing.assert_allclose(budget.slope(theta) ** 2, np.broadcast_to(density, theta.shape), rtol=1e-12)


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_the_norm_is_that_of_the_whole_list_of_prompts(budget):
    change, counts = np.array([0.3, -1.2, 2.0]), np.array([2, 1, 5])
    every = np.repeat(change, counts)
    expected = np.mean(np.abs(every) ** budget.exponent) ** (1 / budget.exponent)
    assert budget.norm(change, counts / 8) == pytest.approx(expected, rel=1e-14)
    assert budget.norm(-3 * change, counts / 8) == pytest.approx(3 * expected, rel=1e-14)


def test_the_angle_is_the_fisher_rao_length_and_a_step_costs_its_kl():
    # KL(π⁺|π) of two outcomes under a step η in log-odds is η²ρ(1-ρ)/2 to leading order.
    rho, eta = 0.2, 1e-3
    after = expit(np.log(rho / (1 - rho)) + eta)
    kl = after * np.log(after / rho) + (1 - after) * np.log((1 - after) / (1 - rho))
    assert kl == pytest.approx(eta**2 * rho * (1 - rho) / 2, rel=eta)
    assert BUDGETS["kl"].coordinate(0.0) == pytest.approx(np.pi / 2, rel=1e-15)
