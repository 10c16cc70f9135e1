"""The command ``weightopt report``; nothing heavy is imported before it is called."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from weightopt.heartbeat import Heartbeat

INSTALL = "pip install 'weightopt[report]'"
MOST_RUNS = 100


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of training runs, or folders that hold some; a run may be going on."),
    ],
    output: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a sentence.")] = False,
) -> None:
    """Draw training runs into one HTML file to look at in a browser, which needs no network.

    It shows success with intervals against responses, tokens, updates and seconds, groups by number correct, weights
    and advantages, mismatch, length, throughput, sampled rollouts, tables with their certificates, and what the runs
    differ in.

    Examples:
        $ weightopt report out/run
          One run, into report.html.

        $ weightopt report out/demo/runs --output demo.html
          All runs in a folder, compared; runs that differ in their seed alone are averaged.
    """
    if find_spec("plotly") is None:
        _refuse(f"the report needs plotly, which is not installed: {INSTALL}")
    folder = output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or output.is_dir():
        _refuse(f"--output: cannot write {output}; give a file in an existing, writable folder")
    from figures.report.runs import ReportError, run_folders
    from weightopt.files import replace_file

    try:
        found = run_folders(runs)
        if len(found) > MOST_RUNS:
            _refuse(f"a page shows at most {MOST_RUNS} runs, got {len(found)}")
        from figures.report.page import write_page  # imports matplotlib, so only for runs that are there

        with Heartbeat(lambda seconds: f"weightopt: still reading {len(found)} runs after {seconds:.0f} s"):
            page = write_page(found).encode()
        replace_file(output, page)
    except ReportError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"--output: cannot write {output} ({error.strerror})")
    if as_json:
        print(json.dumps({"file": str(output), "runs": [str(each) for each in found], "bytes": len(page)}))
    else:
        names = f"{len(found)} runs" if len(found) > 1 else "1 run"
        print(f"{output}: {names}, {len(page) / 2**20:.1f} MiB, to open in a browser")


def _refuse(sentence: str) -> NoReturn:
    print(f"weightopt: {sentence}.", file=sys.stderr)
    raise typer.Exit(2)
