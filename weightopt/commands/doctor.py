"""``weightopt doctor``: whether the trainers of others will train with a table, and what their settings do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weightopt.commands.options import AsJson
from weightopt.commands.output import print_json, print_table, refuse

MARKS = {"refuse": "change", "warn": "mind", "note": "note"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="The configuration of a run: for TRL a YAML, JSON or Python file with the fields of GRPOConfig or "
            "RLOOConfig; for verl the composed YAML (--cfg job --resolve)."
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Whose configuration it is, where the file does not show it.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="The table it is to train with.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say which trainers take a table here, and what a configuration does to it.

    Lists the trainers that are installed, their versions beside those that are tested, and whether they find our part.
    With a configuration, names every setting that changes what a table means, with the line to write instead. Exit
    status 1 if the weight would not be the table's.
    """
    from weightopt.adapters.doctor import report
    from weightopt.adapters.weigher import AdapterError
    from weightopt.table import WeightTable

    if config is None and (host is not None or table is not None):
        refuse("--host and --table are about a configuration: name its file")
    try:
        found = report(config, host, None if table is None else WeightTable.load(table))
    except AdapterError as error:
        refuse(str(error))
    if as_json:
        print_json(found)
    else:
        _print(found)
    return int(found.get("refused", False))


def _print(found: dict[str, Any]) -> None:
    rows = [
        (each["name"], each["version"] or "-", ", ".join(each["tested"] or each["written_for"]) or "-", _state(each))
        for each in found["hosts"]
    ]
    print_table(None, ("trainer", "installed", "tested", "state"), rows)
    if "config" not in found:
        return
    host = next(each["name"] for each in found["hosts"] if each["host"] == found["host"])
    if not found["findings"]:
        print(f"{found['config']} ({host}): no setting changes what a table means")
        return
    print(f"{found['config']} ({host}):")
    for each in found["findings"]:
        print(f"  {MARKS[each['severity']]}: {each['setting']}={each['value']!r} {each['meaning']}")
        print(f"    write {each['instead']}")


def _state(host: dict[str, Any]) -> str:
    return host["state"] if host["why"] is None else f"{host['state']}; {host['why']}"
