"""The import contracts name every module: a new one cannot slip past a rule that lists modules."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = {
    contract["name"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}
MODULES = {f"weightopt.{path.stem}" for path in (ROOT / "weightopt").glob("*.py")} | {"weightopt.commands"}
MODULES -= {"weightopt.__init__", "weightopt.__main__"}


@pytest.mark.parametrize(
    ("name", "key", "free"),
    [
        ("The table is the one door: it imports nothing of ours and nothing heavy", "forbidden_modules", {"table"}),
        ("rl and sim enter weightopt through the table only", "forbidden_modules", {"table"}),
        ("cvxpy has one host", "source_modules", {"convex"}),
        (
            "matplotlib lives in figures and in the one command that plots",
            "source_modules",
            {"plot", "cli", "commands"},
        ),
    ],
)
def test_every_module_is_named(name, key, free):
    named = {module for module in CONTRACTS[name][key] if module.startswith("weightopt.")}
    assert named == MODULES - {f"weightopt.{module}" for module in free}
