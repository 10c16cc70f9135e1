"""The advantage of each response, looked up in a weight table by the success count of its group."""

import numpy as np

from rl.errors import UsageError
from weightopt.table import WeightTable


def look_up_advantages(table: WeightTable, successes: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Advantage of every response.

    Parameters
    ----------
    table
        A group table of size M (`WeightTable.for_group`).
    successes
        Number correct K of each group, shape (P,).
    correct
        Which responses are correct, shape (P, M), bool.

    Returns
    -------
    numpy.ndarray
        Shape (P, M), float64. In a group with K of M correct a correct response has ``advantage_correct[K]`` and a
        wrong one ``advantage_wrong[K]``: whatever the table says, nothing is centred or scaled here.

    Raises
    ------
    UsageError
        If the table is not for groups of M responses.
    """
    group_size = correct.shape[1]
    if table.group_size != group_size or table.advantage_correct is None or table.advantage_wrong is None:
        raise UsageError(f"table {table.name!r} is not for groups of {group_size} responses: call for_group first")
    if_correct = np.asarray(table.advantage_correct, dtype=np.float64)[successes]
    if_wrong = np.asarray(table.advantage_wrong, dtype=np.float64)[successes]
    return np.where(correct, if_correct[:, None], if_wrong[:, None])
