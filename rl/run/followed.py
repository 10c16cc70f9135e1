"""A table file that others write while a run goes on: looked at in stated steps, and kept beside the run.

A table that is taken up is copied into the run's folder, under the number of its first step. A run that goes on after
its last checkpoint takes the copies up again in the same steps, whatever the file holds by then. The file must be
replaced whole, as `weightopt advise --follow` does.
"""

from __future__ import annotations

from pathlib import Path

from rl.errors import UsageError
from rl.processes.ranks import Ranks
from rl.records.layout import TABLES
from rl.step.config import WeightingConfig
from rl.step.schedule import TableSchedule, scheduled
from weightopt.files import replace_file
from weightopt.table import TableError, WeightTable


def copy_of(output: Path, step: int) -> Path:
    """Where the table that is taken up in ``step`` is kept."""
    return output / TABLES / f"step-{step:06d}.json"


def look_steps(config: WeightingConfig, last: int) -> range:
    """The steps up to ``last`` before which the file is looked at; the first step has the run's own table."""
    assert config.follow_every is not None
    return range(1 + config.follow_every, last + 1, config.follow_every)


def restored(
    tables: TableSchedule, config: WeightingConfig, output: Path, *, step: int, group_size: int
) -> TableSchedule:
    """The schedule with the tables that were taken up until ``step``; raises TableError if a copy is damaged."""
    for number in look_steps(config, step) if config.follow is not None else ():
        if (path := copy_of(output, number)).exists():
            table = WeightTable.load(path)
            tables = tables.then(scheduled(table, number, group_size=group_size, estimate=config.estimate))
    return tables


def followed(
    tables: TableSchedule, config: WeightingConfig, output: Path, *, step: int, group_size: int, ranks: Ranks
) -> tuple[TableSchedule, str | None]:
    """The schedule from ``step`` on, and what there is to say of the file, if anything.

    All processes get what the first one reads. A file that is missing changes nothing; neither does one that is no
    table for this run, which is said.

    Raises
    ------
    OSError
        If the table cannot be kept.
    """
    if config.follow is None or step not in look_steps(config, step):
        return tables, None
    text, warning = None, None
    if ranks.leading:
        text, warning = _read(tables, config, output, step=step, group_size=group_size)
    text, warning = ranks.gather((text, warning))[0]
    if text is None:
        return tables, warning
    table = scheduled(WeightTable.from_json(text), step, group_size=group_size, estimate=config.estimate)
    return tables.then(table), None


def _read(
    tables: TableSchedule, config: WeightingConfig, output: Path, *, step: int, group_size: int
) -> tuple[str | None, str | None]:
    """Text of a table to be taken up in ``step``, kept by now; or what is wrong with the file."""
    assert config.follow is not None
    copy = copy_of(output, step)
    if copy.exists():
        return WeightTable.load(copy).to_json(), None
    if not config.follow.exists():
        return None, None
    try:
        table = WeightTable.load(config.follow)
        new = scheduled(table, step, group_size=group_size, estimate=config.estimate)
    except (TableError, UsageError) as error:
        return None, f"step {step}: weighting.follow is left as it is: {error}"
    if new.group.checksum == tables.at(step).group.checksum:
        return None, None
    copy.parent.mkdir(exist_ok=True)
    replace_file(copy, table.to_json().encode())
    return table.to_json(), None
