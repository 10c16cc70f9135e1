"""A table file that others write while a run goes on: looked at in stated steps, and kept beside the run.

A table that is taken up is copied into the run's folder, under the number of its first step. A run that goes on after
its last checkpoint takes the copies up again in the same steps, whatever the file holds by then. The file must be
replaced whole, as `weightopt advise --follow` does.
"""

from pathlib import Path

from rl.config import Config
from rl.processes.ranks import Ranks
from rl.records.layout import TABLES
from rl.step.config import WeightingConfig
from rl.step.schedule import TableSchedule
from weightopt.files import replace_file
from weightopt.table import TableError, WeightTable


def copy_of(output: Path, step: int) -> Path:
    """Where the table that is taken up in ``step`` is kept."""
    return output / TABLES / f"step-{step:06d}.json"


def look_steps(config: WeightingConfig, last: int) -> range:
    """The steps up to ``last`` before which the file is looked at; the first step has the run's own table."""
    assert config.follow_every is not None
    return range(1 + config.follow_every, last + 1, config.follow_every)


def restored(tables: TableSchedule, config: Config, output: Path, *, step: int) -> TableSchedule:
    """The schedule with the tables that were taken up until ``step``; raises TableError if a copy is damaged."""
    for number in look_steps(config.weighting, step) if config.weighting.follow is not None else ():
        if (path := copy_of(output, number)).exists():
            tables = tables.then(number, WeightTable.load(path).for_group(config.rollout.group_size))
    return tables


def followed(
    tables: TableSchedule, config: Config, output: Path, *, step: int, ranks: Ranks
) -> tuple[TableSchedule, str | None]:
    """The schedule from ``step`` on, and what there is to say of the file, if anything.

    All processes get what the first one reads. A file that is missing changes nothing; neither does one that is no
    table for this run, which is said.

    Raises
    ------
    OSError
        If the table cannot be kept.
    """
    file, size = config.weighting.follow, config.rollout.group_size
    if file is None or step not in look_steps(config.weighting, step):
        return tables, None
    told = _read(tables, file, copy_of(output, step), step=step, size=size) if ranks.leading else (None, None)
    text, warning = ranks.gather(told)[0]
    return tables if text is None else tables.then(step, WeightTable.from_json(text).for_group(size)), warning


def _read(tables: TableSchedule, file: Path, copy: Path, *, step: int, size: int) -> tuple[str | None, str | None]:
    """Text of a table to be taken up in ``step``, kept by now; or what is wrong with the file."""
    if copy.exists():
        return WeightTable.load(copy).to_json(), None
    if not file.exists():
        return None, None
    try:
        table = WeightTable.load(file)
        new = table.for_group(size)
    except TableError as error:
        return None, f"step {step}: weighting.follow is left as it is: {error}"
    if new.checksum == tables.at(step).checksum:
        return None, None
    copy.parent.mkdir(exist_ok=True)
    replace_file(copy, table.to_json().encode())
    return table.to_json(), None
