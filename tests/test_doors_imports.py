"""What each door drags in, seen from a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("cvxpy", "scipy", "torch", "pandas", "matplotlib", "typer", "rich", "transformers")


def loaded_after(code: str, *arguments: str) -> set[str]:
    """Top-level modules in `sys.modules` of a new interpreter that has run `code`."""
    report = "; import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + report, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("weightopt.table", HEAVY),
        ("weightopt.adapters", (*HEAVY, "theory")),
        ("weightopt.adapters.doctor", (*HEAVY, "theory", "trl", "yaml")),
        ("weightopt.cli", ("cvxpy", "matplotlib", "torch", "scipy", "pandas", "transformers")),
        ("weightopt.catalogue_tables", ("cvxpy", "matplotlib", "torch", "pandas", "typer")),
        ("theory.dynamics", ("cvxpy", "matplotlib", "torch", "pandas", "typer", "weightopt")),
    ],
)
def test_a_door_stays_light(module, absent):
    loaded = loaded_after(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert loaded.isdisjoint(absent)


def test_reading_and_using_a_table_stays_light(tmp_path):
    from theory import catalogue
    from weightopt.catalogue_tables import named_table

    path = tmp_path / "table.json"
    named_table(catalogue.WEIGHTINGS["sqrt-r"]).save(path)
    code = "import sys; from weightopt.table import WeightTable; WeightTable.load(sys.argv[1]).for_group(8).to_csv()"
    assert loaded_after(code, str(path)).isdisjoint({*HEAVY, "theory"})


@pytest.mark.slow
def test_tabulating_from_the_command_line_needs_no_heavy_guest():
    code = (
        "import sys; sys.argv = ['weightopt', 'table', '--weighting', 'grpo', '--group-size', '4', '--json']\n"
        "from weightopt.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "pass"
    )
    assert loaded_after(code).isdisjoint({"cvxpy", "matplotlib", "torch", "transformers", "pandas"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status", "absent"),
    [
        (["check"], 1, {"torch", "transformers", "numpy"}),
        (["report"], 2, {"matplotlib"}),
        (["train", "--config", "demo", "--output", "run", "--table"], 2, {"torch", "transformers"}),
    ],
)
def test_what_is_no_run_or_table_is_refused_before_anything_heavy_is_loaded(command, status, absent, tmp_path):
    code = (
        f"import sys; sys.argv = ['weightopt', *{command!r}, {str(tmp_path)!r}]\n"
        "from weightopt.cli import main\n"
        f"try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == {status}\n"
        "pass"
    )
    assert loaded_after(code).isdisjoint(absent)
