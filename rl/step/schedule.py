"""What changes with the step: the table, and the rule for all-wrong groups.

Each is a function of the step and the configuration alone, so a resumed run needs no state for it, and none depends on
when the run ends, so a run that is prolonged keeps its past.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rl.errors import UsageError
from rl.step.config import LaterTable, WeightingConfig
from weightopt.table import TableError, WeightTable


@dataclass(frozen=True, kw_only=True)
class TableSchedule:
    """The tables of a run, for groups of ``rollout.group_size``, by the first step that each holds for: one by 1."""

    tables: Mapping[int, WeightTable]

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
            raise UsageError("no weight table is given: add --table FILE, made by weightopt solve, advise or table")
        files = {1: ("table", table)}
        files |= {entry.from_step: (f"later_tables.{n}.table", entry.table) for n, entry in enumerate(later)}
        tables = {}
        for from_step, (key, file) in files.items():
            read = WeightTable.load(file)
            try:
                tables[from_step] = read.for_group(group_size)
            except TableError as error:
                raise TableError(f"{key} {str(file)!r}: {error}") from error
        return cls(tables=tables)

    def then(self, from_step: int, table: WeightTable) -> Self:
        """The same with one more table, which holds from its step on until a later one does."""
        return type(self)(tables=dict(sorted({**self.tables, from_step: table}.items())))

    def at(self, step: int) -> WeightTable:
        """The table that holds at ``step`` ≥ 1."""
        return self.tables[max(first for first in self.tables if first <= step)]

    @property
    def name(self) -> str:
        """What to call the run on the screen: the tables' names, in order."""
        return " → ".join(table.name for table in self.tables.values())

    def doubts(self, *, dynamic_sampling: bool) -> tuple[str, ...]:
        """A sentence for each table that was solved for another loop than this run's; named tables say nothing."""
        said = ((table.label, table.doubt(refilled=dynamic_sampling)) for table in self.tables.values())
        return tuple(f"table {label!r} {doubt}" for label, doubt in said if doubt)

    def describe(self) -> dict[str, Any]:
        """Names and checksums for ``run.json``: by them a resumed run knows its tables again."""
        first, *later = ({"name": table.name, "checksum": table.checksum} for table in self.tables.values())
        return {"table": first, "later_tables": later}


def all_wrong_factor(config: WeightingConfig, step: int) -> float:
    """What the table's advantage of all-wrong groups is multiplied by at ``step`` ≥ 1, in [0, 1]."""
    if config.all_wrong in ("table", "off"):
        return float(config.all_wrong == "table")
    after = config.all_wrong_after or 0
    full_at = config.all_wrong_full_at or after + 1
    return min(max((step - after) / (full_at - after), 0.0), 1.0)
