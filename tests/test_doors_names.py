"""The six general package names are ours, not someone else's from the environment."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["demo", "figures", "rl", "sim", "theory", "weightopt"])
def test_the_name_comes_from_this_repository(name):
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", ["demo", "figures", "rl", "sim", "theory", "weightopt"])
def test_a_package_says_it_is_typed_and_its_init_is_documented(name):
    assert (ROOT / name / "py.typed").is_file()
    source = (ROOT / name / "__init__.py").read_text(encoding="utf-8").strip()
    assert source.startswith('"""')
    if name != "weightopt":  # the front door, which hands out eight names; see test_weightopt_front_door.py
        assert source.endswith('"""')
        assert source.count('"""') == 2
