"""``weightopt table``, ``list``, ``show`` and ``check``: tables of named weightings, and table files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from weightopt.commands.options import AllRight, AllWrong, AsJson, Csv, GroupSize, Output
from weightopt.commands.output import check_folders, describe, fail, print_json, print_weights, refuse, write


def table(
    weighting: Annotated[
        str, typer.Option(help="A name that `weightopt list` prints, with other parameters if it has any.")
    ],
    group_size: GroupSize = None,
    all_wrong: AllWrong = None,
    all_right: AllRight = None,
    budget: Annotated[
        float | None, typer.Option(help="Scale the weighting so that ∫ω dρ from --start to --target is this.")
    ] = None,
    start: Annotated[float | None, typer.Option(help="With --budget: where the integral starts.")] = None,
    target: Annotated[float | None, typer.Option(help="With --budget: where the integral ends.")] = None,
    output: Output = None,
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Tabulate a named weighting, for instance as a baseline."""
    from theory import catalogue
    from theory.weighting import GroupScheme
    from weightopt.catalogue_tables import budget_scale, catalogue_table

    check_folders(output=output, csv=csv)
    try:
        named = catalogue.parse(weighting)
    except ValueError as error:
        refuse(f"--weighting: {error}")
    scale = 1.0
    if budget is not None and start is not None and target is not None:
        # The budget of a rule for groups is that of the curve it tends to.
        curve = named.limit if isinstance(named, GroupScheme) else named
        scale = budget_scale(curve, start, target, budget)
    elif not (budget is None and start is None and target is None):
        refuse("--budget, --start and --target must be given together: the budget is an integral between the two")
    result = catalogue_table(named, group_size, all_wrong, all_right, scale)
    write(result, output, csv)
    if as_json:
        print(result.to_json(), end="")
    else:
        describe(result)
        print_weights(result)


def list_weightings(as_json: AsJson = False) -> None:
    """List the catalogue of weightings: formula, rule for all-wrong groups, elasticity, source."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from theory import catalogue

    rows = [catalogue.describe(member) for member in catalogue.EVERYTHING.values()]
    if as_json:
        print_json({"weightings": rows})
        return
    listing = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "weight ω(ρ), or advantages", "all-wrong group", "elasticity", "source"):
        listing.add_column(column, overflow="fold")
    for row in rows:
        listing.add_row(row["name"], row["formula"], row["all_wrong"], row["elasticity"], row["source"])
    Console().print(listing)
    at = ", ".join(f"{rho:g}" for rho in catalogue.ELASTIC_AT)
    print(
        f"Elasticity: d ln φ/d ln ρ at ρ = {at} in groups of {catalogue.ELASTIC_GROUP}, φ = ρu(ρ): the lower, the "
        "longer rare kinds of prompts stay; above 1 the successful drive them out"
    )
    families = ", ".join(f"{family.name}:{family.parameters}" for family in catalogue.FAMILIES.values())
    print(f"Parameters may be changed: {families}")


def show(
    file: Annotated[Path, typer.Argument(help="A table file.")],
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Print a table file."""
    from weightopt.table import WeightTable

    result = WeightTable.load(file)
    write(result, None, csv)
    if as_json:
        print(result.to_json(), end="")
    else:
        describe(result)
        print_weights(result)


def check(
    file: Annotated[Path, typer.Argument(help="A table file, or the folder of a training run.")],
    as_json: AsJson = False,
) -> None:
    """Verify a table file (checksum, shapes, every number, certificate) or the checksums of a run's folder.

    Exit status 1 if anything is off.
    """
    if os.path.isdir(file):  # of a name too long, too
        sentence, fine = _check_folder(file)
    else:
        from weightopt.table import TableError, WeightTable
        from weightopt.verify import verify

        try:
            sentence, fine = verify(WeightTable.load(file)), True
        except TableError as error:
            sentence, fine = str(error).removeprefix(f"{file}: "), False
            sentence = sentence.replace("the path of a table file", "a table file or the folder of a training run")
    if as_json:
        print_json({"file": str(file), "ok": fine, "message": sentence})
    elif fine:
        print(f"{file}: fine: {sentence}")
    else:
        named = f"'{file}" in sentence
        fail(sentence if named else f"{file}: {sentence}", 1)
    if not fine:
        raise typer.Exit(1)


def _check_folder(folder: Path) -> tuple[str, bool]:
    """What the part that writes folders says of one: a sentence, and whether it is as it was left."""
    import importlib.metadata  # takes as long as all commands together, and help does without

    found = list(importlib.metadata.entry_points(group="weightopt.checks", name="folder"))
    if not found:
        refuse(f"{folder} is a folder, and nothing that checks one is installed; install the project again")
    try:
        check_folder = found[0].load()
    except (ImportError, AttributeError) as error:
        refuse(f"{folder} is a folder, and what checks one cannot be loaded ({error}); install the project again")
    return check_folder(folder)
