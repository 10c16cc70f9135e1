"""Several rows a response: agents whose conversation a trainer cuts into training samples.

A table counts responses. Where a host tells which rows are of one response, the last one's score stands for all of
them, and all get its advantage.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightopt.adapters.weigher import GroupWeigher


def weigh_sessions(
    weigher: GroupWeigher,
    ids: Sequence[Hashable],
    sessions: Sequence[Hashable],
    scores: Sequence[float | None],
    order: Sequence[int] | None = None,
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Advantage of every row, one response counted once.

    Parameters
    ----------
    weigher
        Of the table.
    ids
        The group of each row.
    sessions
        The response of each row, unique within its group.
    scores
        As for the weigher; those before a response's last row are not looked at.
    order
        Place of each row in its response; default the order of the rows.

    Returns
    -------
    advantages : ndarray
        Shape of `ids`.
    metrics : dict
        As of the weigher, over responses.
    """
    last: dict[tuple[Hashable, Hashable], int] = {}
    for row, key in enumerate(zip(ids, sessions, strict=True)):
        if key not in last or order is None or order[row] >= order[last[key]]:
            last[key] = row
    place = {key: at for at, key in enumerate(last)}
    rows = list(last.values())
    advantages, metrics = weigher([ids[row] for row in rows], [scores[row] for row in rows])
    return advantages[[place[key] for key in zip(ids, sessions, strict=True)]], metrics
