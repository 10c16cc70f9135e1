"""What changes with the step: the table, and the rule for all-wrong groups.

Each is a function of the step and the configuration alone, so a resumed run needs no state for it, and none depends on
when the run ends, so a run that is prolonged keeps its past.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from rl.errors import UsageError
from rl.step.advantage import weight_function
from rl.step.config import LaterTable, WeightingConfig
from weightopt.table import TableError, WeightTable


@dataclass(frozen=True, kw_only=True)
class ScheduledTable:
    """A table and when it holds.

    Attributes
    ----------
    from_step
        The first step it holds for, ≥ 1.
    group
        For groups of ``rollout.group_size``.
    weight
        ω at any success probability in (0, 1), for estimates that are not K/M; None when K/M is all that is asked for.
    """

    from_step: int
    group: WeightTable
    weight: Callable[[np.ndarray], np.ndarray] | None


@dataclass(frozen=True, kw_only=True)
class TableSchedule:
    """The tables of a run, in the order in which they hold; the first from step 1."""

    tables: tuple[ScheduledTable, ...]

    @classmethod
    def load(
        cls,
        table: Path | None,
        later: Sequence[LaterTable],
        *,
        group_size: int,
        estimate: Literal["group", "leave-one-out"],
    ) -> Self:
        """Read the tables of a run, those of the keys ``table`` and ``later_tables``.

        Raises
        ------
        UsageError
            If none is named, or one has no weight at the success estimate that is asked for.
        weightopt.table.TableError
            If a file is bad, or is for groups of another size.
        """
        if table is None:
            raise UsageError("no weight table is given: add --set table=FILE, with a file written by weightopt table")
        files = [
            ("table", 1, table),
            *((f"later_tables.{n}.table", entry.from_step, entry.table) for n, entry in enumerate(later)),
        ]
        tables = []
        for key, from_step, file in files:
            read = WeightTable.load(file)
            try:
                tables.append(scheduled(read, from_step, group_size=group_size, estimate=estimate))
            except TableError as error:
                raise TableError(f"{key} {str(file)!r}: {error}") from error
        return cls(tables=tuple(tables))

    def then(self, table: ScheduledTable) -> Self:
        """The same with one more table, which holds from its step on until a later one does."""
        others = (each for each in self.tables if each.from_step != table.from_step)
        return type(self)(tables=tuple(sorted((*others, table), key=lambda each: each.from_step)))

    def at(self, step: int) -> ScheduledTable:
        """The table that holds at ``step`` ≥ 1."""
        return self.tables[bisect_right([table.from_step for table in self.tables], step) - 1]

    @property
    def name(self) -> str:
        """What to call the run on the screen: the tables' names, in order."""
        return " → ".join(table.group.name for table in self.tables)

    def doubts(self, *, dynamic_sampling: bool) -> tuple[str, ...]:
        """A sentence for each table that was solved for another loop than this run's; named tables say nothing."""
        return tuple(
            f"table {each.group.label!r} {doubt}"
            for each in self.tables
            if (doubt := each.group.doubt(refilled=dynamic_sampling))
        )

    def describe(self) -> dict[str, Any]:
        """Names and checksums for ``run.json``: by them a resumed run knows its tables again."""
        first, *later = ({"name": each.group.name, "checksum": each.group.checksum} for each in self.tables)
        return {"table": first, "later_tables": later}


def scheduled(
    table: WeightTable, from_step: int, *, group_size: int, estimate: Literal["group", "leave-one-out"]
) -> ScheduledTable:
    """A table as it holds from a step on; raises as `TableSchedule.load`."""
    weight = None if estimate == "group" else weight_function(table)
    return ScheduledTable(from_step=from_step, group=table.for_group(group_size), weight=weight)


def all_wrong_factor(config: WeightingConfig, step: int) -> float:
    """What the table's advantage of all-wrong groups is multiplied by at ``step`` ≥ 1, in [0, 1]."""
    after, full_at = config.all_wrong_after, config.all_wrong_full_at
    match config.all_wrong:
        case "table":
            return 1.0
        case "off":
            return 0.0
        case "hold":
            assert after is not None
            return float(step > after)
        case "ramp":
            assert after is not None
            assert full_at is not None
            return min(max((step - after) / (full_at - after), 0.0), 1.0)
