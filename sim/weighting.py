"""What a simulation takes its weights from: a weight table's file, or a name of the catalogue, tabulated.

A finite group knows the table only: advantages are looked up at K, never computed again from a formula. The curve
behind a table exists for the large-group limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.errors import UsageError
from theory import catalogue
from theory.finite_group import StepModel, speed
from theory.quadrature import integrate
from theory.weighting import Weighting
from weightopt.table import TableError, WeightTable, group_table

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class PromptWeights:
    """Advantages for groups of M responses, and the curve they come from if there is one.

    Parameters
    ----------
    name
        The name of the catalogue, or the path of the file.
    label
        How people read it.
    correct, wrong
        Shape (M+1,). Advantage of a correct and of a wrong response by the number correct.
    curve
        ω(ρ); None for what exists for groups only.
    kinks
        Where the curve is not smooth.
    draw_again
        Whether the method draws uniform groups again until they are mixed (DAPO).
    checksum
        Of the group table.
    """

    name: str
    label: str
    correct: NDArray[np.float64]
    wrong: NDArray[np.float64]
    curve: Curve | None
    kinks: tuple[float, ...]
    draw_again: bool
    checksum: str

    @property
    def group_size(self) -> int:
        """M."""
        return self.correct.size - 1

    def times(self, factor: float) -> PromptWeights:
        """The same weights in another unit: all advantages and the curve times `factor`."""
        curve = self.curve
        return dataclasses.replace(
            self,
            correct=self.correct * factor,
            wrong=self.wrong * factor,
            curve=None if curve is None else lambda rho: factor * curve(rho),
        )

    def with_all_wrong(self, factor: float) -> PromptWeights:
        """The same weights with the push on all-wrong groups times `factor`, as during a warm-up."""
        wrong = self.wrong.copy()
        wrong[0] *= factor
        return dataclasses.replace(self, wrong=wrong)

    def drift_budget(self, start: float, target: float, step_model: StepModel) -> float:
        """∫ u dρ from `start` to `target`, u the expected log-odds speed of a group: what `weightopt solve` budgets."""
        return integrate(lambda rho: _speed(rho, self.correct, self.wrong, step_model), start, target)


def read(text: str, group_size: int, all_wrong: float | None = None) -> PromptWeights:
    """The weights that a table file or a name of the catalogue stands for.

    Parameters
    ----------
    text
        A path that ends in ``.json`` or exists, else a name that `weightopt list` prints.
    group_size
        M, from 2 to 65536.
    all_wrong
        Advantage in all-wrong groups instead of the table's own.

    Raises
    ------
    UsageError
        With one sentence if there is no such file or name, or it does not fit groups of M.
    """
    try:
        if text.endswith(".json") or Path(text).is_file():
            loaded = WeightTable.load(text)
            curve: Curve | None = loaded if loaded.group_size is None else None
            table, kinks, again = loaded.for_group(group_size), loaded.rho if curve else (), False
        else:
            table, curve, kinks, again = _named(text, group_size, all_wrong)
        if all_wrong is not None:
            assert table.advantage_wrong is not None
            wrong = (float(all_wrong), *table.advantage_wrong[1:])
            table = dataclasses.replace(table, all_wrong_advantage=float(all_wrong), advantage_wrong=wrong)
    except TableError as error:
        raise UsageError(f"weighting {text!r}: {str(error).rstrip('.')}") from None
    return PromptWeights(
        text,
        table.label,
        np.array(table.advantage_correct),
        np.array(table.advantage_wrong),
        curve,
        tuple(kinks),
        again,
        table.checksum,
    )


def _named(
    text: str, group_size: int, all_wrong: float | None
) -> tuple[WeightTable, Curve | None, tuple[float, ...], bool]:
    """Table, curve and kinks of a name of the catalogue, and whether uniform groups are drawn again."""
    try:
        member = catalogue.parse(text)
        if isinstance(member, Weighting):
            weighting = member
            factor = weighting.group_factor(group_size)
            rule = weighting.all_wrong_advantage if all_wrong is None else all_wrong
            if not (math.isfinite(rule) and math.isfinite(weighting.all_right_advantage)):
                raise UsageError(
                    f"weighting {text!r} has no finite advantage in uniform groups: state all_wrong, or tabulate it "
                    "with `weightopt table --all-wrong --all-right` and give the file"
                )
            table = group_table(
                lambda rho: factor * weighting(rho),
                group_size,
                name=weighting.name,
                label=member.label,
                all_wrong_advantage=rule,
                all_right_advantage=weighting.all_right_advantage,
            )
            return table, weighting, weighting.kinks, weighting.draws_again
        correct, wrong = member(group_size)
    except UsageError:
        raise
    except TableError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    table = WeightTable(
        name=member.name,
        label=member.label,
        group_size=group_size,
        rho=tuple((np.arange(1, group_size) / group_size).tolist()),
        weight=tuple((correct - wrong)[1:-1].tolist()),
        all_wrong_advantage=float(wrong[0]),
        all_right_advantage=float(correct[-1]),
        advantage_correct=tuple(correct.tolist()),
        advantage_wrong=tuple(wrong.tolist()),
    )
    return table, None, (), False


def _speed(
    rho: NDArray[np.float64], correct: NDArray[np.float64], wrong: NDArray[np.float64], step_model: StepModel
) -> NDArray[np.float64]:
    """`theory.finite_group.speed` for ρ of any shape."""
    return speed(rho.ravel(), correct, wrong, step_model).reshape(rho.shape)
