"""The advantage of each response, looked up in a weight table at an estimate of its prompt's success.

With the estimate K/M, the group's own share of right responses, the table is read at K and gives both advantages. With
the leave-one-out estimate ρ̂_i, the share correct among the M-1 other responses, the table gives the weight ω(ρ̂_i), and
in a mixed group the advantage is

    A_i = ω(ρ̂_i) (r_i - ρ̂_i).

ρ̂_i does not depend on response i, so the expected gradient is E[ω(ρ̂_i)] ∇ρ: the weight alone, without a trace of the
baseline. In groups that are all wrong or all right r_i = ρ̂_i, and the table's two rules apply, as they do at K.
"""

from collections.abc import Callable

import numpy as np

from rl.errors import UsageError
from rl.step.config import WeightingConfig
from rl.step.success import count_successes, leave_one_out
from weightopt.table import WeightTable

# Weight and advantages of a table are computed from one another in a few operations.
ROUNDING = 1e-9


def weigh(
    config: WeightingConfig,
    table: WeightTable,
    weight: Callable[[np.ndarray], np.ndarray] | None,
    correct: np.ndarray,
    *,
    all_wrong_factor: float,
) -> np.ndarray:
    """Advantage of every response of a step.

    Parameters
    ----------
    table
        That of the step, for groups of M.
    weight
        ω of that table at any success probability; None with the estimate ``"group"``, which does not need it.
    correct
        Which responses are correct, shape (P, M), bool; P may be 0.
    all_wrong_factor
        What the advantage of all-wrong groups is multiplied by.

    Returns
    -------
    numpy.ndarray
        Shape (P, M), float64.
    """
    successes = count_successes(correct)
    advantages = table.advantages(successes[:, np.newaxis], correct)
    if config.estimate != "group":
        assert weight is not None
        mixed = (successes > 0) & (successes < correct.shape[1])
        advantages[mixed] = centred_advantages(weight, leave_one_out(correct)[mixed], correct[mixed])
    advantages[successes == 0] *= all_wrong_factor
    return advantages


def centred_advantages(
    weight: Callable[[np.ndarray], np.ndarray], estimate: np.ndarray, correct: np.ndarray
) -> np.ndarray:
    """ω(ρ̂_i) (r_i - b_i) for every response, b_i the share correct among the others of its group.

    An estimate of 0 or 1, which leave-one-out gives where one response is unlike all others, is read as 1/M or 1-1/M:
    the lowest and highest success a group of M can show, and finite for every weighting.

    Parameters
    ----------
    weight
        ω, from an array of success probabilities in (0, 1).
    estimate
        ρ̂ for each response, shape (P, M), in [0, 1].
    correct
        Shape (P, M), bool.
    """
    size = correct.shape[1]
    inside = np.where(estimate <= 0, 1 / size, np.where(estimate >= 1, 1 - 1 / size, estimate))
    return weight(inside) * (correct - leave_one_out(correct))


def weight_function(table: WeightTable) -> Callable[[np.ndarray], np.ndarray]:
    """ω of a table at any success probability in (0, 1).

    A curve is read as it is everywhere (`WeightTable.__call__`). The weights of a group table are interpolated linearly
    in log-odds, not in logarithms since some may be 0; below 1/M and above 1-1/M the end weights are held.

    Raises
    ------
    UsageError
        If the advantages of a group table are not weight times (r - K/M), so that no weight stands for them.
    """
    if table.group_size is None:
        return table
    rho, omega = np.array(table.rho), np.array(table.weight)
    right, wrong = np.array(table.advantage_correct)[1:-1], np.array(table.advantage_wrong)[1:-1]
    tolerance = ROUNDING * np.maximum(omega, 1.0)
    if np.any(np.abs(right - omega * (1 - rho)) > tolerance) or np.any(np.abs(wrong + omega * rho) > tolerance):
        raise UsageError(
            f"table {table.name!r} holds advantages that are not weight times (r - K/M): it can only be read with "
            "weighting.estimate = 'group'"
        )
    log_odds = np.log(rho) - np.log1p(-rho)

    def weight(at: np.ndarray) -> np.ndarray:
        return np.interp(np.log(at) - np.log1p(-at), log_odds, omega)

    return weight
