"""The import contracts name every module of a package, and every heavy guest has the host that it should have."""

import re
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


def importers(guest: str) -> set[str]:
    """Modules of ours whose text imports a library, wherever in the module that stands."""
    pattern = re.compile(rf"^\s*(?:import|from) {guest}\b", re.M)
    files = [
        file for package in ("theory", "weightopt", "sim", "rl", "figures") for file in ROOT.glob(f"{package}/**/*.py")
    ]
    found = (file.relative_to(ROOT).with_suffix("") for file in files if pattern.search(file.read_text("utf-8")))
    return {".".join(path.parts) for path in found}


@pytest.mark.parametrize(
    ("name", "guest"),
    [
        ("cvxpy has one host", "cvxpy"),
        ("matplotlib lives in figures and in the one module that plots", "matplotlib"),
    ],
)
def test_a_guest_is_imported_by_its_hosts_alone(name, guest):
    contract = CONTRACTS[name]
    assert contract["type"] == "protected"
    assert contract["protected_modules"] == [guest]
    hosts = contract["allowed_importers"]
    found = importers(guest)
    assert found
    assert all(any(module == host or module.startswith(f"{host}.") for host in hosts) for module in found), found


def test_the_layers_of_weightopt_name_every_module():
    layers = CONTRACTS["Inside weightopt"]
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    there = {
        path.stem for path in (ROOT / "weightopt").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert layers["exhaustive"] is True
    assert named == there - {"__init__"}
