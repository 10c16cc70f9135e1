"""What changes with the step: the table, and the rule for all-wrong groups.

Each is a function of the step and the configuration alone, so a resumed run needs no state for it, and none depends on
when the run ends, so a run that is prolonged keeps its past.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rl.errors import UsageError
from rl.step.config import LaterTable, WeightingConfig
from weightopt.table import TableError, WeightTable


@dataclass(frozen=True, kw_only=True)
class ScheduledTable:
    """A table for groups of ``rollout.group_size``, and the first step it holds for, ≥ 1."""

    from_step: int
    group: WeightTable


@dataclass(frozen=True, kw_only=True)
class TableSchedule:
    """The tables of a run, in the order in which they hold; the first from step 1."""

    tables: tuple[ScheduledTable, ...]

    @classmethod
    def load(cls, table: Path | None, later: Sequence[LaterTable], *, group_size: int) -> Self:
        """Read the tables of a run, those of the keys ``table`` and ``later_tables``.

        Raises
        ------
        UsageError
            If none is named.
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
                tables.append(ScheduledTable(from_step=from_step, group=read.for_group(group_size)))
            except TableError as error:
                raise TableError(f"{key} {str(file)!r}: {error}") from error
        return cls(tables=tuple(tables))

    def then(self, from_step: int, group: WeightTable) -> Self:
        """The same with one more table, which holds from its step on until a later one does."""
        others = (each for each in self.tables if each.from_step != from_step)
        table = ScheduledTable(from_step=from_step, group=group)
        return type(self)(tables=tuple(sorted((*others, table), key=lambda each: each.from_step)))

    def at(self, step: int) -> WeightTable:
        """The table that holds at ``step`` ≥ 1."""
        return self.tables[bisect_right([table.from_step for table in self.tables], step) - 1].group

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
