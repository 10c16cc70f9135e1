"""From scored responses to the advantages of a weight table, whatever order a trainer keeps its groups in."""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weightopt.table import WeightTable

# Group numbers that are spread over at most this many times their count are counted directly instead of sorted.
SPREAD = 8


class AdapterError(ValueError):
    """Scores or settings of a host with which the weight is not the table's; the message says what is valid."""


class GroupWeigher:
    """Advantages of a weight table for groups of scored responses.

    Parameters
    ----------
    table
        A table, or the path of its file, which is read here and never again: a pickled weigher carries the table.
    threshold
        A response is correct if its score is at least this; None (default): scores must be 0 and 1.
    host
        The trainer that calls, named at the start of every error message.

    Raises
    ------
    AdapterError
        If the threshold is not a finite number.
    weightopt.table.TableError
        If the file is bad.

    Examples
    --------
    >>> from weightopt.adapters import GroupWeigher
    >>> from weightopt.table import WeightTable
    >>> flat = WeightTable(
    ...     name="flat", label="Constant weight", group_size=None, rho=(0.1, 0.9), weight=(2.0, 2.0),
    ...     all_wrong_advantage=0.0, all_right_advantage=0.0,
    ... )
    >>> advantages, metrics = GroupWeigher(flat)(["a", "b", "a", "b"], [1, 0, 0, 0])
    >>> advantages.tolist(), float(metrics["all_wrong"])
    ([1.0, 0.0, -1.0, 0.0], 0.5)
    """

    def __init__(
        self, table: WeightTable | str | os.PathLike[str], threshold: float | None = None, *, host: str = ""
    ) -> None:
        self.host = host
        if threshold is not None and (
            isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold)
        ):
            raise self.error(f"the threshold must be a finite number or None, found {threshold!r:.40}")
        self.table = table if isinstance(table, WeightTable) else WeightTable.load(table)
        self.threshold = threshold
        self._groups: dict[int, WeightTable] = {}

    def __call__(
        self,
        ids: Sequence[Hashable] | NDArray[Any],
        scores: ArrayLike | Sequence[float | None],
        correct: ArrayLike | Sequence[bool | None] | None = None,
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Advantage of every response.

        A response whose score is NaN or None cannot be scored: its advantage is 0, and its group is one smaller.

        Parameters
        ----------
        ids
            The group of each response, shape (N,): whole numbers, strings or any hashable. Groups may differ in size
            and be mixed in any order.
        scores
            Shape (N,): 0 or 1, or with a threshold any finite number.
        correct
            Whether each response is correct, shape (N,), 0 or 1, where scores hold more than correctness; the scores
            and the threshold are not looked at then.

        Returns
        -------
        advantages : ndarray
            Shape (N,), float64. In a group with K of M correct what the table says at K.
        metrics : dict
            ``success_histogram``: how many groups have K correct, for K = 0 to the largest M; ``all_wrong`` and
            ``all_right``: shares of groups; ``groups``: how many have a response that can be scored;
            ``effective_groups``: (Σ a)²/Σ a², a the sum of ``|A|`` over a group, which is the number of groups if all
            weigh the same; ``mean_abs_advantage``: over the responses that can be scored; ``unscorable``: how many
            cannot.

        Raises
        ------
        AdapterError
            If ids or scores are not of this form, or a group is not of the size that a group table is made for.
        """
        known, right = self._correctness(scores if correct is None else correct, shaped=correct is None)
        groups, count = self._numbered(ids, len(right))
        drawn = np.bincount(groups, minlength=count)
        scorable = drawn if known is None else np.bincount(groups[known], minlength=count)
        successes = np.bincount(groups[right], minlength=count)
        advantages = np.zeros(len(right))
        sizes = np.flatnonzero(np.bincount(scorable, minlength=1)[1:]) + 1
        for size in sizes.tolist():
            self._check_size(size, drawn[scorable == size])
            if len(sizes) == 1 and known is None:
                advantages = self._read(size, successes[groups], right)
            else:
                here = scorable[groups] == size
                here &= True if known is None else known
                advantages[here] = self._read(size, successes[groups[here]], right[here])
        return advantages, _metrics(advantages, groups, drawn, scorable, successes)

    def for_group(self, size: int) -> WeightTable:
        """The table for groups of `size` responses that can be scored; made once.

        Raises
        ------
        AdapterError
            If the table is for groups of another size.
        """
        if size not in self._groups:
            if self.table.group_size not in (None, size):
                made = self.table.group_size
                raise self.error(
                    f"table {self.table.name!r} is for groups of {made} responses and a group has {size}; set the "
                    f"host to {made} responses a prompt, or use a curve (a table without --group-size), which fits any"
                )
            self._groups[size] = self.table.for_group(size)
        return self._groups[size]

    def error(self, sentence: str) -> AdapterError:
        """The error that says `sentence` in the name of the host."""
        return AdapterError(f"{self.host}: {sentence}." if self.host else f"{sentence}.")

    def __getstate__(self) -> dict[str, Any]:
        """All but the tables that were made of the curve, which can be made again."""
        return {**self.__dict__, "_groups": {}}

    def _read(self, size: int, successes: NDArray[np.intp], right: NDArray[np.bool_]) -> NDArray[np.float64]:
        if size == 1:  # one response is all wrong or all right, and no table is for groups of one
            return np.where(right, self.table.all_right_advantage, self.table.all_wrong_advantage)
        return self.for_group(size).advantages(successes, right)

    def _check_size(self, size: int, drawn: NDArray[np.intp]) -> None:
        made = self.table.group_size
        if made is not None and size != made and made in drawn:
            raise self.error(
                f"of a group of {made} only {size} can be scored (the others are None or NaN), and table "
                f"{self.table.name!r} can be read at {made} alone; use a curve (a table without --group-size)"
            )
        if size > 1 or made is not None:
            self.for_group(size)

    def _correctness(self, scores: Any, *, shaped: bool) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
        """Which responses can be scored (None: all), and which are correct; a threshold is for shaped scores."""
        what = "scores" if shaped else "correct"
        numbers = self._numbers(what, scores)
        known = None
        if numbers.dtype.kind == "f":
            known = np.isfinite(numbers)
            if known.all():
                known = None
            elif np.isinf(numbers).any():
                raise self.error(f"{what} must be finite, found {numbers[np.isinf(numbers)][0]}")
        if shaped and self.threshold is not None:
            return known, numbers >= self.threshold  # NaN is not
        right = numbers == 1
        off = ~(right | (numbers == 0))
        if known is not None:
            off &= known
        if off.any():
            raise self.error(
                f"{what} must be 0 or 1, or None for a response that cannot be scored, found {numbers[off][0]}; give a "
                "threshold from which on a response is correct, or correctness apart from the score"
            )
        return known, right

    def _numbers(self, what: str, values: Any) -> NDArray[Any]:
        """The values as an array of numbers, None as NaN."""
        try:
            numbers = np.asarray(values)
            if numbers.dtype == object and all(
                kind is type(None) or issubclass(kind, bool | int | float | np.number | np.bool_)
                for kind in set(map(type, numbers.flat))
            ):
                numbers = numbers.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            numbers = None
        if numbers is None or numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
            raise self.error(f"{what} must be one number or None a response, found {_short(values)}")
        return numbers

    def _numbered(self, ids: Any, responses: int) -> tuple[NDArray[np.intp], int]:
        """The groups as numbers from 0, and how many numbers there may be."""
        if isinstance(ids, str | bytes | Mapping):
            raise self.error(f"ids must be one group id a response, found {_short(ids)}")
        if isinstance(ids, np.ndarray):
            if ids.ndim != 1:
                raise self.error(f"ids must be one group id a response, found an array of shape {ids.shape}")
            if len(ids) == responses and responses and ids.dtype.kind in "iu":
                low, high = int(ids.min()), int(ids.max())
                if high - low < SPREAD * responses:
                    wide = ids if ids.dtype.kind == "u" else ids.astype(np.int64)
                    return (wide - wide.dtype.type(low)).astype(np.intp), high - low + 1
                _, groups = np.unique(ids, return_inverse=True)
                return groups, int(groups.max()) + 1
            ids = ids.tolist()
        number: defaultdict[Any, int] = defaultdict(itertools.count().__next__)
        try:
            ids = list(ids)
            groups = np.fromiter(map(number.__getitem__, ids), dtype=np.intp, count=len(ids))
        except TypeError:
            raise self.error("ids must be whole numbers, strings or other values that can be hashed") from None
        if len(ids) != responses:
            raise self.error(f"there must be as many ids as scores, found {len(ids)} and {responses}")
        if any(key is None or key != key for key in number):
            raise self.error("an id must not be None or NaN: each response needs the id of its group")
        return groups, len(number)


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of `GroupWeigher` as numbers for a log: the histogram as ``success_histogram/K``, one for each K."""
    numbers = {name: float(value) for name, value in metrics.items() if name != "success_histogram"}
    return numbers | {f"success_histogram/{k}": float(n) for k, n in enumerate(metrics["success_histogram"])}


def _metrics(
    advantages: NDArray[np.float64],
    groups: NDArray[np.intp],
    drawn: NDArray[np.intp],
    scorable: NDArray[np.intp],
    successes: NDArray[np.intp],
) -> dict[str, Any]:
    there = scorable > 0
    count, responses = int(np.count_nonzero(there)), int(scorable.sum())
    size = np.abs(advantages)
    by_group = np.bincount(groups, weights=size, minlength=len(drawn))
    peak = by_group.max(initial=0.0)
    share = by_group / peak if peak > 0 else by_group  # so that no square overflows or vanishes
    silent = {
        "all_wrong": np.count_nonzero(there & (successes == 0)),
        "all_right": np.count_nonzero(there & (successes == scorable)),
    }
    return {
        "success_histogram": tuple(np.bincount(successes[there], minlength=int(scorable.max(initial=0)) + 1).tolist()),
        **{name: number / max(count, 1) for name, number in silent.items()},
        "groups": count,
        "effective_groups": float(share.sum() ** 2 / (share @ share)) if peak > 0 else 0.0,
        "mean_abs_advantage": float(size.sum() / max(responses, 1)),
        "unscorable": len(advantages) - responses,
    }


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
