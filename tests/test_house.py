"""The picture of the house is that of today's imports, and CONTRIBUTING names files that exist."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
HOUSE = runpy.run_path(str(ROOT / "docs" / "house.py"))


def test_the_picture_is_that_of_the_imports():
    drawn = (ROOT / "docs" / "house.svg").read_text(encoding="utf-8")
    assert HOUSE["drawn_house"]() == drawn, "docs/house.svg is out of date: run .venv/bin/python docs/house.py"


def test_every_room_of_the_picture_has_a_module():
    graph = HOUSE["rooms_and_arrows"]()
    assert set(graph.nodes) == set(HOUSE["ROOMS"]), "docs/house.py names a room that no module is in"


def test_a_module_without_a_room_is_named():
    with pytest.raises(SystemExit, match=r"no room for rl\.attic"):
        HOUSE["room_of"]("rl.attic")


def test_contributing_names_files_that_exist():
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|toml|svg|txt|in))`", CONTRIBUTING))
    named |= {name.rstrip("/") for name in re.findall(r"`([\w.-]+/[\w./-]*)`", CONTRIBUTING) if ".venv" not in name}
    assert len(named) > 20
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"CONTRIBUTING.md names what is not there: {missing}"
