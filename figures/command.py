"""The command ``weightopt figures``: draw figures by name into a folder.

Only the standard library and typer are imported here, so that the command line starts fast.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

NAMES = ("weights", "trajectories", "relative-cost", "training")


def figures(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(NAMES)}.  [default: all]")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the PNG and CSV files.")] = Path("out/figures"),
    runs: Annotated[Path, typer.Option(help="Training runs for the figure 'training': TABLE/SEED folders.")] = Path(
        "out/demo/runs"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the files written as one JSON document.")] = False,
) -> None:
    """Draw figures: a PNG and the plotted numbers as CSV each, byte-identical when repeated."""
    wanted = names or list(NAMES)
    for name in wanted:
        if name not in NAMES:
            _refuse(f"unknown figure {name!r}; choose one of {', '.join(NAMES)}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _refuse(f"--output: cannot make the folder {output} ({error.strerror})")
    written: dict[str, list[str]] = {}
    for name in wanted:
        try:
            png, csv = _draw(name, output, runs)
        except FileNotFoundError as error:
            if names:
                _refuse(f"figure 'training': {error}; run `make demo` first or name a folder with --runs")
            print(f"{name}: left out, {error}; `make demo` makes some", file=sys.stderr)
            continue
        except (OSError, ValueError) as error:
            _refuse(f"figure {name!r}: {error}")
        written[name] = [str(png), str(csv)]
        if not as_json:
            print(f"{png}\n{csv}")
    if as_json:
        print(json.dumps(written))


def _draw(name: str, output: Path, runs: Path) -> tuple[Path, Path]:
    import importlib

    from figures.output import write

    module = importlib.import_module(f"figures.{name.replace('-', '_')}")
    frame = module.data(runs) if name == "training" else module.data()
    return write(output, name, module.draw(frame), frame)


def _refuse(sentence: str) -> NoReturn:
    print(f"weightopt: {sentence}.", file=sys.stderr)
    raise typer.Exit(2)
