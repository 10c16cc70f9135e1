"""The advantage of each response, looked up in a weight table at K, the number of right responses of its group."""

import numpy as np

from rl.step.success import count_successes
from weightopt.table import WeightTable


def weigh(table: WeightTable, correct: np.ndarray, *, all_wrong_factor: float) -> np.ndarray:
    """Advantage of every response of a step.

    Parameters
    ----------
    table
        That of the step, for groups of M.
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
    advantages[successes == 0] *= all_wrong_factor
    return advantages
